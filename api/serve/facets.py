"""Facets of a run's images: columns with few values, counted, and images that have chosen ones."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from ...schema.errors import BadQuestion, UnknownColumn
from ...schema.views import RESERVED_COLUMNS
from ..run import RunView
from .kept import inside, made_once

MOST_VALUES = 40
MOST_CLASSES = 1000
SHOWN = 200

_FIRST = ("label", "subgroup")


class FacetValue(BaseModel):
    """One value, and how many images have it beside what else is chosen."""

    value: str
    images: int
    chosen: bool


class Facet(BaseModel):
    """A column of few values."""

    column: str
    values: list[FacetValue]
    more: int = Field(default=0, description="How many further values there are.")


@dataclass(frozen=True)
class Column:
    """A column's values by code, and each image's code; -1 for none."""

    values: list[str]
    codes: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Faceted:
    """A run's readable images by id, with their columns of few values."""

    image_ids: npt.NDArray[np.int64]
    columns: dict[str, Column]

    def chosen(self, choice: Mapping[str, str], *, but: str | None = None) -> npt.NDArray[np.bool_]:
        """Which images have all chosen values, those of one column aside."""
        mask = np.ones(len(self.image_ids), bool)
        for name, value in choice.items():
            if name == but:
                continue
            column = self.columns[name]
            code = column.values.index(value) if value in column.values else -2
            mask &= column.codes == code
        return mask

    def counted(self, choice: Mapping[str, str]) -> list[Facet]:
        """Every column's values with their images under the other columns' choice."""
        facets: list[Facet] = []
        for name, column in self.columns.items():
            codes = column.codes[self.chosen(choice, but=name)]
            counts = np.bincount(codes[codes >= 0], minlength=len(column.values))
            values = [
                FacetValue(value=value, images=count, chosen=choice.get(name) == value)
                for value, count in zip(column.values, counts.tolist(), strict=True)
                if count or choice.get(name) == value
            ]
            values.sort(key=lambda one: (not one.chosen, -one.images, one.value))
            if values:
                more = max(len(values) - SHOWN, 0)
                facets.append(Facet(column=name, values=values[:SHOWN], more=more))
        return facets


def faceted(run: RunView) -> Faceted:
    """The facets of a run, read once a generation."""
    return made_once(run, "facets", lambda: _read(run))


def choice_of(found: Faceted, asked: Sequence[str]) -> dict[str, str]:
    """Chosen values by column, from texts such as `label:heart`.

    Raises `BadQuestion` for what is none, and `UnknownColumn`.
    """
    choice: dict[str, str] = {}
    for one in asked:
        name, colon, value = one.partition(":")
        if not colon:
            msg = f"facet={one!r} is no choice; write a column and its value: label:heart."
            raise BadQuestion(msg)
        if name not in found.columns:
            listed = ", ".join(found.columns) or "none"
            msg = f"there is no facet {name!r}; columns with few values are {listed}."
            raise UnknownColumn(msg)
        choice[name] = value
    return choice


def _read(run: RunView) -> Faceted:
    opened = inside(run)
    types = opened.console.types("SELECT * FROM images")
    names = [
        name
        for name, kind in types.items()
        if name in _FIRST or (name not in RESERVED_COLUMNS and ":" not in name and _has_few(kind))
    ]
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in names}
    counts = ", ".join(f"approx_count_distinct({one})" for one in quoted.values())
    ready = "FROM images WHERE run = ? AND status = 'ok'"
    (distinct,) = opened.console.rows(f"SELECT {counts} {ready}", [run.name])
    kept = [
        name
        for name, values in zip(names, distinct, strict=True)
        if 0 < values <= 1.2 * (MOST_CLASSES if name in _FIRST else MOST_VALUES)
    ]
    chosen = "".join(f", {quoted[name]}::VARCHAR AS {quoted[name]}" for name in kept)
    table = opened.console.query(f"SELECT image_id{chosen} {ready} ORDER BY image_id", [run.name])
    columns: dict[str, Column] = {}
    for name in kept:
        encoded = table.column(name).combine_chunks().dictionary_encode()
        codes = np.asarray(encoded.indices.fill_null(-1), np.int32)
        columns[name] = Column([str(one) for one in encoded.dictionary.to_pylist()], codes)
    return Faceted(np.asarray(table.column("image_id"), np.int64), columns)


def _has_few(kind: str) -> bool:
    return not any(word in kind for word in ("DOUBLE", "FLOAT", "BLOB", "[", "STRUCT", "MAP"))
