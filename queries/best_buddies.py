"""Best buddies: pairs of units of two models that are among each other's nearest (T4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Buddies:
    """Pairs of units, ordered by the first one's number and then by its rank for the second.

    All arrays are [n]: the two units, their correlation, `rank_first`, which of the first unit's
    nearest the second one is (from 1), and `rank_second` the other way around.
    """

    first: I64
    second: I64
    correlation: F32
    rank_first: I64
    rank_second: I64

    def __len__(self) -> int:
        return len(self.first)

    def reversed(self) -> Buddies:
        """The same pairs from the second model's side."""
        order = np.lexsort((self.rank_second, self.second))
        return Buddies(
            self.second[order],
            self.first[order],
            self.correlation[order],
            self.rank_second[order],
            self.rank_first[order],
        )

    def where(self, chosen: npt.NDArray[np.bool_]) -> Buddies:
        """Some of the pairs, by a mask [n]."""
        return Buddies(
            self.first[chosen],
            self.second[chosen],
            self.correlation[chosen],
            self.rank_first[chosen],
            self.rank_second[chosen],
        )


def best_buddies(
    forward: npt.NDArray[np.integer[Any]],
    backward: npt.NDArray[np.integer[Any]],
    k: int,
    *,
    correlation: npt.NDArray[np.floating[Any]],
) -> Buddies:
    """BB(a, b; k) of T4.3: pairs (i, j) with j among i's k nearest in b, and i among j's in a.

    `forward` [Na, K] are the units of b nearest to each of a's, by falling `correlation` [Na, K],
    and `backward` [Nb, K] those of a nearest to each of b's; -1 where there is none, `k` is at
    most K. Pairs that are not positively correlated match nothing (thesis, section 4.3) and are
    left out.
    """
    seconds = len(backward)
    ahead, back = np.asarray(forward)[:, :k], np.asarray(backward)[:, :k]
    said = np.asarray(correlation, np.float32)[:, : ahead.shape[1]]
    row, rank = np.nonzero((ahead >= 0) & (said > 0))
    there = row * seconds + ahead[row, rank]
    column, back_rank = np.nonzero(back >= 0)
    here = back[column, back_rank].astype(np.int64) * seconds + column
    _, out, home = np.intersect1d(there, here, assume_unique=True, return_indices=True)
    order = np.lexsort((rank[out], row[out]))
    out, home = out[order], home[order]
    return Buddies(
        row[out].astype(np.int64),
        ahead[row[out], rank[out]].astype(np.int64),
        said[row[out], rank[out]],
        rank[out].astype(np.int64) + 1,
        back_rank[home].astype(np.int64) + 1,
    )
