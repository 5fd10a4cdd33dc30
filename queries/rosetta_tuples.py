"""Rosetta neurons: units that several models share, merged through the anchor (T4.4), and concepts.

A tuple holds one unit of the anchor and one of every other model, each a best buddy of the
anchor's. Tuples whose anchor units are best buddies within the anchor are one concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from .best_buddies import Buddies

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

MOST_TUPLES = 5_000_000


@dataclass(frozen=True)
class RosettaTuples:
    """Units [T, 1 + m], the anchor's first, and their correlations [T, m] with it.

    Ordered by the anchor's unit, then by the other models' ranks.
    """

    units: I64
    correlations: F32

    def __len__(self) -> int:
        return len(self.units)

    @property
    def weakest(self) -> F32:
        """The lowest correlation of each tuple [T]."""
        return self.correlations.min(1, initial=np.inf)

    def order(self) -> I64:
        """Rows by falling lowest correlation, equal ones by the sum of all."""
        return np.lexsort((-self.correlations.sum(1, dtype=np.float64), -self.weakest))


@dataclass(frozen=True)
class Concepts:
    """Clusters of anchor units: `units` [n], ascending, and the `concept` [n] of each, from 0.

    Concepts are numbered by their strongest tuples, in the order of `RosettaTuples.order`.
    """

    units: I64
    concept: I64

    @property
    def count(self) -> int:
        """How many concepts there are."""
        return int(self.concept.max(initial=-1)) + 1

    @property
    def sizes(self) -> I64:
        """How many anchor units each concept has [count]."""
        return np.bincount(self.concept, minlength=self.count).astype(np.int64)

    @property
    def largest(self) -> int:
        """Anchor units of the largest concept, 0 where there is none."""
        return int(self.sizes.max(initial=0))

    def of(self, units: I64) -> I64:
        """The concept of each of some anchor units that are in one."""
        return self.concept[np.searchsorted(self.units, units)]


def rosetta_tuples(
    pairs: Sequence[Buddies], *, min_correlation: float | None = None, most: int = MOST_TUPLES
) -> RosettaTuples:
    """R(G, D_1 .. D_m) of T4.4: every (j, k_1 .. k_m) with (j, k_i) in BB(G, D_i) for all i.

    `pairs` are the best buddies of the anchor (first) with each other model (second), as
    `best_buddies` orders them. With `min_correlation`, only tuples of which no correlation is
    lower. Raises `BadQuestion` where there are more than `most`, before they are formed.
    """
    pairs = correlated(pairs, min_correlation)
    counts = _counts(pairs)
    total = int(tuple_counts(pairs).sum())
    if total > most:
        msg = (
            f"these models share {total:,} tuples of units, more than {most:,}; ask for fewer "
            "with a higher min_correlation=, or neighbors=1."
        )
        raise BadQuestion(msg)
    # Units that a later model has no match of would be multiplied for nothing.
    anchor = _in_tuples(counts)
    units = np.empty((len(anchor), 0), np.int64)
    correlations = np.empty((len(anchor), 0), np.float32)
    for pair, count in zip(pairs, counts, strict=True):
        start = np.cumsum(count) - count
        each = count[anchor]
        row = np.repeat(np.arange(len(anchor)), each)
        within = np.arange(len(row)) - np.repeat(np.cumsum(each) - each, each)
        entry = start[anchor[row]] + within
        units = np.concatenate([units[row], pair.second[entry, None]], axis=1)
        correlations = np.concatenate([correlations[row], pair.correlation[entry, None]], axis=1)
        anchor = anchor[row]
    return RosettaTuples(np.concatenate([anchor[:, None], units], axis=1), correlations)


def correlated(pairs: Sequence[Buddies], min_correlation: float | None) -> list[Buddies]:
    """The pairs whose correlation is at least that; all for None."""
    if min_correlation is None:
        return list(pairs)
    return [one.where(one.correlation >= min_correlation) for one in pairs]


def tuple_counts(pairs: Sequence[Buddies]) -> npt.NDArray[np.float64]:
    """How many tuples each unit of the anchor is in, without forming them [up to the last one]."""
    return np.prod([count.astype(np.float64) for count in _counts(pairs)] or [[]], axis=0)


def best_tuples(pairs: Sequence[Buddies]) -> RosettaTuples:
    """The strongest tuple of each unit of the anchor that is in one, by `RosettaTuples.order`.

    The best buddy in every other model: no choice in one model makes another's correlation lower,
    so that tuples need not be formed.
    """
    counts = _counts(pairs)
    if not counts:
        return RosettaTuples(np.empty((0, 1), np.int64), np.empty((0, 0), np.float32))
    anchors = _in_tuples(counts)
    units, correlations = [anchors], list[F32]()
    for pair in pairs:
        # Stable, so that of equal correlations the better rank comes first.
        order = np.lexsort((-pair.correlation, pair.first))
        firsts, starts = np.unique(pair.first[order], return_index=True)
        entry = order[starts[np.searchsorted(firsts, anchors)]]
        units.append(pair.second[entry])
        correlations.append(pair.correlation[entry])
    return RosettaTuples(np.stack(units, 1), np.stack(correlations, 1))


def units_in_tuples(
    pairs: Sequence[Buddies], best: RosettaTuples, concepts: Concepts, *, most: int
) -> list[I64]:
    """Units [n] of the anchor and of each other model that are in tuples, ascending.

    Of at most `most` units of the anchor and their best buddies together: each concept's strongest
    unit, then the others by their strongest tuple. `best` are the `best_tuples` of `pairs`.
    """
    counts = _counts(pairs)
    order = best.order()
    _, first = np.unique(concepts.of(best.units[order, 0]), return_index=True)
    ranked = np.concatenate([order[first], np.delete(order, first)]) if len(order) else order
    anchors = best.units[ranked, 0]
    taken = np.cumsum(1 + sum((count[anchors] for count in counts), np.zeros(len(anchors))))
    chosen = np.sort(anchors[taken <= most])
    return [chosen, *(np.unique(pair.second[np.isin(pair.first, chosen)]) for pair in pairs)]


def rosetta_concepts(best: RosettaTuples, own: Buddies) -> Concepts:
    """Cluster the anchor's units that are in tuples: connected components of its best buddies.

    `best` are `best_tuples`, `own` is BB(G, G; K) (thesis, section 4.3); a unit's match with itself
    joins nothing.
    """
    units = best.units[:, 0]
    if not len(units):
        return Concepts(units, np.empty(0, np.int64))
    ends = np.stack([own.first, own.second])
    inside = np.isin(ends, units).all(0) & (ends[0] != ends[1])
    label = _components(np.searchsorted(units, ends[:, inside]), len(units))
    # Numbered as their strongest units come.
    _, first = np.unique(label[best.order()], return_index=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return Concepts(units, number[np.searchsorted(np.unique(label), label)])


def strongest_tuples(best: RosettaTuples, concepts: Concepts) -> I64:
    """The row of each concept's strongest tuple among `best_tuples` [concepts]."""
    order = best.order()
    _, first = np.unique(concepts.concept[order], return_index=True)
    return order[first]


def _counts(pairs: Sequence[Buddies]) -> list[I64]:
    """How many best buddies each unit of the anchor has in every other model."""
    size = 1 + max((int(one.first.max(initial=-1)) for one in pairs), default=-1)
    return [np.bincount(one.first, minlength=size) for one in pairs]


def _in_tuples(counts: Sequence[I64]) -> I64:
    """Units of the anchor that have a best buddy in every other model, ascending."""
    return np.flatnonzero(np.min(counts, axis=0) if counts else []).astype(np.int64)


def _components(ends: I64, count: int) -> I64:
    """The smallest node of each node's component [count], of edges [2, e]."""
    label = np.arange(count, dtype=np.int64)
    while True:
        before = label
        label = label.copy()
        lower = np.minimum(before[ends[0]], before[ends[1]])
        # The components' representatives are joined, so that paths halve in every round.
        for end in ends:
            np.minimum.at(label, before[end], lower)
        label = np.minimum(label, label[label])
        while not np.array_equal(label, label[label]):
            label = label[label]
        if np.array_equal(label, before):
            return label
