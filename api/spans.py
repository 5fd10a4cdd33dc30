"""TEXTSPAN of heads: looked up where it is kept, computed from moments otherwise."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_factors, moments
from ..queries.textspan import Score, textspans
from ..schema.arrays import run_arrays
from ..schema.errors import BadQuestion, BadSelection
from ..schema.shards import SegmentArray
from ..schema.stages import stage
from .candidates import Candidates, Pool, candidates_of
from .kept_spans import Picks, SpanQuestion, depths_for, find_kept, keep
from .open_run import KeptHead, OpenRun
from .printing import counted
from .selection import Selection
from .whole_numbers import whole

F64 = npt.NDArray[np.float64]

_BLOCK = 8192
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Span:
    """Texts in the order of picking, their vectors [n, d'] and what each explains.

    `exhausted` says that there are fewer than asked for, since no other explains anything more.
    """

    texts: list[str]
    positions: npt.NDArray[np.int64]
    explained: F64
    cumulative: F64
    exhausted: bool
    candidates: Candidates

    @cached_property
    def vectors(self) -> npt.NDArray[np.floating[Any]]:
        """The texts in the joint space [n, d']; raises `TextNotStored` where one has to load."""
        return self.candidates.vectors[self.positions]


def head_span_of(
    run: OpenRun,
    head: KeptHead,
    *,
    pool: Pool = None,
    m: int = 20,
    selection: Selection | None = None,
    normalize: bool = False,
    score: Score = "variance",
) -> Span:
    """Pick up to `m` texts for a head; arguments and errors as for `spans_of`."""
    (span,) = spans_of(
        run, [head], pool=pool, m=m, selection=selection, normalize=normalize, score=score
    )
    return span


def spans_of(
    run: OpenRun,
    heads: Sequence[KeptHead],
    *,
    pool: Pool = None,
    m: int = 20,
    selection: Selection | None = None,
    normalize: bool = False,
    score: Score = "variance",
) -> list[Span]:
    """Pick up to `m` texts for each head over a selection of images, or over the whole run.

    `pool` is a pool's name, a list of texts, vectors [M, d'], or None for the run's default pool.
    What had to be computed is kept beside the catalogue for the next time. Raises `BadQuestion`,
    `BadSelection` for no image, `UnknownPool` or `TextNotStored`.
    """
    m = whole(m, "m", least=1, of="texts")
    if score not in get_args(Score):
        msg = f"there is no score {score!r}; choose one of {', '.join(get_args(Score))}."
        raise BadQuestion(msg)
    candidates = candidates_of(run, pool)
    if selection is not None and not len(selection):
        raise _no_image()
    question = SpanQuestion(run, candidates, selection, normalize, score)
    found = find_kept(question, heads, m)
    missing = [head for head in dict.fromkeys(heads) if head not in found]
    depth = depths_for(run, m)[0]
    computed = _computed(question, missing, depth) if missing else {}
    places = [picks.positions for picks in (*found.values(), *computed.values())]
    if places:  # one look-up for the texts of all heads
        candidates.texts_at(np.unique(np.concatenate(places)).tolist())
    keep(question, computed, depth)
    found |= {head: picks.first(m) for head, picks in computed.items()}
    return [_span(found[head], candidates, m) for head in heads]


def selection_moments(
    run: OpenRun, heads: Sequence[KeptHead], selection: Selection
) -> npt.NDArray[np.float64]:
    """Second moments [2, n, e+4, e+4] of n heads over chosen images, from the stored values.

    One pass over the images for all heads; the order of the images makes no difference.
    """
    width = run.shape.head_width + 4
    total = np.zeros((2, len(heads), width, width))
    rows = np.sort(selection.rows)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        scale = run.arrays["scale"].read(block)
        for number, head in enumerate(heads):
            value = run.arrays["head_value"].read(block, head.place, head.address.head)
            total[:, number] += moments(head_factors(value, scale), scale[:, 2])
    return total


def _computed(
    question: SpanQuestion, heads: Sequence[KeptHead], depth: int
) -> dict[KeptHead, Picks]:
    run = question.run
    if question.selection is None:
        moment = run_moments(run, heads, normalize=question.normalize)
    else:
        moment = selection_moments(run, heads, question.selection)
    if not moment[0, 0, -1, -1]:
        raise _no_image()
    texts = question.candidates.vectors
    what = f"TEXTSPAN of {counted(len(heads), 'head')} over {counted(len(texts), 'text')}"
    with stage(_LOG, what, unit="head", delay=1) as work:
        found = textspans(
            moment,
            np.stack([run.basis(head) for head in heads]),
            texts,
            m=depth,
            score=question.score,
            normalize=question.normalize,
            progress=work.tell,
        )
    return {
        head: Picks(span.picks, span.explained, span.cumulative)
        for head, span in zip(heads, found, strict=True)
    }


def run_moments(run: OpenRun, heads: Sequence[KeptHead], *, normalize: bool) -> F64:
    """Moments [2, n, e+4, e+4] over the whole run; of several heads read at once."""
    if len(heads) == 1:
        return run.moment(heads[0])[:, None]
    spec = run_arrays(run.shape)["head_moment"]
    stored = SegmentArray(run.layout.arrays(run.row["folder"]) / spec.name, spec)
    places = [head.place for head in heads]
    first = min(places)
    # Only the weighting that is asked for: the other half of the file stays unread.
    index = (1 if normalize else 0, slice(first, max(places) + 1))
    total = stored.total(run.segments, *index)
    chosen = total[[place - first for place in places], [head.address.head for head in heads]]
    return np.broadcast_to(chosen, (2, *chosen.shape))


def _span(picks: Picks, candidates: Candidates, m: int) -> Span:
    return Span(
        texts=candidates.texts_at(picks.positions.tolist()),
        positions=picks.positions,
        explained=picks.explained,
        cumulative=picks.cumulative,
        exhausted=len(picks.positions) < m,
        candidates=candidates,
    )


def _no_image() -> BadSelection:
    msg = "no image to take TEXTSPAN over: the selection is empty, or nothing is ingested yet."
    return BadSelection(msg)
