"""The zoo that an address names, and what pages ask of it: tuples, pictures, neurons' texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Depends, Path
from pydantic import BaseModel, Field

from ...schema.zoo_errors import MapsNotStored, NoMatches
from ..open_zoo import Merged, OpenZoo
from ..rosetta import RosettaView
from ..rosetta_dictionary import example_pictures
from ..store import Store
from .asked import Asked


def _zoo(
    store: Asked, zoo: Annotated[str, Path(max_length=200, description="A zoo's name.")]
) -> RosettaView:
    return store.rosetta(zoo)


AskedZoo = Annotated[RosettaView, Depends(_zoo)]


class DrawnUnit(BaseModel):
    """A unit of a tuple, with how it correlates with the anchor's."""

    model: str
    unit: str
    correlation: float | None = Field(None, description="With the anchor's unit; its own: none.")
    maps: bool = Field(description="Whether its maps on the example pictures are kept.")


class DrawnConcept(BaseModel):
    """A concept's strongest tuple, and the example pictures in which it is most active."""

    concept: int
    min_correlation: float
    images: list[int]
    units: list[DrawnUnit]


class Description(BaseModel):
    """What a run says about a unit that is a neuron of its model."""

    unit: str
    run: str
    component: str
    texts: list[str] = Field(description="The first texts of its sparse code, signed.")


def inside(zoo: RosettaView) -> OpenZoo:
    """What a zoo's view looks at."""
    return zoo._zoo  # pyright: ignore[reportPrivateUsage]


def drawn_concept(zoo: RosettaView, merged: Merged, concept: int, *, images: int) -> DrawnConcept:
    """A concept by the units of its strongest tuple, and the pictures to show them on."""
    row = int(merged.strongest[concept])
    return DrawnConcept(
        concept=concept,
        min_correlation=float(merged.best.weakest[row]),
        images=pictures_of(zoo, merged, row, images=images),
        units=drawn_units(zoo, merged, row),
    )


def drawn_units(zoo: RosettaView, merged: Merged, row: int) -> list[DrawnUnit]:
    """The units of a tuple, by its row in `merged.best`."""
    found: list[DrawnUnit] = []
    for place, (member, unit) in enumerate(
        zip(merged.members, merged.best.units[row].tolist(), strict=True)
    ):
        correlation = None if place == 0 else float(merged.best.correlations[row, place - 1])
        found.append(
            DrawnUnit(
                model=member.name,
                unit=str(member.address(unit)),
                correlation=correlation,
                maps=_has_maps(inside(zoo), member.name, unit),
            )
        )
    return found


def pictures_of(zoo: RosettaView, merged: Merged, row: int, *, images: int) -> list[int]:
    """Example pictures in which a tuple's units are most active together; none where not kept."""
    try:
        return example_pictures(inside(zoo), merged, row=row, images=images)
    except (MapsNotStored, NoMatches):
        return []


def descriptions(store: Store, zoo: RosettaView, units: Sequence[str]) -> list[Description]:
    """Texts of units that are neurons of a run's model, by unit."""
    opened, neurons = inside(zoo), dict[str, tuple[str, str]]()
    for unit in dict.fromkeys(units):
        member, number = opened.unit(unit)
        component = member.neuron(number)
        if component is not None:
            neurons[unit] = component, member.weights_sha256
    if not neurons:
        return []
    rows = store.sql(
        "SELECT n.run, n.component, n.texts, m.weights_sha256 FROM neurons n "
        "JOIN runs r USING (run) JOIN models m ON m.model = r.model "
        "AND m.pretrained IS NOT DISTINCT FROM r.pretrained "
        "WHERE list_contains(?, n.component) ORDER BY n.run",
        [[component for component, _ in neurons.values()]],
    ).rows()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["component"], row["weights_sha256"]), []).append(row)
    return [
        Description(unit=unit, run=row["run"], component=row["component"], texts=row["texts"] or [])
        for unit, key in neurons.items()
        for row in found.get(key, [])
    ]


def _has_maps(zoo: OpenZoo, model: str, unit: int) -> bool:
    try:
        return zoo.maps(zoo.member(model), unit) is not None
    except MapsNotStored:
        return False
