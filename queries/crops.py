"""Where each pixel of the crop that a model sees lies in the original image.

The steps are those of open_clip's and torchvision's preprocessing. Something drawn on the original
(a mask) takes the same steps by nearest neighbour and so lines up with the crop.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

I64: TypeAlias = npt.NDArray[np.int64]

_STEP = re.compile(r"^ {4}(?P<name>\w+)\((?P<options>.*)\)$", re.MULTILINE)
_PLACELESS = {
    *("MaybeConvertMode", "MaybeToTensor", "Normalize", "ToTensor", "PILToTensor", "ToImage"),
    *("ToDtype", "ConvertImageDtype"),
}


@dataclass(frozen=True)
class Step:
    """Resizing or cropping to `size` = (height, width).

    `shortest` makes the shorter side `size[0]` long; `cover` and `contain` keep the image's shape
    and leave nothing of `size` empty or nothing of the image outside; `squash` resizes to it;
    `center` cuts the middle out, with empty space around a smaller image.
    """

    kind: Literal["shortest", "cover", "contain", "squash", "center"]
    size: tuple[int, int]


def crop_steps(preprocessing: Mapping[str, Any]) -> tuple[Step, ...] | None:
    """The steps of a model's recorded preprocessing; None where they cannot be told.

    `preprocessing` has open_clip's `size` and `resize_mode`, or torchvision's own description of
    its steps in `transform`.
    """
    if "resize_mode" not in preprocessing:
        return _described(str(preprocessing.get("transform", "")))
    height, width = preprocessing["size"]
    size = (int(height), int(width))
    match preprocessing["resize_mode"]:
        case "squash":
            return (Step("squash", size),)
        case "longest":
            return (Step("contain", size), Step("center", size))
        case "shortest":
            first = "shortest" if height == width else "cover"
            return (Step(first, size), Step("center", size))
        case _:
            return None


def crop_places(steps: tuple[Step, ...], size: tuple[int, int]) -> tuple[I64, I64]:
    """The row and the column of the original under each row [h] and column [w] of the crop.

    `size` is the original's (height, width); -1 is empty space around the image.
    """
    places = [np.arange(side) for side in size]
    for step in steps:
        now = (len(places[0]), len(places[1]))
        if step.kind == "center":
            places = [_centered(place, to) for place, to in zip(places, step.size, strict=True)]
        else:
            target = _resized(step, now)
            places = [_nearest(place, to) for place, to in zip(places, target, strict=True)]
    return places[0], places[1]


def cropped(mask: npt.NDArray[Any], steps: tuple[Step, ...]) -> npt.NDArray[Any]:
    """What of a mask [H, W] lies under the crop [h, w], by nearest neighbour; 0 outside of it."""
    rows, columns = crop_places(steps, (mask.shape[0], mask.shape[1]))
    found = mask[rows[:, None], columns]
    return np.where((rows[:, None] >= 0) & (columns >= 0), found, 0).astype(mask.dtype)


def _resized(step: Step, now: tuple[int, int]) -> tuple[int, int]:
    """The size after resizing, rounded as torchvision and open_clip do."""
    if step.kind == "squash":
        return step.size
    if step.kind == "shortest":
        long = int(step.size[0] * max(now) / min(now))
        return (step.size[0], long) if now[0] <= now[1] else (long, step.size[0])
    ratios = [side / to for side, to in zip(now, step.size, strict=True)]
    ratio = min(ratios) if step.kind == "cover" else max(ratios)
    return round(now[0] / ratio), round(now[1] / ratio)


def _nearest(places: I64, new: int) -> I64:
    """Of each of `new` cells the old one under its center."""
    old = len(places)
    return places[(2 * np.arange(new) + 1) * old // (2 * new)]


def _centered(places: I64, new: int) -> I64:
    empty = max(new - len(places), 0)
    padded = np.pad(places, (empty // 2, (empty + 1) // 2), constant_values=-1)
    first = round((len(padded) - new) / 2)
    return padded[first : first + new]


def _described(transform: str) -> tuple[Step, ...] | None:
    """The steps in a `Compose`'s text; None where one of them may move pixels in another way."""
    if not transform.startswith("Compose("):
        return None
    listed = [line for line in transform.splitlines()[1:-1] if re.match(r" {4}\S", line)]
    found = list(_STEP.finditer(transform))
    if len(found) != len(listed):
        return None
    steps: list[Step] = []
    for match in found:
        name, options = match["name"], match["options"]
        if name in _PLACELESS:
            continue
        step = _step(name, options)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)


def _step(name: str, options: str) -> Step | None:
    sizes = re.search(r"size=(\d+|[(\[][\d, ]+[)\]])", options)
    if sizes is None or re.search(r"max_size=\d", options):
        return None
    given = ast.literal_eval(sizes[1])
    size = [given] if isinstance(given, int) else list(given)
    whole = (size[0], size[-1])
    match name:
        case "Resize":
            return Step("shortest" if len(size) == 1 else "squash", whole)
        case "CenterCrop" | "CenterCropOrPad":
            return Step("center", whole)
        case "ResizeKeepRatio" if "longest=0.000" in options:
            return Step("cover", whole)
        case "ResizeKeepRatio" if "longest=1.000" in options:
            return Step("contain", whole)
        case _:
            return None
