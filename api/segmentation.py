"""A segmentation: where in the crop of an image a text is, as a mask and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.segmentation import Threshold
from ..schema.errors import BadQuestion
from .backdrops import backdrop
from .pictured import Pictured

if TYPE_CHECKING:
    import os

    from PIL.Image import Image


class Segmentation(Pictured):
    """`mask` [h, w], true where a text is, and `values` [h, w], the heat from 0 to 1 behind it.

    `text` is what was asked for, `threshold` what the heat had to pass.
    """

    def __init__(
        self,
        values: npt.NDArray[np.float32],
        mask: npt.NDArray[np.bool_],
        *,
        text: str,
        threshold: Threshold,
        background: Callable[[], Image | None],
    ) -> None:
        self.values = values
        self.mask = mask
        self.text = text
        self.threshold: Threshold = threshold
        self._background = background

    @property
    def share(self) -> float:
        """The share of the crop's pixels that the mask covers."""
        return float(self.mask.mean())

    def picture(
        self, *, color: tuple[int, int, int] = (255, 0, 80), strength: float = 0.6
    ) -> Image:
        """The crop that the model saw, the mask painted over it and the rest darkened.

        `strength` is how much of the paint and of the dark there is (0 to 1). Over grey where the
        run keeps no thumbnails.
        """
        from PIL import Image

        crop = backdrop(self._background())
        mask = Image.fromarray(self.mask).resize(crop.size, Image.Resampling.NEAREST)
        paint = np.where(np.asarray(mask)[..., None], np.array(color), 0)
        mixed = strength * paint + (1 - strength) * np.asarray(crop, np.float64)
        return Image.fromarray(np.rint(mixed).astype(np.uint8))

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the picture (`.webp`, `.jpg`), the mask (`.png`, 0 and 255) or the heat (`.npy`).

        A `.png` is what `evaluate_segmentation` reads as a mask. Returns the path; raises
        `BadQuestion` for another suffix.
        """
        from PIL import Image

        path = Path(path)
        if path.suffix == ".npy":
            np.save(path, self.values)
        elif path.suffix == ".png":
            Image.fromarray(self.mask.astype(np.uint8) * np.uint8(255)).save(path)
        elif path.suffix in (".webp", ".jpg", ".jpeg"):
            self.picture(**options).save(path)
        else:
            msg = f"{path.name!r} names no format; end it in .png, .webp, .jpg or .npy."
            raise BadQuestion(msg)
        return path

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.mask, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return f"segmentation {height} x {width} of {self.text!r}: {self.share:.1%} of the crop"


def check_threshold(threshold: Any) -> None:
    """Raise `BadQuestion` unless a threshold is "mean" or a number from 0 to 1."""
    number = isinstance(threshold, int | float | np.floating) and not isinstance(threshold, bool)
    if threshold == "mean" or (number and 0 <= threshold <= 1):
        return
    msg = f"threshold={threshold!r} is neither 'mean' nor a number from 0 to 1, as the heat is."
    raise BadQuestion(msg)


def check_size(size: Any) -> tuple[int, int]:
    """A (height, width) in whole pixels; raises `BadQuestion` for anything else."""
    sides = list(size) if isinstance(size, tuple | list) else []
    if len(sides) == 2 and all(isinstance(side, int | np.integer) and side > 0 for side in sides):
        return int(sides[0]), int(sides[1])
    msg = f"size={size!r} is no (height, width) in pixels, such as (224, 224)."
    raise BadQuestion(msg)
