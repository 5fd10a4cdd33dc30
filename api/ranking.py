"""Images in order of a score, found block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.retrieval import Ranking, direction_scores, top_k
from .open_run import OpenRun
from .result import Result
from .selection import Selection
from .whole_numbers import whole

Rows = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

_BLOCK = 8192
_CACHED = 512  # whole representations whose float64 copies stay in the processor's cache


def best_images(chosen: Selection, k: int, score: Callable[[Rows], F32]) -> Ranking:
    """The k best of chosen images; holds one block's values and k scores, never all.

    `score` gives the scores [n] of n ascending rows. Raises `BadQuestion` for a negative k.
    """
    k = whole(k, "k", least=0, of="images")
    rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
    wanted = chosen.rows
    if not np.all(wanted[1:] > wanted[:-1]):
        wanted = np.unique(wanted)
    for start in range(0, len(wanted), _BLOCK):
        block = wanted[start : start + _BLOCK]
        best = top_k(score(block), k, rows=block)
        rows, scores = top_k(
            np.concatenate([scores, best.scores]), k, rows=np.concatenate([rows, best.rows])
        )
    return Ranking(rows, scores)


def ranked_images(run: OpenRun, found: Ranking, note: str) -> Result:
    """A ranking as rows `rank`, `image_id`, `key`, `label` and `score`."""
    image_ids = run.images.ids(found.rows)
    columns = {
        "rank": np.arange(1, len(image_ids) + 1),
        **run.images.described(image_ids),
        "score": found.scores,
    }
    return Result.of(columns, note=note, thumbnails=run.thumbnails_of)


def top_representations(
    run: OpenRun, chosen: Selection, text: str, *, k: int, normalize: bool
) -> Result:
    """The images with the largest <M(I), text>; see `RunView.top_images`."""
    (vector,) = run.texts.encode([text])
    found = best_images(chosen, k, _scorer(run, vector, normalize=normalize))
    return ranked_images(run, found, f"by the whole representation along {text!r}")


def nearest_representations(
    run: OpenRun, chosen: Selection, to: Any, *, k: int, normalize: bool
) -> Result:
    """The images with the largest <M(I), M(to)>; see `RunView.nearest_images`."""
    row, image_id = run.images.one(to)
    (target,) = run.arrays["representation"].read([row]).astype(np.float64)
    if normalize:
        target = target / np.linalg.norm(target)
    found = best_images(chosen, k, _scorer(run, target, normalize=normalize))
    return ranked_images(run, found, f"by likeness to image {image_id} as a whole")


def _scorer(run: OpenRun, direction: npt.NDArray[Any], *, normalize: bool) -> Callable[[Rows], F32]:
    def score(rows: Rows) -> F32:
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _CACHED):
            part = rows[start : start + _CACHED]
            whole = run.arrays["representation"].read(part)
            found = direction_scores(whole, direction)
            if normalize:
                length = np.linalg.norm(whole.astype(np.float64), axis=1)
                found = (found / length).astype(np.float32)
            scores[start : start + len(part)] = found
        return scores

    return score
