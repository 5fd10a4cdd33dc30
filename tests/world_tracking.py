"""How well units' maps track shapes and colors of scenes whose every pixel is known.

As in Network Dissection (Bau et al., 2017): a map is brought to the picture's size and cut at a
quantile of the unit's own values; intersection and union with the mask of a value are summed over
all scenes. Which value, and which quantile, is decided on other scenes than those measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lensbase.ingest.rosetta.sources import load_member
from lensbase.ingest.rosetta.units import DiscriminativeMember
from lensbase.ingest.world.attributes import COLORS, MAX_OBJECTS, SHAPES
from lensbase.ingest.world.render import render
from lensbase.ingest.world.scenes import IMAGE_SIZE, Sampling, Scenes, sample_scenes
from lensbase.schema.unit_addresses import parse_unit

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Maps = dict[str, Tensor]

READERS = ("clip", "resnet", "mae")
QUANTILES = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
WORDS = (*SHAPES, *COLORS)
_EVERY = 7  # so many places share one in the estimate of quantiles
_VISIBLE = 9  # pixels of an object that count as seeing it


@dataclass(frozen=True)
class Truth:
    """Scenes, their pictures [n, 3, 64, 64], and per pixel its object, from 1, [n, 64, 64]."""

    scenes: Scenes
    pictures: Tensor
    objects: npt.NDArray[np.uint8]

    def values(self, order: I64 | None = None) -> I64:
        """Per pixel the shape, then the color, [2, n, 64, 64]: places in WORDS, -1 for neither.

        `order` puts other scenes' pixels in their place.
        """
        slot = self.objects.astype(np.int64) - 1
        rows = np.arange(len(slot))[:, None, None]
        shape = self.scenes.shape[rows, np.maximum(slot, 0)]
        color = self.scenes.color[rows, np.maximum(slot, 0)] + len(SHAPES)
        found = np.where(slot >= 0, np.stack([shape, color]), -1)
        return found if order is None else found[:, order]

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """Which objects are visible, [n, 6]."""
        return self.outlines().sum(2).numpy() > _VISIBLE

    def outlines(self) -> Tensor:
        """Each object's visible pixels as float32 [n, 6, 4096]."""
        numbers = np.arange(1, MAX_OBJECTS + 1)[:, None]
        flat = self.objects.reshape(len(self.objects), 1, -1)
        return torch.from_numpy(flat == numbers).float()


class Tracked(NamedTuple):
    """The word that all units of a tuple track best, and held out: their IoU, and by chance."""

    word: str
    iou: F64
    chance: F64


def draw(count: int, seed: int, sampling: Sampling) -> Truth:
    """Scenes of which every pixel is known."""
    return drawn(sample_scenes(np.random.default_rng(seed), count, sampling))


def drawn(scenes: Scenes) -> Truth:
    """Given scenes, rendered."""
    drawing = render(scenes)
    pictures = torch.from_numpy(drawing.images).permute(0, 3, 1, 2).float() / 255
    return Truth(scenes, pictures, drawing.masks)


def maps_by_unit(pictures: Tensor, units: Sequence[str]) -> Maps:
    """Maps [n, h, w] of units of the world's models that read pictures, by address."""
    found: Maps = {}
    parsed = {address: parse_unit(address) for address in units}
    for model in dict.fromkeys(unit.model for unit in parsed.values()):
        member = load_member(f"{model}=world:{model}")
        assert isinstance(member, DiscriminativeMember)
        own = {address: unit for address, unit in parsed.items() if unit.model == model}
        modules = list(dict.fromkeys(unit.module for unit in own.values()))
        parts: dict[str, list[Tensor]] = {address: [] for address in own}
        for batch in pictures.split(50):
            with torch.no_grad():
                maps = member.maps_of(batch, modules)
            for address, unit in own.items():
                parts[address].append(maps[unit.module][:, unit.channel].clone())
        found |= {address: torch.cat(part) for address, part in parts.items()}
    return found


def enlarged(maps: Tensor) -> F64:
    """Maps [n, h, w] at the pictures' size, bilinearly: [n, 64, 64]."""
    side = (IMAGE_SIZE, IMAGE_SIZE)
    larger = F.interpolate(maps[:, None], side, mode="bilinear", align_corners=False)
    return larger[:, 0].double().numpy()


