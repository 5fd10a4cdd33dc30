"""What heatmaps and segmentations are painted over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schema.errors import ImageFileMissing

if TYPE_CHECKING:
    from PIL.Image import Image

    from .open_run import OpenRun

_SIDE = 224  # small crops are enlarged to this


def backdrop(crop: Image | None) -> Image:
    """A crop at a size to look at; grey where there is none."""
    from PIL import Image

    crop = crop or Image.new("RGB", (_SIDE, _SIDE), (128, 128, 128))
    grow = max(_SIDE / max(crop.size), 1)
    return crop.resize((round(crop.width * grow), round(crop.height * grow)))


def crop_of(run: OpenRun, row: int) -> Image | None:
    """The crop of an image that the model saw; None where the run keeps none."""
    try:
        return run.pictures.thumbnail(row)
    except ImageFileMissing:
        return None
