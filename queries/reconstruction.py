"""Representations rebuilt from the texts that explain their heads (thesis, Figures 2.3 and A.1).

Every late head's contribution is replaced by its projection on the span of its first m texts,
around its mean, and everything else by its mean: what is left of image I is

    mean(M) + sum over heads of (f(I) - mean(f)) @ basis @ D_m^T @ D_m

with `D_m` [m, E] the orthonormal directions of the head's first m texts. So neither the other
terms nor any [K, heads, E] array is formed, and what m adds to m' < m is one product more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .factors import head_factors
from .textspan import head_span

Numbers = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def text_directions(basis: Numbers, texts: Numbers) -> F64:
    """Orthonormal directions [n, E], the first i of them spanning the first i texts.

    Texts as the head sees them: `texts` [n, E] projected onto the span of `basis` [e+3, E], as
    in `textspan.TextSpan.directions`, here from the picks alone.
    """
    span = head_span(basis).directions
    seen = np.asarray(texts, np.float64) @ span.T
    frame, _ = np.linalg.qr(seen.T)
    return frame.T @ span


def centered_factors(values: Numbers, scale: Numbers, mean: F64) -> F32:
    """The factors of several heads less their means, head by head.

    `values` u [K, n, e] and `scale` [K, 3 or more] of K images and n heads, `mean` [n, e+3]; gives
    [n, K, e+3], subtracted in float64.
    """
    out = np.empty((values.shape[1], len(values), mean.shape[1]), np.float32)
    for head in range(values.shape[1]):
        out[head] = head_factors(values[:, head], scale) - mean[head]
    return out


def head_logits(factors: F32, basis: Numbers, classes: Numbers) -> F32:
    """What heads add to the scores of classes beyond their means, unprojected: [K, C].

    `factors` [n, K, e+3] from `centered_factors`, `basis` [n, e+3, E], `classes` [C, E].
    """
    fixed = np.asarray(basis, np.float64) @ np.asarray(classes, np.float64).T
    return _side_by_side(factors) @ fixed.astype(np.float32).reshape(-1, len(classes))


class TextProjection:
    """The fixed matrices of n heads projected on their texts: factors to texts to classes."""

    def __init__(
        self, basis: Numbers, directions: Sequence[F64], classes: Numbers, *, steps: Sequence[int]
    ) -> None:
        """Take `basis` [n, e+3, E], each head's `directions` [<= m, E] and `classes` [C, E].

        `steps` are the numbers of texts m to stop at, ascending; a head with fewer keeps all.
        """
        wide = min(steps[-1], basis.shape[-2])  # no head has more directions than factors
        width = basis.shape[-1]
        padded = np.zeros((len(basis), wide, width))
        for head, rows in enumerate(directions):
            padded[head, : len(rows)] = rows[:wide]
        self._steps = list(steps)
        self._to_texts = (np.asarray(basis, np.float64) @ np.swapaxes(padded, 1, 2)).astype(
            np.float32
        )
        self._to_classes = (padded @ np.asarray(classes, np.float64).T).astype(np.float32)

    def logits(self, factors: F32) -> Iterator[F32]:
        """What the projected heads add beyond their means, for each step: arrays [K, C].

        `factors` [n, K, e+3] from `centered_factors`. The array is the same one, added to.
        """
        along = factors @ self._to_texts
        total = np.zeros((factors.shape[1], self._to_classes.shape[-1]), np.float32)
        start = 0
        for step in self._steps:
            part = self._to_classes[:, start:step]
            total += _side_by_side(along[:, :, start:step]) @ part.reshape(-1, part.shape[-1])
            start = step
            yield total


def _side_by_side(heads: F32) -> F32:
    """[n, K, a] as [K, n * a]."""
    return np.moveaxis(heads, 0, 1).reshape(heads.shape[1], -1)
