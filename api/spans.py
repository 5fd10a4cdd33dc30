"""TEXTSPAN of one head: looked up where it is stored, computed from moments otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_factors, moments
from ..queries.textspan import Score, textspan
from ..schema.errors import BadQuestion, BadSelection
from .open_run import KeptHead, OpenRun
from .selection import Selection
from .texts import StoredPool

F64 = npt.NDArray[np.float64]

_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Span:
    """Texts in the order of picking, their vectors [n, d'] and what each explains."""

    texts: list[str]
    vectors: npt.NDArray[np.float32]
    explained: F64
    cumulative: F64
    exhausted: bool


def head_span_of(
    run: OpenRun,
    head: KeptHead,
    *,
    pool: str | Sequence[str] | None = None,
    m: int = 20,
    selection: Selection | None = None,
    normalize: bool = False,
    score: Score = "variance",
) -> Span:
    """Pick up to `m` texts for a head over a selection of images, or over the whole run.

    `pool` is a pool's name, a list of texts, or None for the run's default pool. Raises
    `BadQuestion`, `BadSelection` for no image, `UnknownPool` or `TextNotStored`.
    """
    if m < 1:
        msg = f"m = {m} texts cannot be picked; ask for 1 or more."
        raise BadQuestion(msg)
    if score not in get_args(Score):
        msg = f"there is no score {score!r}; choose one of {', '.join(get_args(Score))}."
        raise BadQuestion(msg)
    if pool is None or isinstance(pool, str):
        known = run.texts.pool(pool)
        if selection is None and not normalize and score == "variance":
            stored = _stored_span(run, head, known, m)
            if stored is not None:
                return stored
        vectors = known.vectors
    else:
        known, vectors = list(pool), run.texts.encode(list(pool))
    moment = run.moment(head) if selection is None else selection_moment(run, head, selection)
    if not moment[0, -1, -1]:
        msg = "no image to take TEXTSPAN over: the selection is empty, or nothing is ingested yet."
        raise BadSelection(msg)
    found = textspan(moment, run.basis(head), vectors, m=m, score=score, normalize=normalize)
    picks = found.picks.tolist()
    if isinstance(known, StoredPool):
        texts = run.texts.texts_at(known, picks)
    else:
        texts = [known[pick] for pick in picks]
    return Span(texts, vectors[found.picks], found.explained, found.cumulative, found.exhausted)


def selection_moment(run: OpenRun, head: KeptHead, selection: Selection) -> F64:
    """Second moments [2, e+4, e+4] of a head over chosen images, from the stored values."""
    width = run.shape.head_width + 4
    total = np.zeros((2, width, width))
    for start in range(0, len(selection), _BLOCK):
        rows = selection.rows[start : start + _BLOCK]
        value = run.arrays["head_value"].read(rows, head.place, head.address.head)
        scale = run.arrays["scale"].read(rows)
        total += moments(head_factors(value, scale), scale[:, 2])
    return total


def _stored_span(run: OpenRun, head: KeptHead, pool: StoredPool, m: int) -> Span | None:
    """What the end of the ingest stored, if it goes as far as asked."""
    rows = run.console.rows(
        "SELECT position, explained_variance, cumulative FROM head_text WHERE run_id = ? "
        "AND layer = ? AND head = ? AND pool_id = ? AND rank <= ? ORDER BY rank",
        [run.row["run_id"], head.address.layer, head.address.head, pool.pool_id, m],
    )
    if len(rows) < m or run.row["status"] != "complete":
        return None
    positions = [position for position, _, _ in rows]
    return Span(
        run.texts.texts_at(pool, positions),
        pool.vectors[positions],
        np.array([explained for _, explained, _ in rows]),
        np.array([cumulative for _, _, cumulative in rows]),
        exhausted=False,
    )
