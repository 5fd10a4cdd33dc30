"""How far generated images are from a target: pixels, LPIPS, or a model's own maps (T4.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ...schema.zoo_errors import BadOptimization
from .image_scores import lpips_network

if TYPE_CHECKING:
    from .units import DiscriminativeMember

Loss: TypeAlias = Literal["pixel", "l1", "lpips", "perceptual"] | Callable[[Tensor, Tensor], Tensor]
"""A name, or from images and targets [n, 3, H, W] in [0, 1] to [n] losses, differentiable."""

Distance: TypeAlias = Callable[[Tensor], Tensor]
"""From images [n, 3, H, W] to their losses [n]."""

LOSSES = ("pixel", "l1", "lpips", "perceptual")


class ReconstructionLoss:
    """L_rec of T4.7, the mean over an image's pixels, or places of maps.

    `pixel` is the squared difference (L2), `l1` the absolute one, `lpips` the learned perceptual
    distance of torchmetrics, and `perceptual` that of a discriminative model's own maps, as the
    embedded world uses it: of each hooked module the channels of a place are scaled to unit length,
    their squared difference is summed over channels and averaged over places and modules (LPIPS
    without its learned weights). Raises `BadOptimization` for another name or no model to read, and
    `WeightsNotFound` where LPIPS has no weights.
    """

    def __init__(self, loss: Loss, *, reader: DiscriminativeMember | None) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            msg = f"there is no loss {loss!r}; there are {', '.join(LOSSES)}, or a function."
            raise BadOptimization(msg)
        if loss == "perceptual" and reader is None:
            msg = (
                "loss='perceptual' compares a discriminative model's maps, and none is given: pass "
                "one as reader=, or pairs with one."
            )
            raise BadOptimization(msg)
        self._loss: Loss = loss
        self._reader = reader
        self._network = lpips_network() if loss == "lpips" else None

    def to(self, targets: Tensor) -> Distance:
        """The losses of images to targets [n, 3, H, W], whose maps are taken once."""
        loss, reader = self._loss, self._reader
        if loss == "pixel":
            return lambda images: (images - targets).square().mean((1, 2, 3))
        if loss == "l1":
            return lambda images: (images - targets).abs().mean((1, 2, 3))
        if loss == "perceptual":
            assert reader is not None
            with torch.no_grad():
                wanted = _unit_length(reader, targets)
            return lambda images: _apart(_unit_length(reader, images), wanted)
        if loss == "lpips":
            assert self._network is not None
            network = self._network.to(targets.device)
            return lambda images: network(images, targets, normalize=True).reshape(-1)
        assert callable(loss)
        return lambda images: _checked(loss(images, targets), len(images))


def _unit_length(reader: DiscriminativeMember, images: Tensor) -> list[Tensor]:
    return [F.normalize(maps, dim=1, eps=1e-8) for maps in reader.maps_of(images).values()]


def _apart(maps: list[Tensor], wanted: list[Tensor]) -> Tensor:
    parts = [
        (ours - theirs).square().sum(1).mean((1, 2))
        for ours, theirs in zip(maps, wanted, strict=True)
    ]
    return torch.stack(parts).mean(0)


def _checked(losses: Tensor, images: int) -> Tensor:
    if losses.shape == (images,):
        return losses
    msg = (
        f"the loss gives {tuple(losses.shape)} for {images} images; it must give a number an "
        f"image, ({images},), so that images do not pull at each other."
    )
    raise BadOptimization(msg)
