"""What an image shows, in the words of its active neurons (thesis, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..queries.concepts import Effects, active_neurons
from ..queries.text_votes import TextCodes, Votes, count_votes, top_texts
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
    votes: Votes | None = None
    active = 0
    for layer, one in effects.items():
        if not np.isfinite(one.norms).all():
            msg = f"the neurons of layer {layer} hold no numbers for this image: it was rejected."
            raise BadSelection(msg)
        which = active_neurons(one.norms, one.thresholds)
        weights = (one.coefficients if signed else one.norms)[which]
        codes: TextCodes = question.codes(layer)
        more = count_votes(which, weights, codes)
        active += len(which)
        votes = (
            more
            if votes is None
            else Votes(votes.scores + more.scores, votes.neurons + more.neurons)
        )
    assert votes is not None
    best = top_texts(votes, k)
    columns = {
        "rank": np.arange(1, len(best.texts) + 1),
        "text": question.candidates.texts_at(best.texts.tolist()),
        "score": best.scores,
        "neurons": best.neurons,
    }
    of = counted(active, "active neuron")
    return Result.of(columns, note=f"by {of} of {layers_named(list(effects))}, {question.note}")
