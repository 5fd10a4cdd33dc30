"""A head's contribution as a few numbers an image times a fixed matrix of the head.

Everything here follows `docs/mathematics.md`, "Heads": the contribution of a head to image I is
`c_head(I) = f(I) @ basis`, where `f = [u/sigma, mu/sigma, 1/sigma, 1]` (e+3 numbers, the image's
factors) and `basis` [e+3, E] comes from the weights alone. Arrays may be float16 as stored; they
are converted once, on entry. Rows of NaN (rejected images) stay NaN, and moments skip them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSelection

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]

_BLOCK = 4096


class FactorStatistics(NamedTuple):
    """Mean [..., e+3], covariance [..., e+3, e+3] and number of images behind them."""

    mean: F64
    covariance: F64
    images: int


def head_factors(
    values: Numbers,
    scale: Numbers,
    *,
    dtype: npt.DTypeLike = np.float64,
) -> Numbers:
    """The factors f = [u/sigma, mu/sigma, 1/sigma, 1] of one or more heads (T2.6 with T-A.2).

    `values` u [K, ..., e] and `scale` [K, 3 or more] (mu, sigma, ||M||, ...) give
    [K, ..., e+3] in `dtype`: float64 where variances are taken, float32 is enough to show.
    """
    values = np.asarray(values)
    scale = np.asarray(scale, dtype=np.float64).reshape(
        len(scale), *(1,) * (values.ndim - 2), scale.shape[-1]
    )
    mean, sigma = scale[..., 0], scale[..., 1]
    width = values.shape[-1]
    factors = np.empty((*values.shape[:-1], width + 3), dtype=dtype)
    np.divide(values, sigma[..., None], out=factors[..., :width], casting="same_kind")
    factors[..., width] = mean / sigma
    factors[..., width + 1] = 1 / sigma
    factors[..., width + 2] = np.where(np.isnan(sigma), np.nan, 1)
    return factors


def head_token_factors(
    weight: Numbers,
    value: Numbers,
    scale: Numbers,
    *,
    dtype: npt.DTypeLike = np.float64,
) -> Numbers:
    """The factors of every token's part of one head, so that their sum over tokens is f (T2.6).

    `weight` alpha [K, T+1] and `value` v [K, T+1, e] (index 0 is the class token), `scale` [K, 3 or
    more]; gives [K, T+1, e+3]. The shared constants are split equally over the T+1 tokens.
    """
    value = np.asarray(value, dtype=np.float64)
    tokens, width = value.shape[-2:]
    factors = head_factors(np.asarray(weight, np.float64)[..., None] * value, scale, dtype=dtype)
    factors[..., width:] /= tokens
    return factors


def head_contribution(factors: Numbers, basis: Numbers, norms: Numbers | None = None) -> Numbers:
    """The contributions c = f @ basis in the joint space (T2.6).

    `factors` [*rows, *heads, e+3] and `basis` [*heads, e+3, E] give [*rows, *heads, E]; with one
    head, `*heads` is empty. `norms` [K], the images' ||M||, divides them so that all components add
    up to a unit vector.
    """
    contribution = _per_head(factors, basis)
    return contribution if norms is None else contribution / _along_rows(norms, contribution)


def head_token_contribution(
    weight: Numbers,
    value: Numbers,
    scale: Numbers,
    *,
    basis: Numbers,
) -> Numbers:
    """The contributions c_{i,l,h} [K, T+1, E] of every token through one head (T2.6).

    Arguments as for `head_token_factors`, and `basis` [e+3, E]. Their sum over the tokens is
    the head's contribution. To score them against a text, `head_token_factors` folded with
    `basis @ text` is E/(e+3) times cheaper.
    """
    return head_contribution(head_token_factors(weight, value, scale), basis)


def head_norms(factors: Numbers, basis: Numbers) -> Numbers:
    """The length ||c|| of every contribution, without forming one.

    Shapes as for `head_contribution`; gives [*rows, *heads]. Works through the triangular factor of
    the basis: its Gram matrix would square the cancellation between nearly dependent rows.
    """
    triangle = np.linalg.qr(np.asarray(np.swapaxes(basis, -1, -2), np.float64), mode="r")
    return np.linalg.norm(_per_head(factors, np.swapaxes(triangle, -1, -2)), axis=-1)


def head_share(factors: Numbers, basis: Numbers, representation: Numbers) -> Numbers:
    """The share <c, M> / ||M||^2 of the representation that each head writes.

    `factors` [K, *heads, e+3], `basis` [*heads, e+3, E], `representation` M [K, E]; gives
    [K, *heads]. Over all terms of the decomposition the shares of an image add up to 1.
    """
    representation = np.asarray(representation, dtype=np.float64)
    folded = np.moveaxis(representation @ np.swapaxes(basis, -1, -2), -2, 0)
    share = np.einsum("...f,...f->...", folded, factors)
    return share / _along_rows(np.einsum("ke,ke->k", representation, representation), share)


def moments(factors: Numbers, norms: Numbers) -> F64:
    """Second moments of g = [w f, 1] over the images: all that TEXTSPAN needs to know of them.

    `factors` [K, *heads, e+3] (float64, or the moments carry float32 rounding), `norms` ||M|| [K];
    gives [2, *heads, e+4, e+4] for w = 1 and w = 1/||M||. Rows with a NaN are skipped. Moments
    of parts of the images add up to those of the whole.
    """
    factors = np.asarray(factors)
    norms = np.asarray(norms, dtype=np.float64)
    *heads, width = factors.shape[1:]
    total = np.zeros((2, *heads, width + 1, width + 1))
    for start in range(0, len(factors), _BLOCK):
        block = np.asarray(factors[start : start + _BLOCK], dtype=np.float64)
        norm = norms[start : start + _BLOCK]
        usable = np.isfinite(block).all(axis=tuple(range(1, block.ndim))) & np.isfinite(norm)
        if not usable.all():
            block, norm = block[usable], norm[usable]
        rows = np.ones((*heads, len(block), width + 1))
        rows[..., :width] = np.moveaxis(block, 0, -2)
        total[0] += np.swapaxes(rows, -1, -2) @ rows
        rows[..., :width] /= norm[:, None]
        total[1] += np.swapaxes(rows, -1, -2) @ rows
    return total


def covariance(moment: F64, *, normalize: bool = False) -> FactorStatistics:
    """Mean and covariance (divided by K) of the factors from their `moments`.

    `moment` [2, ..., e+4, e+4]; `normalize` takes those of f/||M||. Raises `BadSelection` where
    the moments are of no image.
    """
    chosen = moment[1 if normalize else 0]
    images = round(float(chosen[..., -1, -1].flat[0]))
    if images == 0:
        msg = "No image to take moments of: the selection is empty or holds only rejected images."
        raise BadSelection(msg)
    mean = chosen[..., -1, :-1] / images
    second = chosen[..., :-1, :-1] / images
    return FactorStatistics(mean, second - mean[..., :, None] * mean[..., None, :], images)


def _per_head(factors: Numbers, matrices: Numbers) -> Numbers:
    """[*rows, *heads, a] times [*heads, a, b] as one matrix product a head."""
    factors = np.asarray(factors)
    if factors.dtype == np.float16:
        factors = factors.astype(np.float32)
    rows = factors.shape[: factors.ndim - 1 - (matrices.ndim - 2)]
    flat = np.moveaxis(factors.reshape(-1, *factors.shape[len(rows) :]), 0, -2)
    product = np.moveaxis(flat @ matrices, -2, 0)
    return product.reshape(*rows, *product.shape[1:])


def _along_rows(numbers: Numbers, like: Numbers) -> Numbers:
    """One number an image, shaped to divide an array whose first axis is the images."""
    return np.asarray(numbers).reshape(-1, *(1,) * (like.ndim - 1))
