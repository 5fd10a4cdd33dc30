"""Correlations of units as T4.1 and T4.2 are written: maps interpolated, formed, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

Matrix = npt.NDArray[np.float64]


def literal_correlations(first: Sequence[Tensor], second: Sequence[Tensor]) -> Matrix:
    """Pearson's correlation [N, N'] of two members' maps, a [images, C, h, w] a module each."""
    rows = [np.concatenate([_block(a, b) for b in second], 1) for a in first]
    return np.concatenate(rows, 0)


def _block(a: Tensor, b: Tensor) -> Matrix:
    target = [max(a.shape[axis], b.shape[axis]) for axis in (2, 3)]
    x, y = (
        F.interpolate(one.double(), target, mode="bilinear", align_corners=False)
        .transpose(0, 1)
        .flatten(1)
        .numpy()
        for one in (a, b)
    )
    x, y = (one - one.mean(1, keepdims=True) for one in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = (one / np.sqrt((one**2).sum(1, keepdims=True)) for one in (x, y))
    return x @ y.T


def literal_statistics(maps: Sequence[Tensor]) -> tuple[Matrix, Matrix]:
    """Mean and variance of T4.1, each [N]."""
    flat = [one.double().transpose(0, 1).flatten(1).numpy() for one in maps]
    return (
        np.concatenate([one.mean(1) for one in flat]),
        np.concatenate([one.var(1, ddof=1) for one in flat]),
    )


def brute_force(correlations: Matrix, neighbors: int) -> tuple[npt.NDArray[Any], Matrix]:
    """The nearest columns of each row, -1 and NaN where there are none; of equals the first."""
    index = np.full((len(correlations), neighbors), -1)
    values = np.full((len(correlations), neighbors), np.nan)
    for row, found in enumerate(correlations):
        usable = [place for place in range(len(found)) if np.isfinite(found[place])]
        usable.sort(key=lambda place: (-found[place], place))
        for rank, place in enumerate(usable[:neighbors]):
            index[row, rank], values[row, rank] = place, found[place]
    return index, values
