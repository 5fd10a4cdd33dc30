"""Pictures of the renderer's shapes and textures, which the generator looks things up in."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..attributes import BACKGROUNDS, SHAPES, SIZES, TEXTURES
from ..render import SPRITE, render
from ..scenes import DIAMETERS, IMAGE_SIZE, FloatArray
from .latents import OUTLINE_ROTATION, plain_scenes

_CENTER: Final = IMAGE_SIZE // 2
_SPRITE: Final = slice(_CENTER - SPRITE // 2, _CENTER + SPRITE // 2 + 1)
_WHITE: Final = 255.0
_DARKER: Final = 0.4  # a texture's second color, as a share of the first


def draw_outlines() -> Tensor:
    """How far each shape at its largest covers each pixel: [shapes, 31, 31] in 0..1."""
    return torch.from_numpy(_covered())


def draw_patterns() -> Tensor:
    """Share of the second color of each texture and size: [textures, sizes, 31, 31] in 0..1.

    As far as any of the largest shapes reaches; 0 beyond.
    """
    shapes = np.arange(len(SHAPES))
    covered = _covered()
    widest, fully = covered.argmax(0), covered.max(0) > 0.99
    rows, columns = np.mgrid[:SPRITE, :SPRITE]
    patterns = np.zeros((len(TEXTURES), len(SIZES), SPRITE, SPRITE), np.float32)
    for texture in range(1, len(TEXTURES)):
        for size in range(len(SIZES)):
            gray = _draw_white(shape=shapes, texture=texture, size=size)
            seen = gray[widest, rows, columns]
            patterns[texture, size] = (_WHITE - seen) / (_WHITE * (1 - _DARKER)) * fully
    return torch.from_numpy(patterns.clip(0, 1))


def _covered() -> FloatArray:
    gray = _draw_white(shape=np.arange(len(SHAPES)))
    black = gray.min()
    return ((gray - black) / (_WHITE - black)).astype(np.float32)


def _draw_white(**first: object) -> FloatArray:
    """Every shape at its largest, white on black: [shapes, 31, 31] in 0..255."""
    scenes = plain_scenes(
        len(SHAPES),
        background=BACKGROUNDS.index("black"),
        diameter=len(DIAMETERS) - 1,
        rotation=OUTLINE_ROTATION,
        x=_CENTER,
        y=_CENTER,
        color_jitter=_WHITE,
        **first,  # pyright: ignore[reportArgumentType]
    )
    return render(scenes).images[:, _SPRITE, _SPRITE, 0].astype(np.float32)
