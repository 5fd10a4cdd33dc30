"""Rosetta zoos: the dictionary, one concept over all models, one unit and its partners."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import Path, Request
from pydantic import BaseModel, Field

from ....schema.errors import BadQuestion
from ....schema.zoo_errors import MapsNotStored, NoMatches
from ...open_zoo import Merged
from ...rosetta import RosettaView
from ...rosetta_unit import UnitView
from ..addresses import part
from ..answers import Limit, Offset, Rows, rows_of
from ..asked import Asked
from ..asking import MaybeText
from ..page import Pages
from ..sections import Section, section
from ..zoos import (
    AskedZoo,
    Description,
    DrawnConcept,
    descriptions,
    drawn_concept,
    drawn_units,
    inside,
)

pages = Pages("rosetta")

LISTED = 25
DICTIONARY = 6
BESIDE = 2
EXAMPLES = 8
ACTIVE = 12
MEMBERS = 50
FOUND = 10

ConceptNumber = Annotated[int, Path(ge=0, le=2**31 - 1, description="A concept, from 0.")]
UnitName = Annotated[
    str, Path(max_length=300, description="A unit's address, such as `resnet50:layer4.2.relu/17`.")
]


class ZooPage(BaseModel):
    """A zoo: its models, its concepts, and the dictionary of those listed first."""

    zoo: str
    anchor: str
    facts: dict[str, str]
    models: Rows
    statistics: Rows
    rows: Rows | None = Field(description="Concepts, by their strongest tuples.")
    missing: str | None
    dictionary: list[DrawnConcept]
    columns: list[str] = Field(description="Models in the order of a tuple's units.")
    searchable: bool = Field(description="Whether a run describes units of this zoo by texts.")
    text: str
    found: Section | None = Field(description="Units about `text`, with their partners.")
    python: str


class ConceptMember(BaseModel):
    """One of the anchor's units in a concept, with its strongest tuple."""

    min_correlation: float
    units: list[str]
    correlations: list[float]


class ConceptPage(BaseModel):
    """One concept over all models."""

    zoo: str
    concept: int
    count: int = Field(description="How many concepts the zoo has.")
    size: int = Field(description="How many of the anchor's units it clusters.")
    strongest: DrawnConcept
    members: list[ConceptMember]
    descriptions: list[Description]
    columns: list[str]
    missing: str | None
    python: str


class UnitPage(BaseModel):
    """One unit of a model: its statistics, its activity, its partners in the other models."""

    zoo: str
    unit: str
    model: str
    facts: dict[str, str]
    concept: int | None = Field(description="The concept that it is of, where it is the anchor's.")
    images: list[int] = Field(description="Example pictures in which it is most active.")
    peaks: list[float] = Field(description="Its largest activity there, in standard deviations.")
    missing: str | None
    rows: Rows = Field(description="Its partners, by model, nearest first.")
    descriptions: list[Description]
    python: str


class ZooList(BaseModel):
    """The zoos of the store."""

    path: str
    rows: Rows
    python: str


@pages.page("/rosetta", "zoo_list.html")
def zoo_list(
    request: Request, store: Asked, limit: Limit = LISTED, *, offset: Offset = 0
) -> ZooList:
    """The zoos of the store; where there is one, its page."""
    rows = rows_of(store.zoos, limit=limit, offset=offset)
    if rows.total == 1 and not offset:
        request.state.instead = f"/rosetta/{part(rows.rows[0]['zoo'])}"
    return ZooList(path=request.app.state.path, rows=rows, python="store.zoos")


@pages.page("/rosetta/{zoo}", "rosetta.html")
def zoo_page(
    store: Asked, zoo: AskedZoo, text: MaybeText = "", *, limit: Limit = LISTED, offset: Offset = 0
) -> ZooPage:
    """A zoo: models, pairs, the dictionary, and its concepts, the strongest first."""
    merged, missing = _merged(zoo)
    drawn: list[DrawnConcept] = []
    rows: Rows | None = None
    if merged is not None:
        rows = rows_of(zoo.concepts(), limit=limit, offset=offset)
        drawn = [
            drawn_concept(zoo, merged, row["concept"], images=BESIDE)
            for row in rows.rows[:DICTIONARY]
        ]
    return ZooPage(
        zoo=zoo.name,
        anchor=zoo.anchor,
        facts=zoo.info().facts,
        models=rows_of(zoo.models),
        statistics=rows_of(zoo.statistics()),
        rows=rows,
        missing=missing,
        dictionary=drawn,
        columns=[one.name for one in inside(zoo).ordered],
        searchable=any(
            store.sql("SELECT 1 FROM rosetta_neurons WHERE zoo = ? LIMIT 1", [zoo.name])
        ),
        text=text,
        found=section(lambda: zoo.search(text, FOUND)) if text.strip() else None,
        python=f'store.rosetta("{zoo.name}").concepts()',
    )


