"""Keeping what mining found of a zoo, group by group: pairs, statistics, examples.

Each group is written under a temporary name and committed by its manifest. What a kept generation
names never changes: other pictures, weights or settings take another zoo's name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ...schema import durable, manifest, zoo_files
from ...schema.arrays import ENCODING_VERSION, declare, write_static
from ...schema.catalog import publish_lock
from ...schema.layout import Layout
from ...schema.shards import encode_shard, shard_path
from ...schema.zoo_errors import ZooMismatch
from ...schema.zoo_files import (
    KeptPair,
    KeptStatistics,
    as_json,
    manifest_of,
    named_files,
    zoo_folder,
)

_HALF_WRITTEN = f"*{durable.PARTIAL}"


class NearestUnits(Protocol):
    """The K nearest units of each unit in another model: `index` [N, K], `correlation` [N, K]."""

    @property
    def index(self) -> npt.NDArray[np.integer[Any]]:
        """Units [N, K], -1 where there is none."""
        ...

    @property
    def correlation(self) -> npt.NDArray[np.floating[Any]]:
        """Correlations [N, K], NaN there."""
        ...


class MinedPair(Protocol):
    """What mining found of two models; of one with itself, forward and backward are the same."""

    @property
    def first(self) -> str:
        """The one model's name."""
        ...

    @property
    def second(self) -> str:
        """The other model's name."""
        ...

    @property
    def forward(self) -> NearestUnits:
        """Nearest units in the second of the first's."""
        ...

    @property
    def backward(self) -> NearestUnits:
        """Nearest units in the first of the second's."""
        ...


class MinedStatistics(Protocol):
    """Of a model's units [N]: mean and variance in float64 (T4.1), and which never vary."""

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """Means [N], float64."""
        ...

    @property
    def variance(self) -> npt.NDArray[np.float64]:
        """Variances [N], float64."""
        ...

    @property
    def dead(self) -> npt.NDArray[np.bool_]:
        """Whether each [N] never varies."""
        ...


@dataclass(frozen=True)
class ModuleMaps:
    """Example maps of some channels of a module: `maps` [channels, X, h, w], normalized."""

    channels: Sequence[int]
    maps: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Examples:
    """Example pictures [X, S, S, 3] and, by model and module, the maps of matched units."""

    pictures: npt.NDArray[np.uint8]
    maps: Mapping[str, Mapping[str, ModuleMaps]]


def keep_pair(layout: Layout, zoo: str, pair: MinedPair, *, facts: Mapping[str, Any]) -> None:
    """Commit the nearest units of two models; `facts` say in JSON what they depend on.

    What is there already with these facts is left as it is. Raises `ZooMismatch` where a kept
    generation names one with other facts.
    """
    folder = zoo_folder(layout, zoo)
    arrays = {
        "index_a": np.asarray(pair.forward.index, np.int32),
        "correlation_a": np.asarray(pair.forward.correlation, np.float32),
        "index_b": np.asarray(pair.backward.index, np.int32),
        "correlation_b": np.asarray(pair.backward.correlation, np.float32),
    }
    group = layout.zoo_pair(folder, pair.first, pair.second)
    what = f"the pair {pair.first}, {pair.second}"
    _keep(layout, folder, group, arrays=arrays, facts=facts, what=what)


def keep_statistics(
    layout: Layout,
    zoo: str,
    member: str,
    *,
    statistics: MinedStatistics,
    facts: Mapping[str, Any],
) -> None:
    """Commit mean, variance and deadness of a model's units; as `keep_pair` does."""
    folder = zoo_folder(layout, zoo)
    arrays = {
        "mean": np.asarray(statistics.mean, np.float64),
        "variance": np.asarray(statistics.variance, np.float64),
        "dead": np.asarray(statistics.dead, np.bool_),
    }
    group = layout.zoo_model(folder, member)
    what = f"the model {member}"
    _keep(layout, folder, group, arrays=arrays, facts=facts, what=what)


def kept_pair(
    layout: Layout, zoo: str, names: tuple[str, str], *, facts: Mapping[str, Any]
) -> KeptPair | None:
    """What was kept of two models, in either order, with the same facts; None otherwise."""
    folder = zoo_folder(layout, zoo)
    for first, second in (names, names[::-1]):
        if _has(layout.zoo_pair(folder, first, second), facts):
            found = zoo_files.read_pair(layout, folder, first=first, second=second)
            return found if (first, second) == names else found.reversed()
    return None


def kept_statistics(
    layout: Layout, zoo: str, member: str, *, facts: Mapping[str, Any]
) -> KeptStatistics | None:
    """What was kept of a model's units with the same facts; None otherwise."""
    folder = zoo_folder(layout, zoo)
    if not _has(layout.zoo_model(folder, member), facts):
        return None
    return zoo_files.read_statistics(layout, folder, member)


