"""The concepts of an image that is not in the store, which its run's model looks at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..queries.concepts import Effects
from ..schema.errors import ExtraMissing, LensbaseError, WeightsNotFound
from .candidates import Pool
from .concepts import concepts
from .neuron_codes import CodeQuestion
from .open_run import OpenRun
from .result import Result
from .run_neurons import Layers

if TYPE_CHECKING:
    from ..ingest.models import LoadedModel

_NEEDS_NONE = "Images of the run need no model: clip.image(...).concepts()."


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
    question = CodeQuestion.of(run, pool, m=m, center=center)
    layers = run.neurons.layers(layer)
    threshold = run.neurons.threshold
    model = _model(run)
    from ..ingest.one_image import neuron_numbers

    group = run.layout.arrays(run.row["folder"])
    found = neuron_numbers(model, image, group=group, shape=run.shape, layers=layers)
    # As the run holds them: a norm that rounds to a neuron's threshold does so in both.
    kept = np.dtype(run.shape.storage)
    effects = {
        one: Effects(
            norms.astype(kept), coefficients.astype(kept), threshold[run.neurons.place(one)]
        )
        for one, (norms, coefficients) in found.items()
    }
    return concepts(question, effects, k, signed=signed)


def _model(run: OpenRun) -> LoadedModel:
    try:
        return run.texts.model()
    except ImportError as error:
        msg = (
            f"an image that is in no store needs the model of run {run.name!r}, and "
            f"{error.name or 'torch'} is not installed: `pip install lensbase[ingest]` brings it. "
            f"{_NEEDS_NONE}"
        )
        raise ExtraMissing(msg) from error
    except LensbaseError as error:
        msg = (
            f"the model of run {run.name!r} cannot be loaded to look at the image ({error}). "
            f"{_NEEDS_NONE}"
        )
        raise WeightsNotFound(msg) from error
