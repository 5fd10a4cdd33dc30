"""The files of a Rosetta zoo: which folder is its own, what is kept there, and reading it.

A published generation's `CURRENT` lists, of each zoo, its folder, its pairs and models, and the
label of its examples: those files never change, and go when no kept generation lists them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import durable
from .arrays import ArraySpec
from .errors import StoreCorrupt
from .layout import Layout
from .shards import RowArray, read_whole

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_EXAMPLES = re.compile(r"examples-(\d+)(?:\.json)?")


@dataclass(frozen=True)
class KeptPair:
    """The nearest units of two models in each other, nearest first (T4.3).

    `index_first` [Na, K] are units of the second model, -1 where there is none, and
    `correlation_first` [Na, K] theirs, NaN there; `index_second` and `correlation_second` [Nb, K]
    the other way around.
    """

    first: str
    second: str
    index_first: I32
    correlation_first: F32
    index_second: I32
    correlation_second: F32

    def reversed(self) -> KeptPair:
        """The same from the second model's side."""
        return KeptPair(
            self.second,
            self.first,
            self.index_second,
            self.correlation_second,
            self.index_first,
            self.correlation_first,
        )


@dataclass(frozen=True)
class KeptStatistics:
    """Of a model's units [N] over pictures and places: mean and variance (T4.1), and the dead."""

    mean: F64
    variance: F64
    dead: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class KeptMaps:
    """Example maps of some channels of a module, ascending; `maps` [channels, X, h, w]."""

    channels: npt.NDArray[np.int64]
    maps: RowArray


# Which file is where


def manifest_of(group: Path) -> Path:
    """The manifest of a pair, a model or of examples: beside its group."""
    return group.with_name(f"{group.name}.json")


def zoo_folder(layout: Layout, name: str) -> str:
    """The folder of a zoo: the published one's, else the first of its name that was not dropped."""
    published = published_zoos(layout).get(name)
    if published is not None:
        return published["folder"]
    folders = (name if number == 0 else f"{name}~{number}" for number in count())
    return next(one for one in folders if not layout.zoo_dropped(one).exists())


def published_zoos(layout: Layout) -> dict[str, dict[str, Any]]:
    """What the published generation says of each zoo: folder, pairs, models, label."""
    try:
        return durable.read_json(layout.current).get("zoos", {})
    except FileNotFoundError:
        return {}


def named_files(layout: Layout, folder: str) -> set[Path]:
    """Groups of a zoo's folder that a generation on disk names, which must not change."""
    found: set[Path] = set()
    for snapshot in layout.catalogs.glob("[0-9]*/CURRENT"):
        for zoo in durable.read_json(snapshot).get("zoos", {}).values():
            if zoo["folder"] == folder:
                found |= {layout.zoo_pair(folder, *pair) for pair in zoo["pairs"]}
                found |= {layout.zoo_model(folder, name) for name in zoo["models"]}
                if zoo["label"] is not None:
                    found.add(layout.zoo_examples(folder, zoo["label"]))
    return found


def committed_groups(layout: Layout, zoo: dict[str, Any]) -> Iterator[Path]:
    """Every group that a generation names of a zoo, from what its `CURRENT` says of it."""
    folder = zoo["folder"]
    yield from (layout.zoo_model(folder, name) for name in zoo["models"])
    yield from (layout.zoo_pair(folder, *pair) for pair in zoo["pairs"])
    if zoo["label"] is not None:
        yield layout.zoo_examples(folder, zoo["label"])


def sweep_zoos(layout: Layout, generations: list[dict[str, Any]]) -> None:
    """Remove dropped zoos and replaced examples that none of some generations names."""
    labels: dict[str, set[int]] = {}
    for generation in generations:
        for zoo in generation.get("zoos", {}).values():
            kept = labels.setdefault(zoo["folder"], set())
            kept |= set() if zoo["label"] is None else {zoo["label"]}
    for folder in layout.zoos.glob("*"):
        if folder.name not in labels:
            # A zoo that is still being mined is in no generation, but nor was it dropped.
            if layout.zoo_dropped(folder.name).exists():
                _forget_zoo(layout, folder)
            continue
        known = labels[folder.name]
        for path in folder.glob("examples-*"):
            found = _EXAMPLES.fullmatch(path.name)
            if found and int(found[1]) < max(known, default=0) and int(found[1]) not in known:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _forget_zoo(layout: Layout, folder: Path) -> None:
    for path in folder.iterdir():
        if path != layout.zoo_dropped(folder.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    # The mark goes last: without it, what is left would count as a mining in the making.
    shutil.rmtree(folder, ignore_errors=True)


def next_label(layout: Layout, folder: str) -> int:
    """A label that no examples of a zoo have had."""
    found = [_EXAMPLES.fullmatch(path.name) for path in layout.zoo(folder).glob("examples-*")]
    named = [path.name for path in named_files(layout, folder)]
    found += [_EXAMPLES.fullmatch(name) for name in named]
    return 1 + max((int(match[1]) for match in found if match), default=0)


# Reading


def read_pair(layout: Layout, folder: str, *, first: str, second: str) -> KeptPair:
    """Read the nearest units of two models as they were kept; raises `StoreCorrupt`."""
    group = layout.zoo_pair(folder, first, second)
    names = ("index_a", "correlation_a", "index_b", "correlation_b")
    return KeptPair(first, second, *(_read(group / name) for name in names))


def read_statistics(layout: Layout, folder: str, member: str) -> KeptStatistics:
    """Read the statistics of a model's units; raises `StoreCorrupt`."""
    group = layout.zoo_model(folder, member)
    mean, variance, dead = (_read(group / name) for name in ("mean", "variance", "dead"))
    return KeptStatistics(mean, variance, dead.astype(np.bool_))


def read_pictures(layout: Layout, folder: str, label: int) -> npt.NDArray[np.uint8]:
    """Read the example pictures [X, S, S, 3]; raises `StoreCorrupt`."""
    return _read(layout.zoo_examples(folder, label) / "pictures")


def example_maps(group: Path, member: str, module: str) -> KeptMaps | None:
    """The example maps of a module's matched channels; None where none is kept."""
    place = group / member / module
    try:
        channels = durable.read_json(place / "zarr.json")["attributes"]["channels"]
        shape = tuple(durable.read_json(place / "maps" / "zarr.json")["shape"])
    except FileNotFoundError:
        return None
    # A group's name has its label, which is never used twice.
    array = RowArray(place / "maps", maps_spec(shape), shape[0], group.name)
    return KeptMaps(np.array(channels, np.int64), array)


def maps_spec(shape: tuple[int, ...]) -> ArraySpec:
    """How example maps [channels, X, h, w] of a module are laid out: a channel is a chunk."""
    return ArraySpec(
        "maps",
        ("unit", "image", "row", "column"),
        shape,
        (1, *shape[1:]),
        np.dtype("<f2"),
        comment="activation maps, less the unit's mean and divided by its standard deviation",
    )


def as_json(facts: Any) -> Any:
    """Facts as they are after they were written and read."""
    return json.loads(json.dumps(facts))


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        return read_whole(path)
    except FileNotFoundError as error:
        msg = f"{path.name} is missing from {path.parent}; `lensbase verify` says what else is."
        raise StoreCorrupt(msg) from error
