"""Whether a zoo's rows follow from its kept arrays: statistics, best buddies, tuples, concepts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schema.snapshot import Snapshot
from .console import Console
from .open_zoo import OpenZoo, ZooMember
from .rosetta import open_zoo

Columns = dict[str, npt.NDArray[Any]]


def broken_zoo(snapshot: Snapshot, name: str) -> Iterator[str]:
    """Say what of a zoo's rows differs from what its arrays say."""
    console = Console(snapshot.connection)
    view = open_zoo(snapshot, name, console=console, runs_of=lambda _: [])
    zoo = view._zoo  # pyright: ignore[reportPrivateUsage]
    for member in zoo.members.values():
        yield from _broken_units(zoo, member)
    for first, second in sorted(zoo.pairs):
        yield from _broken_pair(zoo, zoo.members[first], zoo.members[second])
    yield from _broken_concepts(zoo)
    if zoo.row["label"] is not None:
        yield from _broken_maps(zoo)


def _broken_units(zoo: OpenZoo, member: ZooMember) -> Iterator[str]:
    rows = zoo.console.columns(
        """SELECT unit, module, channel, mean, variance, dead FROM rosetta_unit
           WHERE rosetta_id = ? AND position = ? ORDER BY unit""",
        [zoo.row["rosetta_id"], member.position],
    )
    kept = zoo.statistics(member)
    if not np.array_equal(rows["unit"], np.arange(member.units)):
        yield f"the rows of {member.name} are not one for each of its {member.units:,} units"
        return
    said = member.addresses(rows["unit"].astype(np.int64))
    named = [
        f"{member.name}:{module}/{channel}"
        for module, channel in zip(rows["module"], rows["channel"], strict=True)
    ]
    if said != named:
        yield f"the units of {member.name} are not the channels of its modules in order"
    for column in ("mean", "variance", "dead"):
        if not np.array_equal(rows[column], getattr(kept, column), equal_nan=True):
            yield f"{column} of units of {member.name} differs from what was kept"
    if not (kept.dead | (kept.variance > 0)).all():
        yield f"units of {member.name} that never vary are not called dead"


def _broken_pair(zoo: OpenZoo, one: ZooMember, other: ZooMember) -> Iterator[str]:
    where = f"{one.name} and {other.name}"
    pair = zoo.pair(one.name, other.name)
    for index, said, dead, units in (
        (pair.index_first, pair.correlation_first, zoo.statistics(one).dead, other.units),
        (pair.index_second, pair.correlation_second, zoo.statistics(other).dead, one.units),
    ):
        if (index[dead] >= 0).any():
            yield f"units of {where} that never vary match others"
        # Behind the nearest ones, -1 and NaN stand where there are no more.
        known = said[index >= 0]
        if (index >= units).any() or not np.array_equal(index < 0, np.isnan(said)):
            yield f"the nearest units of {where} are no units"
        elif (np.abs(known) > 1 + 1e-6).any() or (np.diff(said, axis=1) > 0).any():
            yield f"the nearest units of {where} are not in the order of their correlation"
    found = zoo.buddies(one.name, other.name, k=zoo.neighbors)
    if one is other:
        found = found.where(found.first < found.second)
    wanted: Columns = {
        "unit_first": found.first,
        "unit_second": found.second,
        "correlation": found.correlation,
        "rank_first": found.rank_first,
        "rank_second": found.rank_second,
    }
    rows = zoo.console.columns(
        f"""SELECT {", ".join(wanted)} FROM rosetta_match
            WHERE rosetta_id = ? AND first = ? AND second = ? ORDER BY unit_first, rank_first""",
        [zoo.row["rosetta_id"], one.position, other.position],
    )
    if not _equal(rows, wanted):
        yield f"the best buddies of {where} are not those of the nearest units that are kept"


def _broken_concepts(zoo: OpenZoo) -> Iterator[str]:
    if len(zoo.members) < 2:
        return
    concepts = zoo.merged().concepts
    order = np.lexsort((concepts.units, concepts.concept))
    wanted: Columns = {"concept": concepts.concept[order], "unit": concepts.units[order]}
    rows = zoo.console.columns(
        "SELECT concept, unit FROM rosetta_concept WHERE rosetta_id = ? ORDER BY concept, unit",
        [zoo.row["rosetta_id"]],
    )
    if not _equal(rows, wanted):
        yield "the concepts are not the clusters of the units in tuples of all models"


def _broken_maps(zoo: OpenZoo) -> Iterator[str]:
    """Of each concept's strongest tuple, that maps are kept, in the modules' grids, and finite."""
    if len(zoo.members) < 2:
        return
    merged, pictures = zoo.merged(), len(zoo.pictures)
    for row in merged.strongest.tolist():
        for member, unit in zip(merged.members, merged.best.units[row].tolist(), strict=True):
            maps = zoo.maps(member, unit)
            if maps is None:
                continue
            shape = (pictures, *member.grids[member.place(unit)])
            if maps.shape != shape or not np.isfinite(maps).all():
                yield f"the maps of {member.address(unit)} are not finite ones of shape {shape}"


def _equal(rows: Columns, wanted: Columns) -> bool:
    return all(np.array_equal(rows[name], wanted[name]) for name in wanted)
