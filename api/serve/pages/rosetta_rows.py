"""Rosetta zoos as rows and pictures: units, matches, search, partners, maps over examples."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Response

from ....schema.zoo_errors import MapsNotStored
from ...heatmap import Heatmap
from ...rosetta import RosettaView
from ...rosetta_heatmaps import example_picture
from ..answers import Limit, Offset, Rows, rows_of
from ..asking import K, Text
from ..page import Pages
from ..zoos import AskedZoo, inside

if TYPE_CHECKING:
    from PIL.Image import Image

pages = Pages("rosetta")

SIDE = 160
GAP = 8
MOST_ACROSS = 12
_WEBP: dict[int | str, dict[str, Any]] = {200: {"content": {"image/webp": {}}}}

Models = Annotated[
    list[str] | None, Query(max_length=20, description="Models by name; by default all of them.")
]
Lowest = Annotated[
    float | None, Query(ge=-1, le=1, description="Tuples with a lower correlation are left out.")
]
UnitAsked = Annotated[str, Query(max_length=300, description="A unit's address.")]
ModelAsked = Annotated[str, Query(max_length=200, description="A model; by default all.")]
Examples = Annotated[
    list[int], Query(min_length=1, max_length=MOST_ACROSS, description="Example pictures.")
]


@pages.json.get("/rosetta/{zoo}/units")
def units(
    zoo: AskedZoo,
    models: Models = None,
    *,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Rows:
    """The units of a zoo's models, with their grids, means and deviations."""
    return rows_of(zoo.units_of(models), limit=limit, offset=offset)


@pages.json.get("/rosetta/{zoo}/matches")
def matches(
    zoo: AskedZoo,
    models: Models = None,
    min_correlation: Lowest = None,
    *,
    limit: Limit = 50,
    offset: Offset = 0,
) -> Rows:
    """Rosetta neurons: tuples of units that match (T4.4), the strongest first."""
    found = zoo.matches(models, min_correlation)
    return rows_of(found, limit=limit, offset=offset)


@pages.json.get("/rosetta/{zoo}/search")
def search_units(zoo: AskedZoo, text: Text, k: K = 10) -> Rows:
    """Units whose CLIP neuron is about a text, with their best partners in the other models."""
    return rows_of(zoo.search(text, k))


@pages.json.get("/rosetta/{zoo}/partners")
def partners(
    zoo: AskedZoo,
    unit: UnitAsked,
    model: ModelAsked = "",
    *,
    mutual: bool = True,
    limit: Limit = 200,
    offset: Offset = 0,
) -> Rows:
    """The units that a unit matches, by model, nearest first (T4.3)."""
    found = zoo.unit(unit).partners(model or None, mutual=mutual)
    return rows_of(found, limit=limit, offset=offset)


@pages.json.get("/rosetta/{zoo}/examples.webp", responses=_WEBP, response_class=Response)
def examples(zoo: AskedZoo, images: Examples) -> Response:
    """Example pictures of a zoo side by side."""
    opened = inside(zoo)
    return _strip([example_picture(opened, opened.example(image)) for image in images])


@pages.json.get("/rosetta/{zoo}/maps.webp", responses=_WEBP, response_class=Response)
def maps(zoo: AskedZoo, unit: UnitAsked, images: Examples) -> Response:
    """Where a unit is active in example pictures, side by side; each map has its own range."""
    return _strip(_maps(zoo, unit, images))


def _maps(zoo: RosettaView, unit: str, images: list[int]) -> list[Image]:
    opened = inside(zoo)
    member, number = opened.unit(unit)
    kept = opened.maps(member, number)
    if kept is None:
        msg = f"zoo {zoo.name!r} keeps no maps of {unit}, only of units in a match of all models."
        raise MapsNotStored(msg)

    def drawn(image: int) -> Image:
        over = example_picture(opened, opened.example(image))
        made = Heatmap(kept[image], text=unit, head=None, relative_to=None, background=lambda: over)
        return made.picture()

    return [drawn(image) for image in images]


def _strip(pictures: list[Image]) -> Response:
    from PIL import Image

    strip = Image.new("RGBA", ((SIDE + GAP) * len(pictures) - GAP, SIDE))
    for place, picture in enumerate(pictures):
        strip.paste(picture.resize((SIDE, SIDE)), ((SIDE + GAP) * place, 0))
    buffer = BytesIO()
    strip.save(buffer, "WEBP", quality=82)
    return Response(buffer.getvalue(), media_type="image/webp")
