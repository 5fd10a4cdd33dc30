"""Which images come first: scores of a head's contributions, and an exact top k.

A score `<c_head(I), t>` is `f(I) . (basis @ t)`: the direction is folded into the head's e+3
factors once (`fold`) and images are scored from what is stored (`head_scores`), so contributions
are never formed. Scores are computed in float64 and rounded to float32, so that images with
equal values tie however the rows are cut into chunks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_BLOCK = 2048  # rows whose float64 copies stay in the processor's cache


class Ranking(NamedTuple):
    """Rows [n] in order, best first, and their scores [n]."""

    rows: Rows
    scores: Numbers


def fold(basis: Numbers, direction: Numbers) -> F64:
    """A direction of the joint space as a query on a head's factors: `f . fold = <c_head, t>`.

    `basis` [e+3, E] and `direction` [..., E], a text or another image's contribution, give
    [..., e+3].
    """
    return np.asarray(direction, np.float64) @ np.asarray(basis, np.float64).T


def head_scores(
    values: Numbers,
    scale: Numbers,
    query: Numbers,
    *,
    normalize: bool = False,
) -> F32:
    """The scores <c_head(I), t> of all images, straight from the stored arrays (T2.6).

    `values` u [K, e], `scale` [K, 3 or more] (mu, sigma, ||M||) and `query` [..., e+3] from `fold`
    give [K, ...]. `normalize` divides by ||M(I)||. Rows of NaN score NaN.
    """
    query = np.asarray(query, dtype=np.float64)
    flat = query.reshape(-1, query.shape[-1])
    width = values.shape[1]
    scores = np.empty((len(values), len(flat)), dtype=np.float32)
    for start in range(0, len(values), _BLOCK):
        rows = slice(start, start + _BLOCK)
        numbers = np.asarray(scale[rows], dtype=np.float64)
        part = np.asarray(values[rows], np.float64) @ flat[:, :width].T
        part += numbers[:, :1] * flat[:, width] + flat[:, width + 1]
        part /= numbers[:, 1:2]
        part += flat[:, width + 2]
        scores[rows] = part / numbers[:, 2:3] if normalize else part
    return scores.reshape(len(scores), *query.shape[:-1])


def direction_scores(vectors: Numbers, direction: Numbers) -> F32:
    """The scores <M(I), t> of whole representations, or of any stored term, in [K, E].

    `direction` [..., E], a text or another image's vector, gives [K, ...].
    """
    direction = np.asarray(direction, dtype=np.float64)
    flat = direction.reshape(-1, direction.shape[-1])
    scores = np.asarray(vectors, np.float64) @ flat.T
    return scores.astype(np.float32).reshape(len(scores), *direction.shape[:-1])


def top_k(
    scores: Numbers,
    k: int,
    *,
    rows: npt.ArrayLike | None = None,
    largest: bool = True,
) -> Ranking:
    """The k best rows, exactly as a stable sort of all of them would give.

    `scores` [n]; NaN is never returned, equal scores come by ascending row, and k larger than
    what there is gives all. `rows` [n] names the rows where they are not 0..n-1: the top k of
    concatenated tops of parts is the top k of the whole. Raises `ValueError` for a negative k.
    """
    if k < 0:
        msg = f"k = {k} rows cannot be returned; ask for 0 or more."
        raise ValueError(msg)
    scores = np.asarray(scores)
    names = np.arange(len(scores)) if rows is None else np.asarray(rows, dtype=np.int64)
    kept = np.flatnonzero(~np.isnan(scores))
    # Ascending from here on: what comes first is what is smallest.
    cost = -scores[kept] if largest else scores[kept]
    if k < len(kept):
        last = np.partition(cost, k - 1)[k - 1] if k else -np.inf
        better = np.flatnonzero(cost < last)
        tied = np.flatnonzero(cost == last) if k else better[:0]
        tied = tied[np.argsort(names[kept[tied]], kind="stable")][: k - len(better)]
        chosen = np.concatenate([better, tied])
    else:
        chosen = np.arange(len(kept))
    chosen = chosen[np.lexsort((names[kept[chosen]], cost[chosen]))]
    return Ranking(names[kept[chosen]].astype(np.int64), scores[kept[chosen]])
