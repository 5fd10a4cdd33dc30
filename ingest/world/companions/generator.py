"""The generating companion: a decoder that draws one object on a background from a latent z."""

from __future__ import annotations

from typing import Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attributes import BACKGROUNDS, SHAPES, SIZES, TEXTURES
from ..render import SPRITE
from ..scenes import DIAMETERS, IMAGE_SIZE, ROTATIONS
from .latents import (
    CHOICE_SIZE,
    CHOICES,
    LATENT_SIZE,
    OUTLINE_ROTATION,
    SCALARS,
    Parameters,
    parameters_of,
)

WIDTHS: Final = {8: 96, 16: 64, 32: 48, 64: 24}
# Channels of each background's own remembered map.
_REMEMBERED: Final = {8: 3, 16: 3, 32: 3, 64: 4}
_LAYERS: Final = 7
_TOLD: Final = CHOICE_SIZE + SCALARS
_PAINT: Final = CHOICES["color"] + SCALARS


class Modulation(nn.Module):
    """Scale and shift of each channel, told by a scene's parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.tell = nn.Linear(_TOLD, 2 * channels)
        # At the usual start channels hardly differ between scenes, and learn to only slowly.
        nn.init.normal_(self.tell.weight, std=0.3)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to as many, scaled and shifted by `told` [n, told]."""
        scale, shift = self.tell(told)[:, :, None, None].chunk(2, dim=1)
        return self.norm(x) * (1 + scale) + shift


