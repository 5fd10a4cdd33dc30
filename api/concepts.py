"""What an image shows, in the words of its active neurons (thesis, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..queries.concepts import Effects, image_concepts
from ..schema.errors import BadSelection
from .neuron_codes import CodeQuestion
from .printing import counted, layers_named
from .result import Result
from .whole_numbers import whole


def concepts(
    question: CodeQuestion, effects: Mapping[int, Effects], k: int, *, signed: bool
) -> Result:
    """The `k` texts of largest image-contribution score; see `ImageView.concepts`.

    `effects` are the neurons' [N] in one image, by layer.
    """
    k = whole(k, "k", least=0, of="texts")
    if not all(np.isfinite(one.norms).all() for one in effects.values()):
        msg = "the neurons hold no numbers for this image: it was rejected, or is not there yet."
        raise BadSelection(msg)
    codes = [question.codes(layer) for layer in effects]
    found = image_concepts(list(effects.values()), codes, k, signed=signed)
    columns = {
        "rank": np.arange(1, len(found.texts.texts) + 1),
        "text": question.candidates.texts_at(found.texts.texts.tolist()),
        "score": found.texts.scores,
        "neurons": found.texts.neurons,
    }
    active = counted(sum(map(len, found.active)), "active neuron")
    return Result.of(columns, note=f"by {active} of {layers_named(list(effects))}, {question.note}")
