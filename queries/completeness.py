"""Whether all terms add up: what the parts of a decomposition leave of the whole.

Every residual is `||sum of parts - whole|| / ||M(I)||` per image, so that residuals of
different identities compare. Arrays are taken as stored (float16 or float32) and sums are
accumulated in float64. Rejected images (rows of NaN) have the residual NaN. The order of layer
terms is that of `schema.components.layer_terms`: EMBED, L0.ATTN, L0.MLP, L1.ATTN, ...
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .factors import head_contribution

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]


def layer_residual(layer: Numbers, representation: Numbers) -> F64:
    """What all layer terms leave of the representation (T2.4): [K, 2L+1, E], [K, E] -> [K]."""
    return _residual(_total(layer), representation, representation)


def token_residual(
    token: Numbers,
    cls_token: Numbers,
    layer: Numbers,
    *,
    representation: Numbers,
) -> F64:
    """What tokens, class token, EMBED and MLP terms leave of the representation (T2.6).

    `token` [K, T, E], `cls_token` [K, E], `layer` [K, 2L+1, E], `representation` [K, E]; gives [K].
    """
    rest = _total(layer[:, 0::2])  # EMBED and the MLPs; ATTN terms are the odd ones
    return _residual(_total(token) + cls_token + rest, representation, representation)


def head_residual(
    factors: Numbers,
    basis: Numbers,
    attention: Numbers,
    *,
    representation: Numbers,
) -> F64:
    """What the heads leave of their layers' attention terms (T2.5), each over ||M(I)||.

    `factors` [K, *layers, H, e+3], `basis` [*layers, H, e+3, E], `attention` [K, *layers, E] (the
    layers' ATTN terms), `representation` [K, E]; gives [K, *layers].
    """
    # Side by side, the heads of a layer are one product, and no head's contribution is formed.
    side_by_side = factors.reshape(*factors.shape[:-2], -1)
    stacked = basis.reshape(*basis.shape[:-3], -1, basis.shape[-1])
    return _residual(head_contribution(side_by_side, stacked), attention, representation)


def _total(terms: Numbers) -> F64:
    return np.add.reduce(terms, axis=-2, dtype=np.float64)


def _residual(parts: Numbers, whole: Numbers, representation: Numbers) -> F64:
    left = np.asarray(np.linalg.norm(np.asarray(parts, np.float64) - whole, axis=-1))
    unit = np.linalg.norm(np.asarray(representation, np.float64), axis=-1)
    return left / unit.reshape(-1, *(1,) * (left.ndim - 1))
