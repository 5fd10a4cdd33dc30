"""TEXTSPAN (thesis, Algorithm 1): the texts whose directions explain a head, from moments.

The variance of `<c_k, R_j>` over the images is `r Sigma r^T`, with `Sigma` the covariance of the
contributions: neither the number of images nor the joint width enters the loop. See
`docs/mathematics.md`, "TEXTSPAN", for the derivation and for what is followed where the
thesis and its published scripts differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from .factors import covariance

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]
Score = Literal["variance", "explained"]

_EPSILON = float(np.finfo(np.float64).eps)
# A text whose squared length has fallen below this share of the original has deflated to zero:
# embeddings come in float32, and what is left of two that differ by rounding is 1e-14.
_DEFLATED = 1e-12
# Scores are updated from pick to pick and drift by less than 1e-13 of the largest possible one;
# texts within this share of it behind the leader are recomputed before one is picked.
_DRIFT = 1e-11
# Scores that agree this well are a tie, and the first text wins.
_TIE = 1e-12
# Texts in one product of a pick: few enough that BLAS takes one thread. Two gain nothing on so
# little, and where cores are shared they wait for each other at every pick, many times its length.
_COLUMNS = 1024


@dataclass(frozen=True, eq=False)
class TextSpan:
    """The texts picked for a head, in order.

    `picks` [n] are rows of the pool; `explained` [n] is the share of the head's variance that each
    adds and `cumulative` [n] their sum, V_explained (T2.7) over the total; `directions` [n, E]
    are orthonormal, the first i of them spanning the first i texts as seen by the head;
    `exhausted` says that fewer than asked were picked, since no text was left that explains more.
    """

    picks: npt.NDArray[np.int64]
    explained: F64
    cumulative: F64
    directions: F64
    exhausted: bool


class HeadSpan(NamedTuple):
    """The space a head can write to: `basis = coordinates @ directions`, directions orthonormal."""

    directions: F64
    coordinates: F64


def head_span(basis: Numbers, *, tolerance: float | None = None) -> HeadSpan:
    """The exact span [r, E] of a head from its `basis` [e+3, E] of weights, r <= e+3.

    Rows are brought to unit length first, since a bias may be small and still real; then
    directions with singular values up to `tolerance` are dropped. Default: 4 sqrt(e+3) times the
    rounding unit of the basis' own type. Rounding the rows moves no singular value by more than
    sqrt(e+3) units, so what exact arithmetic has at zero is dropped, with a margin of 4.
    """
    unit = float(np.finfo(basis.dtype).eps) / 2
    rows = np.asarray(basis, dtype=np.float64)
    length = np.linalg.norm(rows, axis=1)
    real = rows[length > 0] / length[length > 0, None]
    if tolerance is None:
        tolerance = 4 * len(rows) ** 0.5 * unit
    # Through the small triangle: the same singular values as of the wide matrix, sooner.
    frame, triangle = np.linalg.qr(real.T)
    turn, singular, _ = np.linalg.svd(triangle)
    directions = (frame @ turn[:, : np.count_nonzero(singular > tolerance)]).T
    return HeadSpan(directions, rows @ directions.T)


def textspan(
    moment: F64,
    basis: Numbers,
    texts: Numbers,
    *,
    m: int = 20,
    score: Score = "variance",
    normalize: bool = False,
) -> TextSpan:
    """Pick up to `m` texts that explain one head's contributions (Algorithm 1).

    `moment` [2, e+4, e+4] from `factors.moments`, `basis` [e+3, E], `texts` [M, E]. `normalize`
    describes contributions divided by ||M||. `score="variance"` picks as Algorithm 1 does, where
    projected texts keep their length; "explained" divides by the squared length and so is the
    greedy maximizer of T2.7. Ties go to the first text. Raises `ValueError` for an `m` below 1, an
    unknown score or texts of another width, `BadSelection` where the moments are of no image.
    """
    return textspans(moment, basis, texts, m=m, score=score, normalize=normalize)[0]


def textspans(
    moment: F64,
    basis: Numbers,
    texts: Numbers,
    *,
    m: int = 20,
    score: Score = "variance",
    normalize: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[TextSpan]:
    """`textspan` of many heads, in order.

    `moment` [2, *heads, e+4, e+4] and `basis` [*heads, e+3, E]; everything else, and what is
    raised, as for `textspan`. The pool is converted and measured once for all heads; `progress` is
    told heads done and in all.
    """
    _check(basis, texts, m=m, score=score)
    texts = np.asarray(texts, dtype=np.float64)
    original = np.einsum("me,me->m", texts, texts)
    found: list[TextSpan] = []
    if progress is not None:
        progress(0, math.prod(basis.shape[:-2]))
    for head in np.ndindex(*basis.shape[:-2]):
        statistics = covariance(moment[(slice(None), *head)], normalize=normalize)
        span = head_span(basis[head])
        spread = span.coordinates.T @ statistics.covariance @ span.coordinates
        center = statistics.mean @ span.coordinates
        total = max(float(np.trace(spread)), 0)  # rounding alone can be below zero
        picks, variances, directions = _greedy(
            span.directions @ texts.T,
            spread,
            m=m,
            score=score,
            # What cancellation against the mean may leave in the variance of any direction.
            noise=8 * len(spread) * _EPSILON * (total + float(center @ center)),
            original=original,
        )
        explained = np.array(variances, dtype=np.float64) / (total or 1)
        found.append(
            TextSpan(
                picks=np.array(picks, dtype=np.int64),
                explained=explained,
                cumulative=np.cumsum(explained),
                directions=directions @ span.directions,
                exhausted=len(picks) < m,
            )
        )
        if progress is not None:
            progress(len(found), math.prod(basis.shape[:-2]))
    return found


def _greedy(
    pool: F64,
    spread: F64,
    *,
    m: int,
    score: Score,
    noise: float,
    original: F64,
) -> tuple[list[int], list[float], F64]:
    """Algorithm 1's loop in the span's coordinates: pool R^T [r, M], spread Sigma [r, r].

    With P the projection off the picks so far, a text's score is r P Sigma P r^T. The picks'
    directions q are orthonormal, so `<r P, q> = <r, q>`: a pick updates every score by two dot
    products with the original r, and R itself is never rewritten.
    """
    power = np.einsum("rm,rm->m", pool, spread @ pool)
    squared = np.einsum("rm,rm->m", pool, pool)
    drift = _DRIFT * float(np.linalg.norm(spread)) * float(squared.max(initial=0))
    picked = np.empty((0, len(pool)))
    picks: list[int] = []
    variances: list[float] = []
    while len(picks) < m:
        alive = np.flatnonzero(squared > _DEFLATED * original)
        if not alive.size:
            break
        weight = squared[alive] if score == "explained" else np.ones(alive.size)
        value, slack = power[alive] / weight, drift / weight
        near = alive[value + slack >= np.max(value - slack)]
        rows = pool[:, near].T
        for _ in range(2):
            rows = rows - (rows @ picked.T) @ picked
        squared[near] = length = np.einsum("nr,nr->n", rows, rows)
        power[near] = exact = np.einsum("nr,nr->n", rows, rows @ spread)
        if score == "explained":
            exact = exact / np.maximum(length, _DEFLATED * original[near])
        exact[length <= _DEFLATED * original[near]] = -np.inf
        first = int(np.argmax(exact >= exact.max() - _TIE * abs(exact.max())))
        if np.isneginf(exact[first]):
            continue
        direction = rows[first] / length[first] ** 0.5
        shared = spread @ direction  # covariance of every coordinate with this direction
        variance = float(direction @ shared)
        if variance <= noise:
            break
        picks.append(int(near[first]))
        variances.append(variance)
        picked = np.vstack([picked, direction])
        along, across = _products(np.vstack([direction, shared]), pool)
        power += along * (along * variance - 2 * across)
        squared -= along * along
        outer = np.outer(direction, shared - 0.5 * variance * direction)
        spread = spread - outer - outer.T
    return picks, variances, picked


def _products(rows: F64, pool: F64) -> F64:
    """`rows @ pool`, some columns at a time."""
    found = np.empty((len(rows), pool.shape[1]))
    for start in range(0, pool.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        np.matmul(rows, pool[:, part], out=found[:, part])
    return found


def _check(basis: Numbers, texts: Numbers, *, m: int, score: str) -> None:
    if m < 1:
        msg = f"m = {m} texts cannot be picked; ask for 1 or more."
        raise ValueError(msg)
    if score not in get_args(Score):
        msg = f"There is no score {score!r}; choose one of {', '.join(get_args(Score))}."
        raise ValueError(msg)
    if texts.ndim != 2 or texts.shape[1] != basis.shape[-1]:
        msg = (
            f"Texts of shape {texts.shape} cannot describe a head that writes to {basis.shape[-1]} "
            "dimensions; embed the pool with the run's own model."
        )
        raise ValueError(msg)
    if not np.isfinite(texts).all():
        msg = "The pool's embeddings hold NaN or infinity; embed the pool again."
        raise ValueError(msg)
