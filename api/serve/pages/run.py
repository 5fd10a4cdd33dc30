"""A run: its facts, its layers and heads at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import Query
from pydantic import BaseModel, Field

from ...run import RunView
from ...store import Store
from ..answers import Limit, Offset, Rows, rows_of
from ..asked import Asked, AskedRun
from ..grids import Grid, head_grid, layer_strip
from ..kept import inside, made_once
from ..page import Pages

pages = Pages("run")

Measure: TypeAlias = Literal["variance", "mean_norm", "mean_share"]
Chosen: TypeAlias = Annotated[Measure, Query(description="What heads are shaded and sorted by.")]

HeadOrder: TypeAlias = Literal["variance", "mean_norm", "mean_share", "address"]
HeadSort: TypeAlias = Annotated[HeadOrder, Query(description="What comes first.")]

MEANINGS: dict[Measure, str] = {
    "variance": "variance of its contribution over the images",
    "mean_norm": "mean length of its contribution",
    "mean_share": "mean share of the representation",
}
TOP = 10
SHOWN = 50


class RunPage(BaseModel):
    """A run at a glance."""

    run: str
    facts: dict[str, str]
    measure: Measure
    measures: dict[Measure, str]
    heads: Grid
    head_layers: list[int] = Field(description="Layers whose heads the run kept.")
    layers: Grid
    top_heads: Rows
    neurons: int = Field(description="How many neurons the run kept, over all layers.")
    python: str


@pages.page("/runs/{run}", "run.html")
def run_page(store: Asked, run: AskedRun, measure: Chosen = "variance") -> RunPage:
    """A run: facts, layers x heads by effect, and its first heads."""
    heads = heads_of(run)
    roles = roles_of(store, run)
    shape = inside(run).shape
    return RunPage(
        run=run.name,
        facts=run.info().facts,
        measure=measure,
        measures=MEANINGS,
        heads=head_grid(heads, measure, roles),
        head_layers=list(shape.head_layers),
        layers=layer_strip(made_once(run, "layers", lambda: list(run.layers)), "mean_share"),
        top_heads=_top(heads, roles, measure, limit=TOP),
        neurons=shape.neurons * len(shape.neuron_layers),
        python=f"store.run({run.name!r})",
    )


class HeadsPage(BaseModel):
    """Heads of a run, sorted."""

    run: str
    sort: HeadOrder
    orders: dict[HeadOrder, str]
    rows: Rows
    python: str


@pages.page("/runs/{run}/heads", "heads.html", json=False)
def heads_page(
    store: Asked,
    run: AskedRun,
    sort: HeadSort = "variance",
    *,
    limit: Limit = SHOWN,
    offset: Offset = 0,
) -> HeadsPage:
    """All heads with their first texts."""
    order = "layer, head" if sort == "address" else f"{sort} DESC NULLS LAST, layer, head"
    further = f" OFFSET {offset}" if offset else ""
    query = f"FROM heads WHERE run = '{run.name}' ORDER BY {order} LIMIT {limit}{further}"
    return HeadsPage(
        run=run.name,
        sort=sort,
        orders={**MEANINGS, "address": "layer and head"},
        rows=head_list(store, run, sort, limit=limit, offset=offset),
        python=f'store.sql("{query}")',
    )


@pages.json.get("/runs/{run}/heads")
def head_list(
    store: Asked,
    run: AskedRun,
    sort: HeadSort = "variance",
    *,
    limit: Limit = SHOWN,
    offset: Offset = 0,
) -> Rows:
    """The view `heads` of a run with the heads' roles, largest first."""
    return _top(heads_of(run), roles_of(store, run), sort, limit=limit, offset=offset)


@pages.json.get("/runs/{run}/layers")
def layer_list(run: AskedRun, limit: Limit = 200, offset: Offset = 0) -> Rows:
    """The view `layers` of a run: the 2L+1 residual terms (T2.4)."""
    return rows_of(run.layers, limit=limit, offset=offset)


def heads_of(run: RunView) -> list[dict[str, Any]]:
    """Rows of the view `heads`, by layer and head; made once a generation.

    Until all have texts they are read anew: TEXTSPAN is kept without a new generation.
    """
    found = made_once(run, "heads", lambda: list(run.heads))
    return found if all(row["texts"] for row in found) else list(run.heads)


def roles_of(store: Store, run: RunView) -> dict[str, str]:
    """Roles by component, as they are now: people give them while a generation is served."""
    found = store.sql("SELECT component, role FROM annotations WHERE run = ?", [run.name])
    return {row["component"]: row["role"] for row in found}


def _top(
    heads: list[dict[str, Any]],
    roles: Mapping[str, str],
    measure: HeadOrder,
    *,
    limit: int,
    offset: int = 0,
) -> Rows:
    ordered = heads
    if measure != "address":
        ordered = sorted(heads, key=lambda row: -(row[measure] or 0))
    columns = ["component", "layer", "head", "role", *MEANINGS, "norm_p98", "texts"]
    rows = [row | {"role": roles.get(row["component"])} for row in ordered[offset : offset + limit]]
    return Rows(
        columns=columns,
        rows=[{name: row[name] for name in columns} for row in rows],
        total=len(heads),
        offset=offset,
    )
