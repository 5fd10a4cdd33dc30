"""TEXTSPAN results that are kept: in the catalogue by the ingest, beside it by readers."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.textspan import Score
from ..schema.derived import fingerprint, read_derived, write_derived
from .candidates import Candidates
from .open_run import KeptHead, OpenRun
from .selection import Selection

if TYPE_CHECKING:
    import pyarrow as pa

F64 = npt.NDArray[np.float64]

_TABLE = "head_text"
_DEPTHS = (20, 60)
_WRITERS = 8
# Part of every fingerprint: to be raised when the same question gets another answer.
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Picks:
    """Positions [n] in a pool in the order of picking, and what each explains, alone and so far."""

    positions: npt.NDArray[np.int64]
    explained: F64
    cumulative: F64

    def first(self, m: int) -> Picks:
        """The first `m` of them, or all where there are fewer."""
        return Picks(self.positions[:m], self.explained[:m], self.cumulative[:m])


@dataclass(frozen=True, eq=False)
class SpanQuestion:
    """Everything that a head's TEXTSPAN depends on, but for the head and for how many texts."""

    run: OpenRun
    candidates: Candidates
    selection: Selection | None
    normalize: bool
    score: Score

    @property
    def whole_run(self) -> bool:
        """Whether all images of a complete run are asked about, before rounding."""
        return self.selection is None and self.lasting

    @property
    def lasting(self) -> bool:
        """Whether the answer stays: a run that still grows, or is redone, may have another soon."""
        return self.run.row["status"] == "complete"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The parameters of kept results, without head and depth."""
        return self.run.facts | {
            "version": _VERSION,
            "pool": self.candidates.name,
            "pool_sha256": self.candidates.sha256,
            "whole_run": self.selection is None,
            "selection": None if self.selection is None else _hash_of(self.selection),
            "normalize": bool(self.normalize),
            "score": self.score,
        }

    def parameters(self, head: KeptHead, depth: int) -> dict[str, Any]:
        """What one kept result was computed from."""
        address = head.address
        return self.facts | {"layer": address.layer, "head": address.head, "m": depth}


def depths_for(run: OpenRun, m: int) -> list[int]:
    """How far kept results that hold the first `m` texts may go, the nearest first.

    Results are kept at a few depths only, so that a longer one is found where a shorter one is
    asked for. No head has more than e+3 dimensions, so a depth of e+4 holds all there is.
    """
    most = run.shape.head_width + 4
    ladder = [*(depth for depth in _DEPTHS if depth < most), most]
    return [depth for depth in ladder if depth >= min(m, most)]


def find_kept(question: SpanQuestion, heads: Sequence[KeptHead], m: int) -> dict[KeptHead, Picks]:
    """The first `m` texts of those heads whose results are kept."""
    if not question.lasting:
        return {}
    found = _catalogued(question, heads, m)
    depths = depths_for(question.run, m)
    for head in heads:
        if head in found:
            continue
        for depth in depths:
            picks = _derived(question, head, depth)
            if picks is not None:
                found[head] = picks.first(m)
                break
    return found


def keep(question: SpanQuestion, spans: Mapping[KeptHead, Picks], depth: int) -> None:
    """Keep results for the next time, as far as the store can be written to."""
    if not question.lasting:
        return
    written = [
        (question.parameters(head, depth), _rows(question.candidates, picks))
        for head, picks in spans.items()
    ]

    def write(one: tuple[dict[str, Any], pa.Table]) -> bool:
        return write_derived(question.run.layout, _TABLE, one[0], rows=one[1])

    # Of many, each waits for the disk: side by side they wait once.
    if written and write(written[0]) and len(written) > 1:
        with ThreadPoolExecutor(_WRITERS) as writers:
            list(writers.map(write, written[1:]))


def _catalogued(question: SpanQuestion, heads: Sequence[KeptHead], m: int) -> dict[KeptHead, Picks]:
    """What the end of the ingest stored, where it goes as far as asked."""
    plain = question.whole_run and not question.normalize and question.score == "variance"
    pool_id = question.candidates.pool_id
    if not plain or pool_id is None:
        return {}
    rows = question.run.console.rows(
        "SELECT layer, head, position, explained_variance, cumulative FROM head_text "
        "WHERE run_id = ? AND pool_id = ? AND rank <= ? "
        "AND layer IN (SELECT unnest(?::INTEGER[])) AND head IN (SELECT unnest(?::INTEGER[])) "
        "ORDER BY layer, head, rank",
        [
            question.run.row["run_id"],
            pool_id,
            m,
            sorted({head.address.layer for head in heads}),
            sorted({head.address.head for head in heads}),
        ],
    )
    by_head: dict[tuple[int, int], list[tuple[int, float, float]]] = {}
    for layer, number, *rest in rows:
        by_head.setdefault((layer, number), []).append(tuple(rest))
    stored = {
        head: np.array(by_head.get((head.address.layer, head.address.head), [])).reshape(-1, 3)
        for head in heads
    }
    whole = _whole(question)
    short = [head for head, picks in stored.items() if len(picks) < min(m, whole)]
    ended = _ended(question, short, m) if short else set[KeptHead]()
    return {
        head: Picks(picks[:, 0].astype(np.int64), picks[:, 1], picks[:, 2])
        for head, picks in stored.items()
        if len(picks) >= min(m, whole) or head in ended
    }


def _whole(question: SpanQuestion) -> int:
    """How many texts leave nothing of a head: its dimensions, or all that the pool has."""
    shape = question.run.shape
    return min(shape.head_width + 3, shape.embed_dim, question.candidates.size)


def _ended(question: SpanQuestion, heads: Sequence[KeptHead], m: int) -> set[KeptHead]:
    """Heads of which the catalogue has all there is: it took in a result that went on to `m`."""
    prints = {
        fingerprint(question.parameters(head, depth)): head
        for head in heads
        for depth in depths_for(question.run, m)
    }
    known = question.run.console.rows(
        "SELECT fingerprint FROM derived "
        "WHERE relation = ? AND fingerprint IN (SELECT unnest(?::VARCHAR[]))",
        [_TABLE, list(prints)],
    )
    return {prints[found] for (found,) in known}


def _derived(question: SpanQuestion, head: KeptHead, depth: int) -> Picks | None:
    table = read_derived(question.run.layout, _TABLE, question.parameters(head, depth))
    if table is None:
        return None
    position, explained, cumulative = (
        table.column(name).to_numpy() for name in ("position", "explained_variance", "cumulative")
    )
    return Picks(position.astype(np.int64), explained, cumulative)


def _rows(candidates: Candidates, picks: Picks) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "rank": pa.array(range(1, len(picks.positions) + 1), pa.int32()),
            "position": pa.array(picks.positions, pa.int32()),
            "text": pa.array(_storable(candidates.texts_at(picks.positions.tolist())), pa.string()),
            "explained_variance": pa.array(picks.explained, pa.float64()),
            "cumulative": pa.array(picks.cumulative, pa.float64()),
        }
    )


def _storable(texts: Sequence[str]) -> list[str]:
    """Texts as SQL may show them: lone surrogates, which have no UTF-8, become question marks."""
    return [text.encode(errors="replace").decode() for text in texts]


def _hash_of(selection: Selection) -> str:
    return hashlib.sha256(np.sort(selection.rows).astype("<i8").tobytes()).hexdigest()
