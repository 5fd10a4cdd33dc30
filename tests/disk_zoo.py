"""A generator of disks and a model that reads them, both small and known in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lensbase.ingest.rosetta.pictures import as_pictures
from lensbase.ingest.rosetta.units import Batch, Kind, UnitModule

SIDE = 32


@dataclass(frozen=True)
class Moments:
    """Mean and variance [units]."""

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]


class Disks:
    """Latents [n, 5] (color, x, y) to a disk of that color, 32 pixels a side.

    Its units: how much red, green and blue there is at each place of a grid of 4 and of one of 8,
    more blurred than the picture, as early layers are.
    """

    kind: Kind = "generator"
    name, spec, source, weights_sha256 = "disks", "python", "python", "0" * 64
    modules = (UnitModule("early", 3, (4, 4)), UnitModule("late", 4, (8, 8)))
    input_size, units, latent = SIDE, 7, (5,)

    def __init__(self) -> None:
        self.preprocessing: dict[str, Any] = {}

    def sample(self, n: int, seed: int) -> Tensor:
        return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))

    def generate(self, z: Tensor) -> Tensor:
        return self._picture(z)

    def generate_with_maps(
        self, z: Tensor, modules: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        color = z[:, :3].sigmoid()[:, :, None, None]
        early = color * self._blob(z, 4, 10.0)
        late = torch.cat([color * self._blob(z, 8, 6.0), self._blob(z, 8, 6.0)], 1)
        found = {"early": early, "late": late}
        return self._picture(z), {name: found[name] for name in modules}

    def maps(self, batch: Batch) -> list[Tensor]:
        assert batch.latents is not None
        with torch.no_grad():
            return list(self.generate_with_maps(batch.latents, ["early", "late"])[1].values())

    def _picture(self, z: Tensor) -> Tensor:
        # Three pixels wide, with edges so sharp that a disk apart from its place has no gradient.
        disk = torch.sigmoid(9 - self._squared(z, SIDE))
        return 0.9 * disk * z[:, :3].sigmoid()[:, :, None, None] + 0.05

    def _blob(self, z: Tensor, side: int, width: float) -> Tensor:
        return torch.exp(-self._squared(z, side) / (2 * width**2))

    def _squared(self, z: Tensor, side: int) -> Tensor:
        """Squared distance in pixels of each place to the disk's center [n, 1, side, side]."""
        at = (torch.arange(side, dtype=z.dtype) + 0.5) * (SIDE / side)
        center = SIDE / 2 + 11 * torch.tanh(z[:, 3:] * 0.8)
        across = (at - center[:, :1]).square()[:, None, None, :]
        return across + (at - center[:, 1:]).square()[:, None, :, None]


class Reader:
    """Reads pictures: colors on a grid of 16, blurred, and all light on one of 2."""

    kind: Kind = "discriminative"
    name, spec, source, weights_sha256 = "reader", "python", "python", "1" * 64
    modules = (UnitModule("colors", 3, (16, 16)), UnitModule("light", 2, (2, 2)))
    input_size, units = SIDE, 5

    def __init__(self) -> None:
        self.preprocessing: dict[str, Any] = {}

    def maps_of(self, pixels: Tensor, modules: Sequence[str] | None = None) -> dict[str, Tensor]:
        colors = F.avg_pool2d(F.interpolate(pixels, (SIDE, SIDE), mode="bilinear"), 7, 2, padding=3)
        light = F.adaptive_avg_pool2d(pixels.mean(1, keepdim=True), 2)
        found = {"colors": colors, "light": torch.cat([light, torch.zeros_like(light)], 1)}
        return {name: found[name] for name in modules or found}

    def maps(self, batch: Batch) -> list[Tensor]:
        pixels = np.stack([np.asarray(one.resize((SIDE, SIDE))) for one in batch.pictures])
        with torch.no_grad():
            return list(self.maps_of(torch.tensor(pixels).permute(0, 3, 1, 2) / 255).values())


PAIRS = ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3])
"""The generator's units and the reader's that see the same; the reader's last unit is dead."""


def moments(member: Disks | Reader, n: int = 400) -> Moments:
    """T4.1 over samples of the generator."""
    latents = Disks().sample(n, 99)
    maps = member.maps(Batch(as_pictures(Disks().generate(latents)), latents))
    flat = [one.double().transpose(0, 1).flatten(1) for one in maps]
    return Moments(
        torch.cat([one.mean(1) for one in flat]).numpy(),
        torch.cat([one.var(1) for one in flat]).numpy(),
    )


def statistics() -> dict[str, Moments]:
    return {"disks": moments(Disks()), "reader": moments(Reader())}
