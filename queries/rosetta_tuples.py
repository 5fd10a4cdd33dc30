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


@dataclass(frozen=True)
class Concepts:
    """Clusters of anchor units: `units` [n], ascending, and the `concept` [n] of each, from 0.

    Concepts are numbered by their strongest tuple, the one whose lowest correlation is highest.
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
    if min_correlation is not None:
        pairs = [one.where(one.correlation >= min_correlation) for one in pairs]
    size = 1 + max((int(one.first.max(initial=-1)) for one in pairs), default=-1)
    counts = [np.bincount(one.first, minlength=size) for one in pairs]
    total = int(np.prod([count.astype(np.float64) for count in counts], axis=0).sum())
    if total > most:
        msg = (
            f"these models share {total:,} tuples of units, more than {most:,}; ask for fewer "
            "with a higher min_correlation=, or neighbors=1."
        )
        raise BadQuestion(msg)
    anchor = np.arange(size, dtype=np.int64)
    units = np.empty((size, 0), np.int64)
    correlations = np.empty((size, 0), np.float32)
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


def rosetta_concepts(tuples: RosettaTuples, own: Buddies) -> Concepts:
    """Cluster the anchor's units that are in tuples: connected components of its best buddies.

    `own` is BB(G, G; K) (thesis, section 4.3); a unit's match with itself joins nothing.
    """
    units = np.unique(tuples.units[:, 0])
    if not len(units):
        return Concepts(units, np.empty(0, np.int64))
    ends = np.stack([own.first, own.second])
    inside = np.isin(ends, units).all(0) & (ends[0] != ends[1])
    label = _components(np.searchsorted(units, ends[:, inside]), len(units))
    strength = np.full(len(units), -np.inf, np.float32)
    np.maximum.at(strength, np.searchsorted(units, tuples.units[:, 0]), tuples.weakest)
    best = np.full(len(units), -np.inf, np.float32)
    np.maximum.at(best, label, strength)
    roots = np.unique(label)
    ordered = roots[np.argsort(-best[roots], kind="stable")]
    number = np.empty(len(units), np.int64)
    number[ordered] = np.arange(len(ordered))
    return Concepts(units, number[label])


def strongest_tuples(tuples: RosettaTuples, concepts: Concepts) -> I64:
    """The row of each concept's strongest tuple [concepts]; of equal ones the first."""
    order = np.argsort(-tuples.weakest, kind="stable")
    of = concepts.of(tuples.units[order, 0])
    _, first = np.unique(of, return_index=True)
    return order[first]


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
