"""Masks of a run's images: found wherever they are, and laid over the crops that the model saw."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..queries.crops import crop_steps, cropped
from ..schema.errors import BadMask, MaskMissing

Masks: TypeAlias = Any
"""A folder of PNG files named like the images, an array [images, H, W], or a mapping or function
from an image's key to its mask."""
Mask: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = tuple[int, int]

_MODES = {"1", "L", "P", "I", "I;16", "F"}  # one number a pixel


class CropMasks:
    """The masks of some images, laid over their crops; raises `MaskMissing` where one lacks.

    `keys` names the images, `run` is their run's row in the catalogue; only the images at the
    places `needed` have to have one, by default all.
    """

    def __init__(
        self,
        masks: Masks,
        keys: Sequence[str],
        run: Mapping[str, Any],
        *,
        needed: Sequence[int] | None = None,
    ) -> None:
        self._keys = list(keys)
        self._read = _reader(masks, self._keys, range(len(keys)) if needed is None else needed)
        self._steps = crop_steps(run["preprocessing"])
        self._crop = crop_size(run)

    def read(self, place: int, original: Size) -> Mask:
        """The mask of the image at `place`, as it lies over its crop: [h, w].

        `original` is the image's (height, width). A mask of that size takes the resizing and
        cropping that the image took, by nearest neighbour; one of the crop's size is taken as it
        is. Raises `BadMask` for another size, `MaskMissing` or what the given function raises.
        """
        key, mask = self._keys[place], self._read(place)
        if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and np.isnan(mask).any()):
            msg = f"the mask of {key!r} holds {_kind(mask)}; a mask is numbers, 0 for background."
            raise BadMask(msg)
        if mask.ndim != 2 or mask.shape not in (original, self._crop):
            sizes = " or ".join(dict.fromkeys(map(_size, (original, self._crop))))
            msg = (
                f"the mask of {key!r} is {_size(mask.shape)}; its height and width must be the "
                f"image's or the crop's: {sizes}, a number a pixel."
            )
            raise BadMask(msg)
        if mask.shape == self._crop:
            return mask
        if self._steps is None:
            msg = (
                "the run does not tell how its model's own preprocessing crops an image, so no "
                f"mask of a whole image can follow; give masks of the crops, {_size(self._crop)}."
            )
            raise BadMask(msg)
        return cropped(mask, self._steps)


def _kind(mask: Mask) -> str:
    return "NaN" if mask.dtype.kind == "f" else f"{mask.dtype} values"


def crop_size(run: Mapping[str, Any]) -> Size:
    """Height and width of the crops that the model of a run sees; `run` is its catalogue row."""
    size = run["preprocessing"].get("size", [run["image_size"]])
    return int(size[0]), int(size[-1])


def _reader(masks: Masks, keys: list[str], needed: Sequence[int]) -> Callable[[int], Mask]:
    if isinstance(masks, str | os.PathLike):
        files = _mask_files(Path(masks), keys, needed)
        return lambda place: _read_png(files[place])
    if isinstance(masks, Mapping):
        given = cast("Mapping[str, Any]", masks)
        missing = [keys[place] for place in needed if keys[place] not in given]
        if missing:
            raise _missing(missing, "the mapping's keys are the images' keys.")
        return lambda place: np.asarray(given[keys[place]])
    if callable(masks):
        function = cast("Callable[[str], Any]", masks)
        return lambda place: np.asarray(function(keys[place]))
    if isinstance(masks, Sequence) and len(masks) == len(keys):
        several = cast("Sequence[Any]", masks)  # photographs differ in size
        return lambda place: np.asarray(several[place])
    array = np.asarray(masks)
    if array.ndim != 3 or len(array) != len(keys):
        msg = (
            f"masks of shape {list(array.shape)} are none for {len(keys):,} images: give "
            f"[{len(keys)}, height, width], in the order of the chosen images (all readable ones, "
            "by id, where none are chosen), a folder, or a mapping from keys to masks."
        )
        raise BadMask(msg)
    return lambda place: array[place]


def _mask_files(folder: Path, keys: list[str], needed: Sequence[int]) -> dict[int, Path]:
    if not folder.is_dir():
        msg = f"there is no folder {str(folder)!r} of masks."
        raise MaskMissing(msg)
    names = [PurePosixPath(key).name for key in keys]
    alone = len(set(names)) == len(names)  # else a file without folders would serve several images
    files: dict[int, Path] = {}
    missing: list[str] = []
    for place in needed:
        key, name = keys[place], names[place]
        tried = [*_mask_names(key.lstrip("/")), *(_mask_names(name) if alone else ())]
        found = next((folder / one for one in tried if (folder / one).is_file()), None)
        if found is None:
            missing.append(key)
        else:
            files[place] = found
    if missing:
        looked = ", ".join(dict.fromkeys(_mask_names(missing[0].lstrip("/"))))
        raise _missing(missing, f"{str(folder)!r} holds none of {looked}.")
    return files


def _mask_names(key: str) -> list[str]:
    """What a mask's file may be called: a name with `_mask` comes before an image's own."""
    stem = str(PurePosixPath(key).with_suffix("")) if PurePosixPath(key).suffix else key
    return [f"{stem}_mask.png", f"{key}_mask.png", f"{stem}.png", f"{key}.png"]


def _read_png(path: Path) -> Mask:
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode in _MODES:
                return np.asarray(image)
            mode = image.mode
    except OSError as error:
        msg = f"the mask {str(path)!r} cannot be read: {error}."
        raise BadMask(msg) from error
    msg = (
        f"{str(path)!r} is an image of colors ({mode}), not a mask: a mask holds one number a "
        "pixel, 0 where the background is."
    )
    raise BadMask(msg)


def _missing(keys: list[str], where: str) -> MaskMissing:
    more = f" (nor of {len(keys) - 1:,} others)" if len(keys) > 1 else ""
    msg = f"there is no mask of image {keys[0]!r}{more}: {where} images= or where= leave some out."
    return MaskMissing(msg)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
