"""A zoo without models: maps drawn so that which units match is known, mined in float64.

Every model sees the same hidden concepts. Unit u of a model shows concept u % (concepts + 1), or
noise alone where that is the last; the further down, the more noise. The very last unit of a
module is dead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lensbase.ingest.rosetta.publishing import (
    Examples,
    ModuleMaps,
    Zoo,
    keep_examples,
    keep_pair,
    keep_statistics,
    matched_units,
    publish_zoo,
)
from lensbase.schema.catalog import create_store
from lensbase.schema.layout import Layout

F64 = npt.NDArray[np.float64]

IMAGES, GRID, CONCEPTS, NEIGHBORS = 40, 6, 5, 4
CLIP_MODULE = "visual.transformer.resblocks.5.mlp.gelu"


@dataclass(frozen=True)
class Module:
    name: str
    channels: int
    grid: tuple[int, int] = (GRID, GRID)


@dataclass(frozen=True)
class Model:
    """A model of the zoo, as `units.Member` describes one."""

    name: str
    modules: tuple[Module, ...]
    kind: str = "discriminative"
    source: str = "module"
    spec: str = ""
    weights_sha256: str = "0" * 64
    preprocessing: Mapping[str, Any] = field(default_factory=dict[str, Any])
    input_size: int = 64
    seed: int = 0

    @property
    def units(self) -> int:
        return sum(module.channels for module in self.modules)

    @cached_property
    def maps(self) -> F64:
        """[units, images, grid, grid], of which the last unit of each module never varies."""
        hidden = np.random.default_rng(7).standard_normal((CONCEPTS, IMAGES, GRID, GRID))
        random = np.random.default_rng(self.seed)
        maps = random.standard_normal((self.units, IMAGES, GRID, GRID))
        for unit in range(self.units):
            concept = unit % (CONCEPTS + 1)
            if concept < CONCEPTS:
                clear = 1 / (0.4 + 0.1 * (unit // (CONCEPTS + 1)))
                maps[unit] += clear * hidden[concept]
        end = 0
        for module in self.modules:
            end += module.channels
            maps[end - 1] = 0.25
        return maps + random.standard_normal((self.units, 1, 1, 1))


GAN = Model("gan", (Module("block1.act", 14), Module("block2.act", 11)), kind="generator", seed=1)
RESNET = Model("resnet", (Module("layer1.0.relu", 13), Module("layer2.0.relu", 18)), seed=2)
CLIP = Model("clip", (Module(CLIP_MODULE, 20),), source="world", seed=3)
MAE = Model("mae", (Module("blocks.3.mlp.act", 17),), source="timm", seed=4)
ZOO = (GAN, RESNET, CLIP)


@dataclass(frozen=True)
class Statistics:
    mean: F64
    variance: F64
    dead: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Nearest:
    index: npt.NDArray[np.int32]
    correlation: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    first: str
    second: str
    forward: Nearest
    backward: Nearest


def statistics(model: Model) -> Statistics:
    """T4.1."""
    flat = model.maps.reshape(model.units, -1)
    variance = flat.var(1, ddof=1)
    dead = variance < 1e-12
    return Statistics(flat.mean(1), np.where(dead, 0, variance), dead)


def correlation(one: Model, other: Model) -> F64:
    """T4.2 [units, units]; NaN with a dead unit, and of a unit with itself."""
    flat = [model.maps.reshape(model.units, -1) for model in (one, other)]
    centred = [maps - maps.mean(1, keepdims=True) for maps in flat]
    lengths = [np.linalg.norm(maps, axis=1) for maps in centred]
    product = centred[0] @ centred[1].T
    dead = (lengths[0] < 1e-9)[:, None] | (lengths[1] < 1e-9)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(dead, np.nan, product / np.outer(*lengths))
    if one.name == other.name:
        np.fill_diagonal(found, np.nan)
    return found


def nearest(found: F64, k: int) -> Nearest:
    """The k nearest of each row: -1 and NaN where there are fewer."""
    order = np.argsort(np.where(np.isnan(found), np.inf, -found), axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(found, order, 1).astype(np.float32)
    return Nearest(np.where(np.isnan(values), -1, order).astype(np.int32), values)


def mine(one: Model, other: Model, k: int = NEIGHBORS) -> Pair:
    """What mining finds of two models."""
    found = correlation(one, other)
    return Pair(one.name, other.name, nearest(found, k), nearest(found.T, k))


def facts_of(*models: Model) -> dict[str, Any]:
    return {
        "keys": "k" * 64,
        "neighbors": NEIGHBORS,
        "weights": [[model.name, model.weights_sha256] for model in models],
    }


def zoo_of(name: str = "zoo", anchor: str = "gan") -> Zoo:
    return Zoo(
        name,
        anchor=anchor,
        images=IMAGES,
        dataset="samples of gan",
        keys_sha256="k" * 64,
        neighbors=NEIGHBORS,
        settings={"seed": 0},
    )


def keep(layout: Layout, models: Sequence[Model] = ZOO, *, name: str = "zoo") -> None:
    """Keep the arrays of a zoo: all pairs, and the self pair of each."""
    for model in models:
        found = statistics(model)
        keep_statistics(layout, name, model.name, statistics=found, facts=facts_of(model))
    for place, one in enumerate(models):
        for other in models[place:]:
            keep_pair(layout, name, mine(one, other), facts=facts_of(one, other))


def examples(models: Sequence[Model], units: Mapping[str, npt.NDArray[np.int64]]) -> Examples:
    """The first eight pictures, and the maps of some units on them."""
    kept: dict[str, dict[str, ModuleMaps]] = {}
    for model in models:
        found, start = statistics(model), 0
        kept[model.name] = {}
        for module in model.modules:
            chosen = [u for u in units[model.name].tolist() if start <= u < start + module.channels]
            if chosen:
                maps = model.maps[chosen, :8] - found.mean[chosen, None, None, None]
                maps = maps / np.sqrt(found.variance[chosen, None, None, None])
                channels = [unit - start for unit in chosen]
                kept[model.name][module.name] = ModuleMaps(channels, maps)
            start += module.channels
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    return Examples(pictures, kept)


def write_zoo(
    root: Path, models: Sequence[Model] = ZOO, *, name: str = "zoo", anchor: str = "gan"
) -> Layout:
    """Write a zoo with its examples into a store, a new one if there is none."""
    layout = create_store(root)
    keep(layout, models, name=name)
    zoo = zoo_of(name, anchor)
    units = matched_units(layout, zoo, members=models)
    label = keep_examples(layout, name, examples(models, units))
    publish_zoo(layout, zoo, members=models, label=label)
    return layout