@pages.page("/rosetta/{zoo}/concepts/{concept}", "concept.html")
def concept_page(store: Asked, zoo: AskedZoo, concept: ConceptNumber) -> ConceptPage:
    """One concept: the units of its strongest tuple side by side, and all that it clusters."""
    merged = inside(zoo).merged()
    count = merged.concepts.count
    if concept >= count:
        msg = f"zoo {zoo.name!r} has {count} concepts, so there is no concept {concept}."
        raise NoMatches(msg)
    strongest = drawn_concept(zoo, merged, concept, images=EXAMPLES)
    return ConceptPage(
        zoo=zoo.name,
        concept=concept,
        count=count,
        size=int(merged.concepts.sizes[concept]),
        strongest=strongest,
        members=_members(zoo, merged, concept),
        descriptions=descriptions(store, zoo, [one.unit for one in strongest.units]),
        columns=[one.name for one in merged.members],
        missing=_no_maps(zoo),
        python=f'store.rosetta("{zoo.name}").dictionary([{concept}], images={EXAMPLES})',
    )


@pages.page("/rosetta/{zoo}/units/{unit:path}", "unit.html")
def unit_page(store: Asked, zoo: AskedZoo, unit: UnitName) -> UnitPage:
    """One unit: statistics, activity on the example pictures, partners in every model."""
    view = zoo.unit(unit)
    images, peaks, missing = _activity(view)
    return UnitPage(
        zoo=zoo.name,
        unit=view.address,
        model=view.model,
        facts=view.info().facts,
        concept=_concept_of(zoo, view),
        images=images,
        peaks=peaks,
        missing=missing,
        rows=rows_of(view.partners(), limit=200),
        descriptions=descriptions(store, zoo, [view.address]),
        python=f'store.rosetta("{zoo.name}").unit("{view.address}").partners()',
    )


def _merged(zoo: RosettaView) -> tuple[Merged | None, str | None]:
    """What the models share, or why there is nothing."""
    try:
        return inside(zoo).merged(), None
    except (NoMatches, BadQuestion) as error:
        return None, str(error)


def _members(zoo: RosettaView, merged: Merged, concept: int) -> list[ConceptMember]:
    """The units of the anchor that a concept clusters, those of the strongest tuples first."""
    units = merged.concepts.units[merged.concepts.concept == concept]
    # `best` has one row for each unit of the anchor, by its number.
    rows = np.searchsorted(merged.best.units[:, 0], units)
    rows = rows[np.argsort(-merged.best.weakest[rows], kind="stable")][:MEMBERS]
    found: list[ConceptMember] = []
    for row in rows.tolist():
        drawn = drawn_units(zoo, merged, row)
        found.append(
            ConceptMember(
                min_correlation=float(merged.best.weakest[row]),
                units=[one.unit for one in drawn],
                correlations=[one.correlation for one in drawn if one.correlation is not None],
            )
        )
    return found


def _activity(view: UnitView) -> tuple[list[int], list[float], str | None]:
    try:
        peaks = view.activity().max((1, 2))
    except MapsNotStored as error:
        return [], [], str(error)
    first = np.argsort(-peaks, kind="stable")[:ACTIVE]
    return first.tolist(), peaks[first].tolist(), None


def _no_maps(zoo: RosettaView) -> str | None:
    try:
        len(inside(zoo).pictures)
    except MapsNotStored as error:
        return str(error)
    return None


def _concept_of(zoo: RosettaView, view: UnitView) -> int | None:
    merged, _ = _merged(zoo)
    if merged is None or view.model != zoo.anchor:
        return None
    _, number = inside(zoo).unit(view.address)
    concepts = merged.concepts
    place = int(np.searchsorted(concepts.units, number))
    if place == len(concepts.units) or concepts.units[place] != number:
        return None
    return int(concepts.concept[place])
