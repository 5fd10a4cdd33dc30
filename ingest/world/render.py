"""Drawing scenes: 64 x 64 RGB images and, for every pixel, the object it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .attributes import BACKGROUNDS, SHAPES, TEXTURES
from .scenes import (
    BACKDROP_MARGIN,
    BACKDROP_VARIANTS,
    DIAMETERS,
    IMAGE_SIZE,
    ROTATIONS,
    TEXTURE_VARIANTS,
    FloatArray,
    Scenes,
)

SPRITE: Final = 31
_PAD: Final = SPRITE // 2 + 1
_CANVAS: Final = IMAGE_SIZE + 2 * _PAD
_SUPERSAMPLING: Final = 6
_VISIBLE_ALPHA: Final = 0.02
# So many scenes' canvases stay in the cache: three times faster than thousands at once.
_BLOCK: Final = 160

PALETTE: Final = np.array(
    [
        (220, 30, 35),
        (30, 165, 50),
        (35, 70, 220),
        (240, 220, 40),
        (245, 135, 20),
        (130, 40, 170),
        (250, 140, 190),
        (40, 210, 220),
        (125, 75, 35),
    ],
    np.float32,
)
_TEXTURE_PERIODS: Final = (4.0, 5.0, 7.0)
_TEXTURE_ANGLES: Final = (0.0, np.pi / 2, np.pi / 4, -np.pi / 4, 0.0, np.pi / 2)

Picture = npt.NDArray[np.floating[Any]]
Inside = Callable[[FloatArray, FloatArray], npt.NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Images uint8 [n, 64, 64, 3] and masks uint8 [n, 64, 64]: 0 background, k the k-th object."""

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]


def render(scenes: Scenes) -> Drawing:
    """Draw a batch of scenes; the same scenes give the same bytes.

    Objects are painted in order, so a later one hides an earlier one; a pixel belongs to the last
    object that covers more than half of it.
    """
    starts = range(0, max(len(scenes), 1), _BLOCK)
    blocks = [_render_block(scenes.take(slice(i, i + _BLOCK))) for i in starts]
    if len(blocks) == 1:
        return blocks[0]
    return Drawing(
        np.concatenate([block.images for block in blocks]),
        np.concatenate([block.masks for block in blocks]),
    )


def _render_block(scenes: Scenes) -> Drawing:
    n = len(scenes)
    sprites, patterns = _sprites(), _patterns()
    canvas = np.zeros((n, _CANVAS, _CANVAS, 3), np.uint8)
    inner = slice(_PAD, _PAD + IMAGE_SIZE)
    canvas[:, inner, inner] = _crop_backdrops(scenes)
    masks = np.zeros((n, _CANVAS, _CANVAS), np.uint8)
    pixels, owners = canvas.reshape(-1, 3), masks.reshape(-1)
    row, column = np.divmod(np.arange(SPRITE * SPRITE), SPRITE)
    offsets = row * _CANVAS + column

    for slot in range(int(scenes.count.max(initial=0))):
        drawn = np.flatnonzero(scenes.count > slot)
        alpha = sprites[
            scenes.shape[drawn, slot], scenes.diameter[drawn, slot], scenes.rotation[drawn, slot]
        ].reshape(len(drawn), -1)
        pattern = patterns[
            scenes.texture[drawn, slot],
            scenes.size[drawn, slot],
            scenes.texture_variant[drawn, slot],
        ].reshape(len(drawn), -1)
        color, second = _colors(scenes, drawn, slot)
        corner_y = scenes.y[drawn, slot] + _PAD - SPRITE // 2
        corner_x = scenes.x[drawn, slot] + _PAD - SPRITE // 2
        start = (drawn * _CANVAS + corner_y) * _CANVAS + corner_x

        which, where = np.nonzero(alpha > _VISIBLE_ALPHA)
        target = start[which] + offsets[where]
        opacity = alpha[which, where][:, None]
        paint = color[which] + (second - color)[which] * pattern[which, where][:, None]
        under = pixels[target].astype(np.float32)
        pixels[target] = (under + opacity * (paint - under)).astype(np.uint8)
        owners[target[opacity[:, 0] > 0.5]] = slot + 1

    lit = canvas[:, inner, inner] * scenes.brightness[:, None, None, None]
    return Drawing(np.clip(lit, 0, 255).astype(np.uint8), masks[:, inner, inner].copy())


