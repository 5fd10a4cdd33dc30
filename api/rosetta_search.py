"""Units of a zoo by a text: through the neurons of a CLIP of the zoo that a run has described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema.components import Neuron
from ..schema.errors import NeuronsNotStored
from .open_zoo import OpenZoo, ZooMember
from .result import Result
from .rosetta_unit import UnitView
from .whole_numbers import whole

if TYPE_CHECKING:
    from .run import RunView

_FIRST = 64  # neurons that are looked at before more are asked for


def search_units(
    zoo: OpenZoo, text: str, k: int, *, run: str | None, signed: bool = False
) -> Result:
    """Matched units whose CLIP neuron is about a text; see `RosettaView.search`."""
    k = whole(k, "k", least=0, of="units")
    rows: list[dict[str, Any]] = []
    described = _described(zoo, run)
    others = list(zoo.members.values())
    for member, view in described:
        rows += _found(zoo, member, view, text=text, k=k, signed=signed)
    rows.sort(key=lambda row: -row["score"] if signed else -abs(row["score"]))
    rows = rows[:k]
    columns: dict[str, Any] = {"rank": np.arange(1, len(rows) + 1)}
    for name in ("unit", "run", "component", "score", "texts"):
        columns[name] = [row[name] for row in rows]
    for other in others:
        if any(other.name in row["partners"] for row in rows):
            best = [row["partners"].get(other.name, (None, None)) for row in rows]
            columns[other.name] = [one for one, _ in best]
            columns[f"correlation_{other.name}"] = [number for _, number in best]
    runs = ", ".join(dict.fromkeys(view.name for _, view in described))
    how = "<r, text>" if signed else "|<r, text>|"
    note = f"by {how} of neurons' directions with {text!r} in {runs}{_weakness(rows)}"
    return Result.of(columns, note=note)


def _weakness(rows: list[dict[str, Any]]) -> str:
    """How many scores are no higher than a random direction's, for the note."""
    weak = [row for row in rows if abs(row["score"]) < row["chance"]]
    if not weak:
        return ""
    which = "all scores are" if len(weak) == len(rows) else f"the last {len(weak)} are"
    which = which if len(rows) > 1 else "the score is"
    return f"; weak: {which} below {weak[0]['chance']:.3f}, which random directions have"


def _described(zoo: OpenZoo, run: str | None) -> list[tuple[ZooMember, RunView]]:
    """The zoo's CLIPs whose neurons some run has kept, each with one such run."""
    found: list[tuple[ZooMember, RunView]] = []
    for member in zoo.members.values():
        views = [view for view in zoo.runs_of(member.weights_sha256) if run in (None, view.name)]
        for view in views:
            if member.neuron_layers.intersection(view._run.shape.neuron_layers):  # pyright: ignore
                found.append((member, view))
                break
    if not found:
        which = "no run of this store" if run is None else f"run {run!r}, if there is one, does not"
        keeps = "has kept" if run is None else "keep"
        msg = (
            f"{which} {keeps} the neurons of a CLIP of zoo {zoo.name!r}: "
            "`lensbase ingest` with the same weights and --neurons does, and describes them."
        )
        raise NeuronsNotStored(msg)
    return found


def _found(
    zoo: OpenZoo, member: ZooMember, view: RunView, *, text: str, k: int, signed: bool
) -> list[dict[str, Any]]:
    """The first `k` of a CLIP's neurons by a text that match a unit of another model."""
    total = view._run.neurons.count * len(view._run.shape.neuron_layers)  # pyright: ignore
    # The standard deviation of <r, text> over random directions r of as many dimensions.
    chance = view._run.neurons.direction.shape[-1] ** -0.5  # pyright: ignore
    ask, rows, seen = _FIRST, list[dict[str, Any]](), 0
    while len(rows) < k and seen < total:
        listed = view.find_neurons(text, k=min(ask, total), signed=signed).rows()
        for row in listed[seen:]:
            unit = member.unit_of(Neuron(row["layer"], row["neuron"]))
            partners = {} if unit is None else _best_partners(zoo, member, unit)
            if partners:
                assert unit is not None
                rows.append(
                    {
                        "unit": str(member.address(unit)),
                        "run": view.name,
                        "component": row["component"],
                        "score": row["score"],
                        "texts": row.get("texts"),
                        "partners": partners,
                        "chance": chance,
                    }
                )
        # Fewer come back than were asked for where directions are none.
        seen, ask = (len(listed), ask * 4) if len(listed) == min(ask, total) else (total, ask)
    return rows[:k]


def _best_partners(zoo: OpenZoo, member: ZooMember, unit: int) -> dict[str, tuple[str, float]]:
    found: dict[str, tuple[str, float]] = {}
    for row in UnitView(zoo, str(member.address(unit))).partners():
        if row["model"] != member.name:
            found.setdefault(row["model"], (row["unit"], row["correlation"]))
    return found
