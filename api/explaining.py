"""The concepts of an image that is not in the store, which its run's model looks at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..queries.concepts import Effects
from .candidates import Pool
from .concepts import concepts
from .neuron_codes import CodeQuestion
from .open_run import OpenRun
from .result import Result
from .run_model import run_model
from .run_neurons import Layers
from .whole_numbers import whole


def explain(
    run: OpenRun,
    image: Any,
    *,
    layer: Layers = None,
    pool: Pool = None,
    k: int = 10,
    m: int = 16,
    center: bool = False,
    signed: bool = True,
) -> Result:
    """What an image shows; see `RunView.explain`."""
    k = whole(k, "k", least=0, of="texts")
    question = CodeQuestion.of(run, pool, m=m, center=center)
    layers = run.neurons.layers(layer)
    threshold = run.neurons.threshold
    from ..ingest.images import opened

    # What needs no model is refused before one is loaded.
    picture = opened(image)
    model = run_model(
        run,
        to="to look at an image that is in no store",
        otherwise="Images of the run need no model: `lensbase image concepts`.",
    )
    from ..ingest.one_image import neuron_numbers

    group = run.layout.arrays(run.row["folder"])
    found = neuron_numbers(model, picture, group=group, shape=run.shape, layers=layers)
    # As the run holds them: a norm that rounds to a neuron's threshold does so in both.
    kept = np.dtype(run.shape.storage)
    effects = {
        one: Effects(
            norms.astype(kept), coefficients.astype(kept), threshold[run.neurons.place(one)]
        )
        for one, (norms, coefficients) in found.items()
    }
    return concepts(question, effects, k, signed=signed)
