"""A zoo of five models of 40,000 units, without the models: random neighbors, mutual by design.

Every unit has five nearest in each other model, of which on average three are mutual; correlations
are random. What mining would have kept of it, file by file, and published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lensbase.ingest.rosetta.publishing import (
    Zoo,
    keep_pair,
    keep_statistics,
    publish_zoo,
)
from lensbase.schema.catalog import create_store
from lensbase.schema.layout import Layout

MODELS, UNITS, NEIGHBORS = 5, 40_000, 5
MODULES, CHANNELS = 40, 1_000
MUTUAL = 3


@dataclass(frozen=True)
class Module:
    """A hooked module."""

    name: str
    channels: int = CHANNELS
    grid: tuple[int, int] = (14, 14)


@dataclass(frozen=True)
class Model:
    """What the catalogue says of a model."""

    name: str
    kind: str = "discriminative"
    source: str = "module"
    spec: str = ""
    weights_sha256: str = "0" * 64
    input_size: int = 224
    preprocessing: dict[str, Any] = field(default_factory=dict[str, Any])
    modules: tuple[Module, ...] = tuple(Module(f"blocks.{n}.mlp.act") for n in range(MODULES))


@dataclass(frozen=True)
class Nearest:
    """Nearest units [N, K]."""

    index: npt.NDArray[np.int32]
    correlation: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """Two models' nearest units in each other."""

    first: str
    second: str
    forward: Nearest
    backward: Nearest


@dataclass(frozen=True)
class Statistics:
    """Of a model's units."""

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    dead: npt.NDArray[np.bool_]


def nearest_both_ways(random: np.random.Generator, *, own: bool) -> tuple[Nearest, Nearest]:
    """Neighbors of which `MUTUAL` are mutual, and of a model with itself two."""
    units, order = np.arange(UNITS), random.permutation(UNITS)
    steps = random.permutation(UNITS - 1)[:NEIGHBORS] + 1
    ahead, back = (np.empty((UNITS, NEIGHBORS), np.int32) for _ in range(2))
    for rank, step in enumerate(steps.tolist()):
        # Different steps along one permutation: no neighbor twice.
        there = order[(units + step) % UNITS]
        ahead[:, rank] = there
        back[there, rank] = units if rank < MUTUAL else (units + 1) % UNITS
    if own:
        place = np.argsort(order)
        for rank, sign in enumerate((1, -1)):
            ahead[:, rank] = order[(place + sign * steps[0]) % UNITS]
        ahead[:, 2:] = -1
        back = ahead
    found = [np.sort(random.uniform(0.2, 0.95, index.shape), 1)[:, ::-1] for index in (ahead, back)]
    forward, backward = (
        Nearest(index, np.where(index >= 0, said, np.nan).astype(np.float32))
        for index, said in zip((ahead, back), found, strict=True)
    )
    return forward, forward if own else backward


def write_large_zoo(root: Path) -> Layout:
    """Write the zoo into a new store."""
    layout, random = create_store(root), np.random.default_rng(0)
    models = [Model(f"model{number}") for number in range(MODELS)]
    for model in models:
        found = Statistics(
            random.standard_normal(UNITS), random.uniform(0.1, 4, UNITS), np.zeros(UNITS, np.bool_)
        )
        keep_statistics(layout, "zoo", model.name, statistics=found, facts={})
    for one, other in combinations_with_replacement(models, 2):
        if one is other and one is not models[0]:
            continue  # of the anchor alone
        pair = Pair(one.name, other.name, *nearest_both_ways(random, own=one is other))
        keep_pair(layout, "zoo", pair, facts={})
    zoo = Zoo(
        "zoo",
        anchor=models[0].name,
        images=1_600,
        dataset="random",
        keys_sha256="0" * 64,
        neighbors=NEIGHBORS,
    )
    publish_zoo(layout, zoo, members=models)
    return layout