def forget_others(
    layout: Layout,
    zoo: str,
    *,
    models: Mapping[str, Mapping[str, Any]],
    pairs: Mapping[tuple[str, str], Mapping[str, Any]],
) -> None:
    """Remove what was kept of models and pairs, either way around, with other facts than these.

    Also what a killed process had half written: nobody else may be mining the zoo. Raises
    `ZooMismatch` where a kept generation names one, before anything is removed.
    """
    folder = zoo_folder(layout, zoo)
    facts = {(name,): one for name, one in models.items()}
    facts |= {way: one for names, one in pairs.items() for way in (names, names[::-1])}
    groups = {
        names: layout.zoo_model(folder, *names)
        if len(names) == 1
        else layout.zoo_pair(folder, *names)
        for names in facts
    }
    with publish_lock(layout):
        published = named_files(layout, folder)
        others = {
            names: group
            for names, group in groups.items()
            if manifest_of(group).exists() and not _has(group, facts[names])
        }
        for names, group in others.items():
            if group in published:
                what = (
                    f"the model {names[0]}" if len(names) == 1 else f"the pair {', '.join(names)}"
                )
                raise _is_published(what, folder)
        for group in others.values():
            manifest_of(group).unlink()
            shutil.rmtree(group, ignore_errors=True)
    for left in (
        *layout.zoo(folder).glob(_HALF_WRITTEN),
        *layout.zoo(folder).glob(f"*/{_HALF_WRITTEN}"),
    ):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()


def keep_examples(layout: Layout, zoo: str, examples: Examples) -> int:
    """Commit example pictures and maps under a new label, and return it for `publish_zoo`."""
    import zarr

    folder = zoo_folder(layout, zoo)
    label = zoo_files.next_label(layout, folder)
    group = layout.zoo_examples(folder, label)
    partial = _partial(group)
    attributes = {"encoding-type": "lensbase-rosetta-examples"}
    zarr.open_group(partial, mode="w", zarr_format=3, attributes=_attributes(attributes))
    write_static(partial / "pictures", np.asarray(examples.pictures, np.uint8))
    for member, modules in examples.maps.items():
        for module, kept in modules.items():
            if len(kept.channels):
                _write_maps(partial / member / module, kept)
    with publish_lock(layout):
        _commit(layout, partial, group, facts={"label": label})
    return label


def _write_maps(group: Path, kept: ModuleMaps) -> None:
    order = np.argsort(np.asarray(kept.channels, np.int64))
    values = np.asarray(kept.maps)[order].astype(np.float16)
    channels = np.asarray(kept.channels, np.int64)[order].tolist()
    spec = zoo_files.maps_spec(values.shape)
    attributes = {"encoding-type": "lensbase-rosetta-maps", "channels": channels}
    declare(group, {"maps": spec}, segment_rows=len(values), attributes=attributes)
    path = shard_path(group / "maps", spec, 0)
    durable.write_parts(path, encode_shard(spec, values, segment_rows=len(values)))


def _keep(
    layout: Layout,
    folder: str,
    group: Path,
    *,
    arrays: Mapping[str, npt.NDArray[Any]],
    facts: Mapping[str, Any],
    what: str,
) -> None:
    import zarr

    if _has(group, facts):
        return
    partial = _partial(group)
    attributes = {"encoding-type": "lensbase-rosetta"}
    zarr.open_group(partial, mode="w", zarr_format=3, attributes=_attributes(attributes))
    for name, values in arrays.items():
        write_static(partial / name, values)
    with publish_lock(layout):
        if group in named_files(layout, folder):
            shutil.rmtree(partial)
            raise _is_published(what, folder)
        _commit(layout, partial, group, facts={"facts": as_json(facts)})


def _is_published(what: str, folder: str) -> ZooMismatch:
    return ZooMismatch(
        f"{what} of zoo {folder.partition('~')[0]!r} is published, of other pictures, weights or "
        "settings; mine under another name, or `lensbase rosetta drop` it first."
    )


def _attributes(own: Mapping[str, str]) -> dict[str, Any]:
    return {"encoding-version": ENCODING_VERSION} | dict(own)


def _partial(group: Path) -> Path:
    return group.with_name(f"{group.name}.{os.getpid()}{durable.PARTIAL}")


def _commit(layout: Layout, partial: Path, group: Path, *, facts: Mapping[str, Any]) -> None:
    """Rename a group into place and write its manifest; the old one's goes first."""
    for file in partial.rglob("*"):
        if file.is_file():
            durable.sync_file(file)
    manifest_of(group).unlink(missing_ok=True)
    shutil.rmtree(group, ignore_errors=True)
    partial.replace(group)
    files = [file for file in group.rglob("*") if file.is_file()]
    entries = [manifest.entry(layout.root, file) for file in files]
    manifest.commit(layout, manifest_of(group), files=entries, facts=dict(facts))


def _has(group: Path, facts: Mapping[str, Any]) -> bool:
    committed = manifest_of(group)
    if not committed.exists():
        return False
    return manifest.read_manifest(committed).facts.get("facts") == as_json(facts)
