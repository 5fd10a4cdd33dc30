"""Bilinear interpolation as the matrices that it is: one along each axis of a map."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=256)
def interpolation_matrix(m_from: int, m_to: int) -> Tensor:
    """The matrix U, float64 [m_to, m_from], that interpolates one axis of a map.

    `U_h @ map @ U_w.T` is torch's `F.interpolate(map, (h_to, w_to), mode="bilinear",
    align_corners=False)`: its columns are the interpolated unit vectors. Every row adds up to 1,
    so that a constant stays what it is. Cached: do not change it in place.
    """
    units = torch.eye(m_from, dtype=torch.float64)[None]
    return F.interpolate(units, m_to, mode="linear", align_corners=False)[0].T.contiguous()


@lru_cache(maxsize=256)
def gram_matrix(m_from: int, m_to: int) -> Tensor:
    """U^T U, float64 [m_from, m_from]: <Ua, Ub> is <a, U^T U b>."""
    U = interpolation_matrix(m_from, m_to)
    return U.T @ U


@lru_cache(maxsize=256)
def column_sums(m_from: int, m_to: int) -> Tensor:
    """U^T 1, float64 [m_from]: the sum of Ua is <U^T 1, a>."""
    return interpolation_matrix(m_from, m_to).sum(0)