def thresholds(maps: Tensor) -> F64:
    """The values of a unit at QUANTILES of all places of maps [n, h, w]."""
    return np.quantile(enlarged(maps).reshape(-1)[::_EVERY], QUANTILES)


def iou(maps: Tensor, values: I64, cuts: F64) -> F64:
    """Intersection over union of maps above each cut with each of WORDS, [cuts, words]."""
    level = np.searchsorted(cuts, enlarged(maps).reshape(-1))
    tables: list[F64] = []
    count = len(WORDS) + 1
    for one in values.reshape(2, -1):
        table = np.bincount(level * count + one + 1, minlength=(len(cuts) + 1) * count)
        tables.append(table.reshape(-1, count).astype(np.float64))
    # Row q of these has the places above at least q cuts.
    above = [np.cumsum(table[::-1], 0)[::-1] for table in tables]
    both = above[0][:, 1:] + above[1][:, 1:]
    covered = above[0].sum(1)[:, None]
    return both[1:] / (covered[1:] + both[:1] - both[1:])


class Tracking:
    """IoU of units with shapes and colors: decided on one half of scenes, measured on the other."""

    def __init__(self, first: Truth, second: Truth, units: Sequence[str]) -> None:
        order = np.random.default_rng(0).permutation(len(second.scenes))
        halves = [maps_by_unit(truth.pictures, units) for truth in (first, second)]
        kinds = [first.values(), second.values(), second.values(order)]
        self._decided: dict[str, F64] = {}
        self._held_out: dict[str, F64] = {}
        self._chance: dict[str, F64] = {}
        for unit in units:
            cuts = thresholds(halves[0][unit])
            self._decided[unit] = iou(halves[0][unit], kinds[0], cuts)
            self._held_out[unit] = iou(halves[1][unit], kinds[1], cuts)
            self._chance[unit] = iou(halves[1][unit], kinds[2], cuts)

    def of(self, units: Sequence[str]) -> Tracked:
        """What some units track together: the word whose least IoU among them is the highest.

        By chance is what the same maps have in common with other scenes.
        """
        word = int(np.min([self._decided[unit].max(0) for unit in units], 0).argmax())
        cut = [int(self._decided[unit][:, word].argmax()) for unit in units]
        pairs = list(zip(units, cut, strict=True))
        held_out, chance = (
            np.array([table[unit][q, word] for unit, q in pairs])
            for table in (self._held_out, self._chance)
        )
        return Tracked(WORDS[word], held_out, chance)


def pointed_at(maps: Tensor, truth: Truth) -> I64:
    """The object of each scene on which the map is highest on average, from 0: [n]."""
    outlines = truth.outlines()
    flat = torch.from_numpy(enlarged(maps)).float().flatten(1)
    mean = torch.einsum("nkp,np->nk", outlines, flat) / outlines.sum(2).clamp(min=1)
    seen = torch.from_numpy(truth.seen)
    return torch.where(seen, mean, -torch.inf).argmax(1).numpy()


def only_one(truth: Truth, word: str) -> tuple[I64, I64]:
    """Scenes with exactly one visible object of a shape or color, and which object it is."""
    own, words = (truth.scenes.shape, SHAPES) if word in SHAPES else (truth.scenes.color, COLORS)
    shows = (own == words.index(word)) & truth.seen
    (rows,) = np.nonzero(shows.sum(1) == 1)
    return rows, shows[rows].argmax(1)


def readers_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The units of a concept in the models that read pictures, whichever is the anchor."""
    return tuple(row[name] if name in row else row["unit"] for name in READERS)


def dealt_anew(tuples: Sequence[tuple[str, ...]], seed: int) -> list[tuple[str, ...]]:
    """The control: each model's units in another order, so that tuples are of strangers."""
    rng = np.random.default_rng(seed)
    columns = [[one[place] for one in tuples] for place in range(len(tuples[0]))]
    mixed = [[column[i] for i in rng.permutation(len(column))] for column in columns]
    return list(zip(*mixed, strict=True))
