"""Heatmaps: where in an image a text is written, as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.heatmaps import unit_range, upsample
from ..schema.errors import BadQuestion
from .backdrops import backdrop
from .pictured import Pictured

if TYPE_CHECKING:
    import os

    from PIL.Image import Image


class Heatmap(Pictured):
    """Scores `<c_token, t>` of an image's patches [rows, columns], `values` in float32.

    `text` is what was asked for, `head` the head whose tokens were taken (None for all heads),
    `relative_to` the text whose map was taken away.
    """

    def __init__(
        self,
        values: npt.NDArray[np.float32],
        *,
        text: str,
        head: str | None,
        relative_to: str | None,
        background: Callable[[], Image | None],
    ) -> None:
        self.values = values
        self.text = text
        self.head = head
        self.relative_to = relative_to
        self._background = background

    def upsampled(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """The scores at `size` = (height, width) in pixels, bilinearly."""
        return upsample(self.values, size).astype(np.float32)

    def picture(self, *, colors: str = "turbo", strength: float = 0.55) -> Image:
        """The scores, scaled to the map's own range, over the crop that the model saw.

        `colors` is one of matplotlib's colormaps, `strength` how much it covers (0 to 1). Over
        grey where the run keeps no thumbnails. Raises `BadQuestion` for an unknown colormap.
        """
        from matplotlib import colormaps
        from PIL import Image

        if colors not in colormaps:
            msg = f"matplotlib has no colormap {colors!r}; 'turbo', 'viridis' or 'gray' are some."
            raise BadQuestion(msg)
        crop = backdrop(self._background())
        level = unit_range(self.upsampled((crop.height, crop.width)))
        painted = np.asarray(colormaps[colors](level))[..., :3] * 255
        mixed = strength * painted + (1 - strength) * np.asarray(crop, np.float64)
        return Image.fromarray(np.rint(mixed).astype(np.uint8))

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the picture (`.png`, `.webp`, `.jpg`) or the scores (`.npy`); return the path.

        Raises `BadQuestion` for another suffix.
        """
        path = Path(path)
        if path.suffix == ".npy":
            np.save(path, self.values)
        elif path.suffix in (".png", ".webp", ".jpg", ".jpeg"):
            self.picture(**options).save(path)
        else:
            msg = f"{path.name!r} names no format; end it in .png, .webp, .jpg or .npy."
            raise BadQuestion(msg)
        return path

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.values.shape
        parts = [f"heatmap {height} x {width} of {self.text!r}"]
        if self.relative_to is not None:
            parts.append(f"relative to {self.relative_to!r}")
        if self.head is not None:
            parts.append(f"through {self.head}")
        return ", ".join(parts)
