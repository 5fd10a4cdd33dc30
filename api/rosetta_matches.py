"""Rosetta neurons as rows: tuples of matched units, the concepts they form, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..queries.rosetta_tuples import RosettaTuples, tuple_counts
from .open_zoo import Merged, OpenZoo, ZooMember
from .printing import counted
from .result import Result

_QUANTILES = {"lowest": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "highest": 1.0}


def match_rows(
    zoo: OpenZoo,
    *,
    models: str | Sequence[str] | None,
    min_correlation: float | None,
    neighbors: int | None,
) -> Result:
    """Tuples, strongest first; see `RosettaView.matches`."""
    merged = zoo.merged(models, min_correlation=min_correlation, neighbors=neighbors)
    order = merged.tuples.order()
    of = merged.concepts.of(merged.tuples.units[order, 0])
    columns = _tuple_columns(merged.members, merged.tuples, order)
    return Result.of({"concept": of, **columns}, note=_note(merged) + zoo.few)


def concept_rows(
    zoo: OpenZoo,
    *,
    models: str | Sequence[str] | None,
    min_correlation: float | None,
    neighbors: int | None,
) -> Result:
    """Concepts with their strongest tuple; see `RosettaView.concepts`."""
    merged = zoo.merged(models, min_correlation=min_correlation, neighbors=neighbors)
    count, concepts = merged.concepts.count, merged.concepts
    each = tuple_counts(merged.pairs)[concepts.units]
    tuples = np.bincount(concepts.concept, weights=each, minlength=count).astype(np.int64)
    return Result.of(
        {
            "concept": np.arange(count),
            "size": concepts.sizes,
            "tuples": tuples,
            **_tuple_columns(merged.members, merged.best, merged.strongest),
        },
        note=_note(merged) + zoo.few,
    )


def pair_statistics(zoo: OpenZoo) -> Result:
    """Best buddies of every pair of models; see `RosettaView.statistics`."""
    listed = [(zoo.members[first], zoo.members[second]) for first, second in sorted(zoo.pairs)]
    listed.sort(key=lambda pair: (pair[0].position, pair[1].position))
    columns: dict[str, list[object]] = {}
    for one, other in listed:
        found = zoo.buddies(one.name, other.name, k=zoo.neighbors)
        ends = [found.first, found.second]
        if one is other:
            # Both ways of each pair are in there: its matches are counted once.
            found = found.where(found.first < found.second)
        said = found.correlation.astype(np.float64)
        where = list(_QUANTILES.values())
        quantiles = np.quantile(said, where).tolist() if len(said) else [np.nan] * len(where)
        row: dict[str, object] = {
            "model_a": one.name,
            "model_b": other.name,
            "units_a": one.units,
            "units_b": other.units,
            "dead_a": int(zoo.statistics(one).dead.sum()),
            "dead_b": int(zoo.statistics(other).dead.sum()),
            "matches": len(found),
            "matched_a": len(np.unique(ends[0])),
            "matched_b": len(np.unique(ends[1])),
            "mean": float(said.mean()) if len(said) else np.nan,
            **dict(zip(_QUANTILES, quantiles, strict=True)),
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return Result.of(
        dict(columns),
        note=f"best buddies of {zoo.neighbors} neighbors; quantiles of correlations{zoo.few}",
    )


def _tuple_columns(
    members: list[ZooMember], tuples: RosettaTuples, rows: npt.NDArray[np.int64]
) -> dict[str, object]:
    """The anchor's unit, each other model's, their correlations with it, the lowest of these."""
    columns: dict[str, object] = {"unit": members[0].address_column(tuples.units[rows, 0])}
    for place, member in enumerate(members[1:], start=1):
        columns[member.name] = member.address_column(tuples.units[rows, place])
    for place, member in enumerate(members[1:]):
        columns[f"correlation_{member.name}"] = tuples.correlations[rows, place]
    return columns | {"min_correlation": tuples.weakest[rows]}


def _note(merged: Merged) -> str:
    concepts, tuples = merged.concepts, int(tuple_counts(merged.pairs).sum())
    through = ", ".join(member.name for member in merged.members[1:])
    return (
        f"{counted(tuples, 'tuple')} of {merged.members[0].name} with {through}: "
        f"{counted(concepts.count, 'concept')} of {counted(len(concepts.units), 'unit')}, the "
        f"largest of {concepts.largest}"
    )