class Memory(nn.Module):
    """What is always the same of each background: some maps of its own."""

    def __init__(self, remembered: int, width: int, side: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(0.1 * torch.randn(len(BACKGROUNDS), remembered, side, side))
        self.mix = nn.Conv2d(remembered, width, 1, bias=False)

    def forward(self, background: Tensor, bare: Tensor) -> Tensor:
        """Maps [n, width, side, side] of shares of backgrounds [n, 8] where the object is not."""
        return self.mix(bare * torch.einsum("nb,bchw->nchw", background, self.maps))


class Stage(nn.Module):
    """One resolution: layers in the scene's own colors, its background, then a convolution."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.enlarge = nn.Conv2d(channels, width, 1)
        self.paint = nn.Linear(_PAINT, width * _LAYERS)
        self.recall = Memory(_REMEMBERED[side], width, side)
        self.modulate1 = Modulation(width)
        self.relu1 = nn.ReLU()
        self.conv = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.modulate2 = Modulation(width)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor, layers: Tensor, parameters: Parameters) -> Tensor:
        """Maps [n, width, side, side] of maps [n, channels, side / 2, side / 2]."""
        x = self.enlarge(x)
        if x.shape[-1] != self.side:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear")
        layers = F.adaptive_avg_pool2d(layers, self.side)
        paint = self.paint(torch.cat([parameters.share("color"), parameters.scalars()], 1))
        paint = paint.view(len(x), -1, _LAYERS)
        x = x + torch.bmm(paint, layers.flatten(2).to(paint.dtype)).view_as(x)
        x = x + self.recall(parameters.share("background"), 1 - layers[:, :1])
        told = parameters.told()
        x = self.relu1(self.modulate1(x, told))
        return self.relu2(self.modulate2(self.conv(x), told))


class Layers(nn.Module):
    """Where the object is and how its texture lies there, at full size.

    `outlines` [shapes, 31, 31] and `patterns` [textures, sizes, 31, 31] are pictures of the largest
    shapes and of the textures, each in 0..1, taken from the renderer before training.
    """

    outlines: Tensor
    patterns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("outlines", torch.zeros(len(SHAPES), SPRITE, SPRITE))
        self.register_buffer("patterns", torch.zeros(len(TEXTURES), len(SIZES), SPRITE, SPRITE))

    def forward(self, parameters: Parameters) -> Tensor:
        """Layers [n, 7, 64, 64].

        The object, its first and its second color; then the same three blurred, as far as the
        object's own size, and how near its center is.
        """
        pixels = torch.arange(IMAGE_SIZE, device=parameters.x.device, dtype=parameters.x.dtype)
        n = len(parameters.x)
        across = (pixels - parameters.x[:, None])[:, None, :].expand(n, IMAGE_SIZE, IMAGE_SIZE)
        down = (pixels - parameters.y[:, None])[:, :, None].expand(n, IMAGE_SIZE, IMAGE_SIZE)
        angle = torch.deg2rad(parameters.rotation - ROTATIONS[OUTLINE_ROTATION])[:, None, None]
        scale = (DIAMETERS[-1] / parameters.diameter)[:, None, None]
        u = (across * angle.cos() - down * angle.sin()) * scale
        v = (across * angle.sin() + down * angle.cos()) * scale
        outline = torch.einsum("ns,shw->nhw", parameters.share("shape"), self.outlines)
        weight = parameters.share("texture")[:, :, None] * parameters.sizes()[:, None]
        pattern = torch.einsum("ntz,tzhw->nhw", weight, self.patterns)
        covered = _look_up(outline, u, v)
        second = covered * _look_up(pattern, across, down)
        square = (u * u + v * v) / DIAMETERS[-1] ** 2 * 4
        near = torch.exp(-square[:, None])
        wide = torch.exp(-square[:, None] / 4)
        far = torch.exp(-(across.square() + down.square()) / 800)[:, None]
        ones = torch.ones_like(near)
        return torch.cat([covered, covered - second, second, near, wide, far, ones], dim=1)


def _look_up(pictures: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Pictures [n, 31, 31] at offsets [n, h, w] from their centers, in pixels: [n, 1, h, w]."""
    grid = torch.stack([across, down], dim=-1) * (2 / (SPRITE - 1))
    with torch.autocast(pictures.device.type, enabled=False):
        return F.grid_sample(pictures[:, None].float(), grid, align_corners=True)


class Generator(nn.Module):
    """Latents z [n, latent_size], standard normal, to pictures [n, 3, 64, 64] in 0..1.

    Every stage ends in two nonnegative maps, at 8, 16, 32 and 64 pixels a side
    (`stages.0.relu1` to `stages.3.relu2`). Differentiable in z.
    """

    latent_size: Final = LATENT_SIZE

    def __init__(self, widths: dict[int, int] = WIDTHS) -> None:
        super().__init__()
        first = next(iter(widths.values()))
        self.layers = Layers()
        self.start = nn.Linear(_TOLD, first)
        channels = (first, *widths.values())
        self.stages = nn.ModuleList(
            Stage(channels[i], width, side) for i, (side, width) in enumerate(widths.items())
        )
        self.draw = nn.Conv2d(channels[-1], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Pictures [n, 3, 64, 64] in 0..1 of latents [n, latent_size]."""
        return self.decode(parameters_of(z))

    def decode(self, parameters: Parameters) -> Tensor:
        """Pictures [n, 3, 64, 64] in 0..1 of scenes' parameters."""
        return self.draw(self.maps(parameters)[-1]).float().sigmoid()

    def maps(self, parameters: Parameters) -> list[Tensor]:
        """The last map of each stage."""
        layers = self.layers(parameters)
        start = F.relu(self.start(parameters.told()))[:, :, None, None]
        side = cast(Stage, self.stages[0]).side
        x = start.expand(-1, -1, side, side)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x, layers, parameters)
            maps.append(x)
        return maps


class Sketches(nn.Module):
    """What each stage's map makes of the picture at its own size: helps the training only."""

    def __init__(self, widths: dict[int, int] = WIDTHS) -> None:
        super().__init__()
        self.draw = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in widths.values())

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Colors and logits of the object's mask, [n, 4, side, side] a stage."""
        return [draw(x).float() for draw, x in zip(self.draw, maps, strict=True)]
