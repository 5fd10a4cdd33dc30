"""A head: the texts that explain it, the images along them, what it does to each label."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import Query
from pydantic import BaseModel, Field

from ....schema.components import parse_head
from ....schema.errors import TextNotStored
from ...run import RunView
from ...store import Store
from ..along import images_along
from ..answers import Rows, rows_of
from ..asked import Asked, AskedRun
from ..asking import HeadName, K, Like, M, MaybeText, PoolName, named_image
from ..charts import Histogram, histogram
from ..kept import inside, made_once
from ..page import Pages
from ..sections import Section, section
from .run import heads_of, roles_of

pages = Pages("heads")

DIRECTIONS = 5
ALONG = 8
FOUND = 12
LABELS = 24

Rank = Annotated[
    int | None, Query(ge=1, le=128, description="The place of one of the head's TEXTSPAN texts.")
]


class Direction(BaseModel):
    """One of the texts, with the images along it."""

    rank: int
    text: str
    explained_variance: float
    images: Section


class HeadPage(BaseModel):
    """A head."""

    run: str
    head: str
    role: str | None
    facts: dict[str, float | None] = Field(description="Norms, variance and share.")
    pool: str | None
    pools: list[str]
    m: int
    rows: Rows | None = Field(description="TEXTSPAN: its texts, with what each explains.")
    missing: str | None
    directions: list[Direction]
    text: str
    along: Section | None = Field(description="The images along `text`.")
    to: str
    nearest: Section | None = Field(description="The images nearest to `to`.")
    maps: bool = Field(description="Whether heatmaps through this head can be drawn.")
    labels: Rows = Field(description="Labels in whose images it writes most.")
    norms: Histogram
    previous: str | None
    next: str | None
    python: str


@pages.page("/runs/{run}/heads/{head}", "head.html")
def head_page(
    store: Asked,
    run: AskedRun,
    head: HeadName,
    *,
    pool: PoolName = None,
    m: M = 20,
    text: MaybeText = "",
    to: Like = "",
) -> HeadPage:
    """A head: TEXTSPAN, images along its first texts, along any text, and near any image."""
    view = run.head(head)
    address = parse_head(view.address)
    asked_pool = pool or None
    span = section(lambda: view.textspan(pool=asked_pool, m=m))
    rows = span.rows.rows if span.rows else []
    kept = heads_of(run)
    named = [row["component"] for row in kept]
    place = named.index(view.address) if view.address in named else None
    facts = {} if place is None else kept[place]
    arguments = [f"pool={pool!r}"] if pool else []
    return HeadPage(
        run=run.name,
        head=view.address,
        role=roles_of(store, run).get(view.address),
        facts={
            name: facts.get(name) for name in ("mean_norm", "norm_p98", "variance", "mean_share")
        },
        pool=asked_pool or inside(run).row["default_pool"],
        pools=pools_of(store, run),
        m=m,
        rows=span.rows,
        missing=span.missing,
        directions=_directions(run, view.address, rows[:DIRECTIONS]),
        text=text,
        along=section(lambda: view.top_images(text, k=FOUND)) if text.strip() else None,
        to=to,
        nearest=section(lambda: view.nearest_images(named_image(to), FOUND)) if to else None,
        maps=address.layer in inside(run).shape.head_token_layers,
        labels=_labels(store, run, view.address),
        norms=_norms(run, view.address),
        previous=None if not place else named[place - 1],
        next=None if place is None or place + 1 == len(named) else named[place + 1],
        python=f"store.run({run.name!r}).head({view.address!r}).textspan("
        f"{', '.join([*arguments, f'm={m}'])})",
    )


@pages.json.get("/runs/{run}/heads/{head}/textspan")
def head_textspan(
    run: AskedRun,
    head: HeadName,
    pool: PoolName = None,
    *,
    m: M = 20,
    normalize: bool = False,
) -> Rows:
    """TEXTSPAN of a head (Algorithm 1, T2.7)."""
    return rows_of(run.head(head).textspan(pool=pool or None, m=m, normalize=normalize))


@pages.json.get("/runs/{run}/heads/{head}/images")
def head_images(
    run: AskedRun,
    head: HeadName,
    text: MaybeText = "",
    *,
    rank: Rank = None,
    k: K = 10,
    normalize: bool = False,
) -> Rows:
    """The images with most of what a head writes along a text, or along its text of a rank."""
    found = run.head(head).top_images(text or None, rank=rank, k=k, normalize=normalize)
    return rows_of(found)


@pages.json.get("/runs/{run}/heads/{head}/nearest")
def head_nearest(
    run: AskedRun, head: HeadName, to: Like, *, k: K = 10, normalize: bool = False
) -> Rows:
    """The images in which a head writes what it writes in one of them."""
    return rows_of(run.head(head).nearest_images(named_image(to), k, normalize=normalize))


@pages.json.get("/runs/{run}/heads/{head}/labels")
def head_labels(store: Asked, run: AskedRun, head: HeadName) -> Rows:
    """The labels in whose images a head writes most, by its mean length there."""
    return _labels(store, run, run.head(head).address)


def pools_of(store: Store, run: RunView) -> list[str]:
    """Pools that a run's model has embedded."""
    row = inside(run).row

    def listed() -> list[str]:
        found = store.sql(
            "SELECT DISTINCT p.name FROM pool p JOIN pool_model USING (pool_id) "
            "WHERE model_id = ? ORDER BY 1",
            [row["model_id"]],
        )
        return [one["name"] for one in found]

    return made_once(run, "pools", listed)


def _directions(run: RunView, head: str, rows: list[dict[str, Any]]) -> list[Direction]:
    texts = [row["text"] for row in rows]
    try:
        found = [Section(rows=rows_of(one)) for one in images_along(run, head, texts, k=ALONG)]
    except TextNotStored as error:
        # Vectors have names that no model can embed.
        found = [Section(missing=str(error)) for _ in texts]
    return [
        Direction(
            rank=row["rank"],
            text=row["text"],
            explained_variance=row["explained_variance"],
            images=images,
        )
        for row, images in zip(rows, found, strict=True)
    ]


def _labels(store: Store, run: RunView, head: str) -> Rows:
    address = parse_head(head)
    found = made_once(
        run,
        f"labels of {head}",
        lambda: store.sql(
            "SELECT label, images, mean_norm, mean_share FROM head_effects_by_label "
            "WHERE run = ? AND layer = ? AND head = ? AND label IS NOT NULL "
            "ORDER BY mean_norm DESC, label LIMIT ?",
            [run.name, address.layer, address.head, LABELS],
        ),
    )
    return rows_of(found)


def _norms(run: RunView, head: str) -> Histogram:
    address = parse_head(head)

    def counted() -> Histogram:
        found = inside(run).console.columns(
            "SELECT norm FROM head_effect WHERE run_id = ? AND layer = ? AND head = ?",
            [inside(run).row["run_id"], address.layer, address.head],
        )
        return histogram(np.asarray(found["norm"]))

    return made_once(run, f"norms of {head}", counted)
