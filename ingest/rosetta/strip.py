"""An inversion step by step: kept pictures side by side, or as a moving GIF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...schema.zoo_errors import BadTarget

if TYPE_CHECKING:
    import os

Frames = npt.NDArray[Any]
_GAP = 2


def strip(frames: Frames, *, most: int | None = None, gap: int = _GAP) -> Image.Image:
    """Pictures [steps, S, S, 3] uint8 side by side, or several rows of them [steps, rows, ...].

    At most `most` of the steps, evenly spread, with the first and the last; `gap` pixels of white
    lie between. Raises `BadTarget` where there are no pictures.
    """
    rows = _rows(frames, most)
    steps, count, height, width, _ = rows.shape
    size = (count * (height + gap) - gap, steps * (width + gap) - gap, 3)
    canvas = np.full(size, 255, np.uint8)
    for step, column in enumerate(rows):
        for row, picture in enumerate(column):
            top, left = row * (height + gap), step * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas)


def save_strip(
    frames: Frames, path: str | os.PathLike[str], *, milliseconds: int = 80, most: int | None = None
) -> Path:
    """Write kept pictures as a strip (`.png`, `.webp`, `.jpg`) or as a `.gif` that runs forever.

    `frames` as in `strip`; in a GIF rows lie beside each other, each step for `milliseconds`.
    Returns the path; raises `BadTarget` for another suffix or no pictures.
    """
    path = Path(path)
    if path.suffix == ".gif":
        first, *rest = [strip(pictures) for pictures in _rows(frames, most)]
        first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0)
    elif path.suffix in (".png", ".webp", ".jpg", ".jpeg"):
        strip(frames, most=most).save(path)
    else:
        msg = f"{path.name!r} names no format; end it in .png, .webp, .jpg or .gif."
        raise BadTarget(msg)
    return path


def _rows(frames: Frames, most: int | None) -> Frames:
    """Frames as [steps, rows, H, W, 3], at most `most` steps of them."""
    given = np.asarray(frames)
    if given.ndim < 4 or given.shape[-1] != 3 or given.dtype != np.uint8 or not given.size:
        msg = (
            f"frames of shape {given.shape} and type {given.dtype} are no pictures of steps; keep "
            "some with keep_every=10."
        )
        raise BadTarget(msg)
    rows = given.reshape(len(given), -1, *given.shape[-3:])
    if most is None or len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, max(1, most)).round().astype(int)]