def _colors(
    scenes: Scenes, drawn: npt.NDArray[np.int64], slot: int
) -> tuple[FloatArray, FloatArray]:
    """The color of each object and the second color of its texture, [objects, 3] in 0..255."""
    color = np.clip(
        PALETTE[scenes.color[drawn, slot]] + scenes.color_jitter[drawn, slot], 0, 255
    ).astype(np.float32)
    light = scenes.light[drawn, slot][:, None]
    second = np.where(light, color * 0.3 + 178, color * 0.4).astype(np.float32)
    return color, second


def _crop_backdrops(scenes: Scenes) -> npt.NDArray[np.uint8]:
    bank = _backdrops()
    crops = np.empty((len(scenes), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for i in range(len(scenes)):
        y, x = int(scenes.crop_y[i]), int(scenes.crop_x[i])
        backdrop = bank[scenes.background[i], scenes.backdrop[i]]
        crop = backdrop[y : y + IMAGE_SIZE, x : x + IMAGE_SIZE]
        crops[i] = crop[:, ::-1] if scenes.flip[i] else crop
    return crops


def _polygon(sides: int, u: FloatArray, v: FloatArray) -> npt.NDArray[np.bool_]:
    half = np.pi / sides
    angle = (np.arctan2(v, u) + np.pi / 2 + half) % (2 * half) - half
    return np.hypot(u, v) * np.cos(angle) <= np.cos(half)


def _star(u: FloatArray, v: FloatArray) -> npt.NDArray[np.bool_]:
    half, inner = np.pi / 5, 0.42
    angle = np.abs((np.arctan2(v, u) + np.pi / 2 + half) % (2 * half) - half)
    radius = np.hypot(u, v)
    notch_x, notch_y = inner * np.cos(half), inner * np.sin(half)
    edge = (radius * np.cos(angle) - 1) * notch_y - radius * np.sin(angle) * (notch_x - 1)
    return edge <= 0


def _heart(u: FloatArray, v: FloatArray) -> npt.NDArray[np.bool_]:
    x, y = 1.2 * u, 0.1 - 1.2 * v
    return (x * x + y * y - 1) ** 3 - 1.6 * x * x * y**3 <= 0


def _cross(u: FloatArray, v: FloatArray) -> npt.NDArray[np.bool_]:
    across, down = np.abs(u), np.abs(v)
    return (np.minimum(across, down) <= 0.32) & (np.maximum(across, down) <= 0.95)


# Inside tests on the square |u|, |v| <= 1, v pointing down.
_INSIDE: Final[dict[str, Inside]] = {
    "circle": lambda u, v: np.hypot(u, v) <= 0.95,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= 0.8,
    "triangle": lambda u, v: (v <= 0.8) & (v >= 1.85 * np.abs(u) - 0.95),
    "star": _star,
    "cross": _cross,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.765) <= 0.215,
    "heart": _heart,
    "diamond": lambda u, v: 1.25 * np.abs(u) + np.abs(v) <= 0.98,
    "pentagon": lambda u, v: _polygon(5, u, v),
    "hexagon": lambda u, v: _polygon(6, u, v),
}


@cache
def _sprites() -> FloatArray:
    """Coverage of each pixel, [shapes, diameters, rotations, 31, 31] in 0..1."""
    fine = SPRITE * _SUPERSAMPLING
    axis = ((np.arange(fine) + 0.5) / _SUPERSAMPLING - SPRITE / 2).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    atlas = np.empty((len(SHAPES), len(DIAMETERS), len(ROTATIONS), SPRITE, SPRITE), np.float32)
    for r, degrees in enumerate(ROTATIONS):
        angle = np.float32(np.deg2rad(degrees))
        along, down = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        for d, diameter in enumerate(DIAMETERS):
            u, v = along / (diameter / 2), down / (diameter / 2)
            for s, shape in enumerate(SHAPES):
                inside = _INSIDE[shape](u, v)
                blocks = inside.reshape(SPRITE, _SUPERSAMPLING, SPRITE, _SUPERSAMPLING)
                atlas[s, d, r] = blocks.mean((1, 3))
    return atlas


@cache
def _patterns() -> FloatArray:
    """Share of the second color, [textures, sizes, variants, 31, 31] in 0..1."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:SPRITE, :SPRITE].astype(np.float32)
    shape = (len(TEXTURES), len(_TEXTURE_PERIODS), TEXTURE_VARIANTS, SPRITE, SPRITE)
    patterns = np.zeros(shape, np.float32)
    for z, period in enumerate(_TEXTURE_PERIODS):
        for k, angle in enumerate(_TEXTURE_ANGLES):
            shift_x, shift_y = rng.uniform(0, period, 2)
            wave = x * np.cos(angle) + y * np.sin(angle) + shift_x
            stripes = np.clip(2 * np.cos(2 * np.pi * wave / period) + 0.5, 0, 1)
            from_dot_x = (x + shift_x) % period - period / 2
            from_dot_y = (y + shift_y) % period - period / 2
            dots = np.clip(0.36 * period - np.hypot(from_dot_x, from_dot_y) + 0.5, 0, 1)
            tile = 0.55 * period
            checks = (np.floor((x + shift_x) / tile) + np.floor((y + shift_y) / tile)) % 2
            patterns[:, z, k] = (np.zeros_like(x), stripes, dots, checks)
    return patterns


@cache
def _backdrops() -> npt.NDArray[np.uint8]:
    """Backdrops [backgrounds, variants, 96, 96, 3], of which every scene shows another part."""
    side = IMAGE_SIZE + BACKDROP_MARGIN
    rng = np.random.default_rng(2)
    bank = np.empty((len(BACKGROUNDS), BACKDROP_VARIANTS, side, side, 3), np.uint8)
    for variant in range(BACKDROP_VARIANTS):
        for b, name in enumerate(BACKGROUNDS):
            bank[b, variant] = np.clip(_BACKDROPS[name](rng, side), 0, 255)
    return bank


def _plain(low: float, high: float) -> Callable[[np.random.Generator, int], Picture]:
    def paint(rng: np.random.Generator, side: int) -> Picture:
        return np.full((side, side, 3), rng.uniform(low, high), np.float32)

    return paint


def _water(rng: np.random.Generator, side: int) -> Picture:
    y, x = np.mgrid[:side, :side].astype(np.float32)
    phase = 2 * np.pi * y / rng.uniform(7, 12) + 2 * _clouds(rng, side, 5)
    wave = np.sin(phase + x * rng.uniform(-0.1, 0.1))
    return _tint((40, 110, 180), wave, (18, 24, 26)) + 3 * _grain(rng, side)


def _sand(rng: np.random.Generator, side: int) -> Picture:
    dunes = 8 * _clouds(rng, side, 6) + 6 * _clouds(rng, side, 20)
    return _tint((215, 190, 130), dunes, (1, 1, 1)) + 10 * _grain(rng, side)


def _grass(rng: np.random.Generator, side: int) -> Picture:
    blades = 16 * rng.normal(size=(side // 4, side)).repeat(4, axis=0)
    return _tint((70, 140, 55), 5 * _clouds(rng, side, 10) + blades, (0.7, 1.0, 0.5))


def _night(rng: np.random.Generator, side: int) -> Picture:
    sky = _tint((14, 16, 50), 5 * _clouds(rng, side, 4), (1, 1, 1))
    stars = rng.random((side, side, 1)) < 0.012
    return np.where(stars, rng.uniform(150, 255, (side, side, 1)), sky)


def _brick(rng: np.random.Generator, side: int) -> Picture:
    y, x = np.mgrid[:side, :side].astype(np.float32)
    course = np.floor(y / 8)
    along = x + 8 * (course % 2)
    mortar = ((y % 8) < 1.5) | ((along % 16) < 1.5)
    tones = 10 * rng.normal(size=(16, 16))
    tone = tones[course.astype(int) % 16, np.floor(along / 16).astype(int) % 16]
    wall = _tint((165, 80, 60), tone, (1, 1, 1)) + 4 * _grain(rng, side)
    return np.where(mortar[..., None], np.array((190, 185, 175)), wall)


_BACKDROPS: Final[dict[str, Callable[[np.random.Generator, int], Picture]]] = {
    "white": _plain(238, 255),
    "black": _plain(0, 18),
    "gray": _plain(110, 150),
    "water": _water,
    "sand": _sand,
    "grass": _grass,
    "night": _night,
    "brick": _brick,
}


def _tint(color: tuple[float, ...], strength: Picture, direction: tuple[float, ...]) -> Picture:
    return np.asarray(color, np.float32) + strength[..., None] * np.asarray(direction, np.float32)


def _grain(rng: np.random.Generator, side: int) -> FloatArray:
    return rng.normal(size=(side, side, 1)).astype(np.float32)


def _clouds(rng: np.random.Generator, side: int, knots: int) -> Picture:
    """Smooth noise: a knots x knots grid of normal values, interpolated bilinearly."""
    grid = rng.normal(size=(knots, knots)).astype(np.float32)
    at = np.linspace(0, knots - 1.001, side)
    low = at.astype(int)
    high, share = np.minimum(low + 1, knots - 1), (at - low).astype(np.float32)
    rows = grid[low] * (1 - share[:, None]) + grid[high] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, high] * share
