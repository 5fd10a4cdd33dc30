"""The concepts of an image that is not in the store, which its run's model looks at once."""

from __future__ import annotations

from typing import Any

from ..queries.concepts import Effects
from .candidates import Pool
from .concepts import concepts
from .neuron_codes import CodeQuestion
from .open_run import OpenRun
from .result import Result
from .run_neurons import Layers


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
    model = run.texts.model()
    from ..ingest.one_image import neuron_numbers

    group = run.layout.arrays(run.row["folder"])
    found = neuron_numbers(model, image, group=group, shape=run.shape, layers=layers)
    effects = {
        one: Effects(norms, coefficients, threshold[run.neurons.place(one)])
        for one, (norms, coefficients) in found.items()
    }
    return concepts(question, effects, k, signed=signed)
