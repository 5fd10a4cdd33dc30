"""Second-order effects of a layer's neurons added up, with or without the norms' constants."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from .neuron_changes import one_layer
from .open_run import OpenRun
from .selection import Images
from .values import Values
from .where import Where

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

Bias: TypeAlias = Literal["shared"]
"""What is done with the norms' means and biases, which phi leaves out: split among neurons."""


def neuron_sum(
    run: OpenRun, layer: int, images: Images = None, *, where: Where = None, bias: Bias | None
) -> Values:
    """The sum of all effects of a layer's neurons [k, d']; see `RunView.neuron_sum`."""
    shared = is_shared(bias)
    layer = one_layer(run, layer)
    place = run.neurons.place(layer)
    chosen = run.images.select(images, where)
    found = run.neurons.array("neuron_sum").read(chosen.rows, place).astype(np.float32)
    if shared:
        found += run.neurons.count * constant_share(run, place, chosen.rows)
    return Values(found, image_ids=chosen.image_ids, thumbnails=run.thumbnails_of)


def is_shared(bias: Bias | None) -> bool:
    """Whether neurons get their share of the constants; raises `BadQuestion`."""
    given: Any = bias
    if given is not None and (not isinstance(given, str) or given not in get_args(Bias)):
        msg = (
            f"bias={bias!r} says nothing of the norms' constants: 'shared' adds a neuron's equal "
            "share of them, None leaves them out."
        )
        raise BadQuestion(msg)
    return given is not None


def constant_share(run: OpenRun, place: int, rows: Rows) -> F32:
    """One neuron's share of the norms' constants at some rows [k, d'], equal in all of a layer."""
    return run.neurons.array("neuron_bias").read(rows, place).astype(np.float32)
