"""Where in the image a text is written: scores of token contributions, as maps.

A map is `<c_token^i, t>` over the image's patches (thesis, section 2.5). Everything is linear in
the direction t, so a difference of texts or the removal of an average map is a change of t
(`map_direction`), made once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .factors import head_token_factors
from .retrieval import fold

Numbers = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]


def map_direction(
    text: Numbers,
    *,
    relative_to: Numbers | None = None,
    mean_text: Numbers | None = None,
) -> Numbers:
    """The direction whose map is asked for: [E], in float64.

    `relative_to` [E] takes another text's map away; `mean_text` [E], the mean of a pool's texts,
    takes the average map over that pool away (thesis, section 2.5: "to normalize out bias terms"),
    and cancels where both are given, since it would be taken from both maps.
    """
    direction = np.asarray(text, dtype=np.float64)
    taken = mean_text if relative_to is None else relative_to
    return direction if taken is None else direction - np.asarray(taken, np.float64)


def token_map(token: Numbers, direction: Numbers) -> F32:
    """The scores <c_token^i, t> of every patch (thesis, section 2.5).

    `token` [..., T, E] and `direction` [E] from `map_direction` give [..., T].
    """
    return np.asarray(token, np.float32) @ np.asarray(direction, np.float32)


def head_token_map(
    weight: Numbers,
    value: Numbers,
    scale: Numbers,
    *,
    basis: Numbers,
    direction: Numbers,
) -> F32:
    """The scores <c_{i,l,h}, t> of every patch through one head (T2.6, Figure 2.6).

    `weight` alpha [K, T+1], `value` v [K, T+1, e], `scale` [K, 3 or more], `basis` [e+3, E] and
    `direction` [E] give [K, T]: the class token, index 0, is no patch and is left out.
    """
    factors = head_token_factors(weight, value, scale)
    return (factors[:, 1:] @ fold(basis, direction)).astype(np.float32)


def patch_grid(scores: Numbers, grid: tuple[int, int] | None = None) -> Numbers:
    """Scores [..., T] laid out as the image's patches [..., rows, columns], row by row.

    Without `grid` = (rows, columns) they make a square; raises `ValueError` where they do not.
    """
    patches = scores.shape[-1]
    if grid is None:
        side = round(patches**0.5)
        grid = (side, side)
    if grid[0] * grid[1] != patches:
        msg = f"{patches} patches do not make a grid of {grid[0]} x {grid[1]}; give its real shape."
        raise ValueError(msg)
    return scores.reshape(*scores.shape[:-1], *grid)


def upsample(maps: Numbers, size: tuple[int, int]) -> Numbers:
    """Maps [..., h, w] at `size` = (height, width) in pixels, bilinearly.

    Pixel centers are at half integers and borders are clamped, as in
    `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    """
    maps = np.asarray(maps)
    dtype = np.result_type(maps.dtype, np.float32)
    down = _bilinear(maps.shape[-2], size[0]).astype(dtype)
    across = _bilinear(maps.shape[-1], size[1]).astype(dtype)
    return down @ maps.astype(dtype) @ across.T


def unit_range(maps: Numbers, *, positive: bool = False) -> Numbers:
    """Each map [..., h, w] scaled to [0, 1] for display; a constant map becomes zeros.

    `positive` clips at 0 first, as the segmentation protocol does.
    """
    maps = np.asarray(maps)
    if positive:
        maps = np.maximum(maps, 0)
    low = maps.min(axis=(-2, -1), keepdims=True)
    reach = maps.max(axis=(-2, -1), keepdims=True) - low
    return (maps - low) / np.where(reach > 0, reach, 1)


def _bilinear(size: int, new: int) -> npt.NDArray[np.float64]:
    """The weights [new, size] of linear interpolation from `size` to `new` cells."""
    place = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
    left = np.minimum(place.astype(np.int64), max(size - 2, 0))
    weights = np.zeros((new, size))
    weights[np.arange(new), left] = 1 - (place - left)
    weights[np.arange(new), np.minimum(left + 1, size - 1)] += place - left
    return weights
