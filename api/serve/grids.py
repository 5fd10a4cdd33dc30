"""Grids of layers by heads, and strips of layers: numbers to be shaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

COLORS = 8


class Cell(BaseModel):
    """One component in a grid."""

    component: str
    value: float | None
    text: str | None = Field(default=None, description="The first text that explains it.")
    role: str | None = None
    color: int | None = Field(default=None, description="The number of the role's color.")


class GridRow(BaseModel):
    """The components of a row, None where there is none."""

    name: str
    cells: list[Cell | None]


class Grid(BaseModel):
    """Components by rows and columns; `most` is the largest magnitude, for shading."""

    columns: list[str]
    rows: list[GridRow]
    most: float
    least: float = 0.0
    signed: bool = False
    decimals: int = Field(default=2, description="Decimals with which numbers are told apart.")
    roles: dict[str, int] = Field(default_factory=dict[str, int])


def head_grid(heads: Sequence[Mapping[str, Any]], measure: str, roles: Mapping[str, str]) -> Grid:
    """Heads, as rows with `component`, `layer`, `head` and the measure, in a grid by layer."""
    values = [row[measure] for row in heads if row[measure] is not None]
    named = sorted(set(roles.values()))
    colors = {role: place % COLORS for place, role in enumerate(named)}
    width = max((row["head"] for row in heads), default=-1) + 1
    found: dict[int, list[Cell | None]] = {}
    for row in heads:
        texts, role = row.get("texts") or [], roles.get(row["component"])
        cell = Cell(
            component=row["component"],
            value=row[measure],
            text=texts[0] if texts else None,
            role=role,
            color=None if role is None else colors[role],
        )
        found.setdefault(row["layer"], [None] * width)[row["head"]] = cell
    return Grid(
        columns=[f"H{head}" for head in range(width)],
        rows=[GridRow(name=f"L{layer}", cells=cells) for layer, cells in sorted(found.items())],
        **_scale(values),
        roles={role: colors[role] for role in named if role in set(_roles_in(found))},
    )


def layer_strip(terms: Sequence[Mapping[str, Any]], measure: str) -> Grid:
    """Attention and MLP terms by layer, and the class token's, which stands first."""
    attention: list[Cell | None] = []
    mlp: list[Cell | None] = []
    embed: Cell | None = None
    for row in terms:
        cell = Cell(component=row["component"], value=row[measure])
        if cell.component.endswith(".ATTN"):
            attention.append(cell)
        elif cell.component.endswith(".MLP"):
            mlp.append(cell)
        else:
            embed = cell
    values = [row[measure] for row in terms if row[measure] is not None]
    return Grid(
        columns=["input", *(f"L{layer}" for layer in range(len(attention)))],
        rows=[
            GridRow(name="EMBED", cells=[embed, *[None] * len(attention)]),
            GridRow(name="ATTN", cells=[None, *attention]),
            GridRow(name="MLP", cells=[None, *mlp]),
        ],
        **_scale(values),
    )


def _scale(values: Sequence[float]) -> dict[str, Any]:
    most = max(map(abs, values), default=0.0)
    return {
        "most": most,
        "signed": any(value < 0 for value in values),
        "decimals": max(1 - math.floor(math.log10(most)), 0) if most > 0 else 0,
    }


def _roles_in(found: Mapping[int, Sequence[Cell | None]]) -> list[str]:
    cells = (cell for row in found.values() for cell in row)
    return [cell.role for cell in cells if cell is not None and cell.role is not None]
