"""Edits of matched units' maps, before the latent is optimized to match them (thesis 4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ...schema.zoo_errors import BadEdit, UnknownEdit


class Edit(Protocol):
    """Turns maps [..., h, w] into others of the same shape.

    `afresh`: the optimization starts from a random latent, not from the one that was edited.
    """

    afresh: bool

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, edited."""
        ...


@dataclass(frozen=True)
class ZoomIn:
    """Enlarge by bilinear interpolation and crop the center (the thesis doubles)."""

    factor: float = 2.0
    afresh = False

    def __post_init__(self) -> None:
        _amount("factor", self.factor, least=1.0, most=16.0)

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, of which the center now fills all."""
        height, width = maps.shape[-2:]
        size = (round(height * self.factor), round(width * self.factor))
        large = F.interpolate(_images(maps), size, mode="bilinear")
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return large[..., top : top + height, left : left + width].reshape(maps.shape)


@dataclass(frozen=True)
class Shift:
    """Move maps by shares of their size, and pad them with zeros.

    `right` and `down` are from -1 to 1: a quarter moves a map of 4 x 4 by one place and one of 8 x
    8 by two. Where that is no whole number of places, the two nearest are mixed linearly, so that
    coarse and fine maps move equally far.
    """

    right: float = 0.0
    down: float = 0.0
    afresh = False

    def __post_init__(self) -> None:
        _amount("right", self.right)
        _amount("down", self.down)

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, moved."""
        return _moved(_moved(maps, self.down, dim=-2), self.right, dim=-1)


@dataclass(frozen=True)
class CopyPaste:
    """Move maps both ways and join a half of each: what stood in the middle stands there twice.

    The first half (the left one, or the upper one with `vertical`) comes from maps moved that way
    by `by` of their size, and the second from maps moved the other way.
    """

    by: float = 0.25
    vertical: bool = False
    afresh = True

    def __post_init__(self) -> None:
        _amount("by", self.by, least=0.0)

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, joined of two that were moved."""
        dim = -2 if self.vertical else -1
        half = maps.shape[dim] // 2
        first = _moved(maps, -self.by, dim=dim).narrow(dim, 0, half)
        second = _moved(maps, self.by, dim=dim).narrow(dim, half, maps.shape[dim] - half)
        return torch.cat([first, second], dim)


@dataclass(frozen=True)
class Lower:
    """Set maps to their minimum everywhere: what they stand for is to disappear."""

    afresh = False

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, their minimum all over."""
        return maps.amin((-2, -1), keepdim=True).expand_as(maps)


@dataclass(frozen=True)
class Raise:
    """Set maps to their maximum everywhere: what they stand for is to be all over."""

    afresh = False

    def __call__(self, maps: Tensor) -> Tensor:
        """Maps of the same shape, their maximum all over."""
        return maps.amax((-2, -1), keepdim=True).expand_as(maps)


EDITS: dict[str, Callable[..., Edit]] = {
    "zoom": ZoomIn,
    "shift": Shift,
    "copy-paste": CopyPaste,
    "lower": Lower,
    "raise": Raise,
}


def edit_of(name: str | Edit, **amounts: Any) -> Edit:
    """The edit of a name: zoom(factor), shift(right, down), copy-paste(by, vertical), lower, raise.

    Raises `UnknownEdit` for another name, `BadEdit` for an amount that the edit does not take.
    """
    if not isinstance(name, str):
        if amounts:
            msg = f"{name!r} says its amounts already; {', '.join(amounts)} cannot be added."
            raise BadEdit(msg)
        return name
    if name not in EDITS:
        msg = f"there is no edit {name!r}; there are {', '.join(EDITS)}."
        raise UnknownEdit(msg)
    known = [field.name for field in fields(EDITS[name])]  # pyright: ignore[reportArgumentType]
    for amount in amounts:
        if amount not in known:
            takes = f"takes {' and '.join(known)}" if known else "takes no amount"
            msg = f"{name!r} {takes}, not {amount!r}."
            raise BadEdit(msg)
    return EDITS[name](**amounts)


def _amount(name: str, value: Any, *, least: float = -1.0, most: float = 1.0) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and least <= value <= most):
        msg = f"{name}={value!r} is no amount of an edit; it must lie from {least:g} to {most:g}."
        raise BadEdit(msg)


def _images(maps: Tensor) -> Tensor:
    """Maps [..., h, w] as [n, 1, h, w]."""
    return maps.reshape(-1, 1, *maps.shape[-2:])


def _moved(maps: Tensor, share: float, *, dim: int) -> Tensor:
    places = share * maps.shape[dim]
    whole = math.floor(places)
    part = places - whole
    moved = _rolled(maps, whole, dim=dim)
    return moved if part == 0 else (1 - part) * moved + part * _rolled(maps, whole + 1, dim=dim)


def _rolled(maps: Tensor, places: int, *, dim: int) -> Tensor:
    """Maps moved by whole places, with zeros where they came from."""
    side = maps.shape[dim]
    moved = torch.zeros_like(maps)
    kept = side - abs(places)
    if kept > 0:
        source = maps.narrow(dim, max(0, -places), kept)
        moved.narrow(dim, max(0, places), kept).copy_(source)
    return moved
