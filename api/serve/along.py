"""Images along several of a head's texts at once: its values are read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...queries.retrieval import Ranking, fold, head_scores, top_k
from ..result import Result
from ..run import RunView
from .kept import inside

_BLOCK = 8192


def images_along(run: RunView, head: str, texts: Sequence[str], *, k: int) -> list[Result]:
    """For each text what `HeadView.top_images(text, k=k)` gives, less its note.

    Raises `TextNotStored`, `HeadNotStored` or `BadAddress`.
    """
    opened = inside(run)
    kept = opened.head(head)
    queries = fold(opened.basis(kept), opened.texts.encode(texts))
    rows = opened.images.select().rows
    best = [Ranking(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in texts]
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        values = opened.arrays["head_value"].read(block, kept.place, kept.address.head)
        scores = head_scores(values, opened.arrays["scale"].read(block), queries)
        best = [
            _merged(found, top_k(scores[:, place], k, rows=block), k)
            for place, found in enumerate(best)
        ]
    ids = [opened.images.ids(found.rows) for found in best]
    known = _described(run, np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64))
    return [
        Result.of(
            {
                "rank": np.arange(1, len(own) + 1),
                "image_id": own,
                "key": [known[one][0] for one in own.tolist()],
                "label": [known[one][1] for one in own.tolist()],
                "score": found.scores,
            }
        )
        for own, found in zip(ids, best, strict=True)
    ]


def _merged(one: Ranking, other: Ranking, k: int) -> Ranking:
    scores = np.concatenate([one.scores, other.scores])
    return top_k(scores, k, rows=np.concatenate([one.rows, other.rows]))


def _described(run: RunView, image_ids: npt.NDArray[np.int64]) -> dict[int, tuple[str, str | None]]:
    found = Result.of(inside(run).images.described(image_ids))
    return {row["image_id"]: (row["key"], row["label"]) for row in found}
