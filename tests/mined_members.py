"""Members for mining: small networks of random weights, and given maps shown one per picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lensbase.ingest.rosetta.units import Batch, Kind, UnitModule

SIDE = 16


def numbered_pictures(count: int) -> list[Image.Image]:
    """Random pictures; the first two pixels say which one it is."""
    levels = np.random.default_rng(7).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    for number in range(count):
        levels[number, 0, :2, 0] = divmod(number, 256)
    return [Image.fromarray(one) for one in levels]


def numbers_of(pictures: Sequence[Image.Image]) -> list[int]:
    """Which pictures these are."""
    pixels = [np.asarray(one)[0, :2, 0] for one in pictures]
    return [256 * int(high) + int(low) for high, low in pixels]


@dataclass
class HeldPictures:
    """Pictures in memory, in batches; `served` counts the batches."""

    pictures: list[Image.Image]
    batch_size: int
    served: int = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def from_image(self, start: int) -> Iterator[Batch]:
        for first in range(start, len(self), self.batch_size):
            self.served += 1
            yield Batch(self.pictures[first : first + self.batch_size])


class _Member:
    kind: Kind = "discriminative"
    input_size = SIDE

    def __init__(self, name: str, modules: Sequence[UnitModule], weights_sha256: str) -> None:
        self.name = name
        self.spec, self.source = f"test:{name}", "test"
        self.modules = tuple(modules)
        self.weights_sha256 = weights_sha256
        self.preprocessing: dict[str, Any] = {}

    @property
    def units(self) -> int:
        return sum(module.channels for module in self.modules)


class GivenMaps(_Member):
    """A member whose maps, one [images, C, h, w] a module, are given; `calls` counts batches."""

    def __init__(self, name: str, maps: Sequence[Tensor]) -> None:
        modules = [
            UnitModule(f"m{number}", one.shape[1], (one.shape[2], one.shape[3]))
            for number, one in enumerate(maps)
        ]
        super().__init__(name, modules, hashlib.sha256(name.encode()).hexdigest())
        self.given = [one.float() for one in maps]
        self.calls = 0

    def maps(self, batch: Batch) -> list[Tensor]:
        self.calls += 1
        numbers = torch.tensor(numbers_of(batch.pictures))
        return [one[numbers] for one in self.given]


class TinyNetwork(_Member):
    """A real network: each module is a random convolution, ReLU, and pooling to its grid."""

    def __init__(self, name: str, layers: Sequence[tuple[int, tuple[int, int]]], seed: int) -> None:
        modules = [UnitModule(f"layer.{n}", c, grid) for n, (c, grid) in enumerate(layers)]
        super().__init__(name, modules, f"{seed:064x}")
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        width = 3
        for channels, _ in layers:
            layer = nn.Conv2d(width, channels, 3, padding=1)
            for parameter in layer.parameters():
                values = torch.randn(parameter.shape, generator=generator)
                parameter.data = values / (9 * width) ** 0.5
            self.layers.append(layer)
            width = channels

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        pixels = torch.from_numpy(np.stack([np.asarray(one) for one in batch.pictures]))
        hidden = pixels.permute(0, 3, 1, 2).float() / 255 - 0.5
        found: list[Tensor] = []
        for layer, module in zip(self.layers, self.modules, strict=True):
            hidden = F.adaptive_avg_pool2d(F.relu(layer(hidden)), module.grid)
            found.append(hidden)
        return found
