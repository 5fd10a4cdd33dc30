"""The first page: what the store holds."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import BaseModel

from ....schema.errors import UnknownPool
from ..answers import Limit, Offset, Rows, rows_of
from ..asked import Asked
from ..page import Pages

pages = Pages("store")

SHOWN = 50


class StorePage(BaseModel):
    """The store at a glance: its card, and the first runs, pools and zoos."""

    title: str
    facts: dict[str, str]
    runs: Rows
    pools: Rows
    zoos: Rows
    python: str


@pages.page("/", "store.html")
def store_page(request: Request, store: Asked) -> StorePage:
    """What the store holds."""
    return StorePage(
        title=store.path.name,
        facts=store.info().facts,
        runs=rows_of(store.runs, limit=SHOWN),
        pools=rows_of(store.pools, limit=SHOWN),
        zoos=rows_of(store.zoos, limit=SHOWN),
        python=f"store = open_store({request.app.state.path!r})",
    )


@pages.json.get("/runs")
def runs(store: Asked, limit: Limit = SHOWN, offset: Offset = 0) -> Rows:
    """The view `runs`."""
    return rows_of(store.runs, limit=limit, offset=offset)


@pages.json.get("/pools")
def pools(store: Asked, limit: Limit = SHOWN, offset: Offset = 0) -> Rows:
    """The view `pools`."""
    return rows_of(store.pools, limit=limit, offset=offset)


@pages.json.get("/zoos")
def zoos(store: Asked, limit: Limit = SHOWN, offset: Offset = 0) -> Rows:
    """The view `rosetta_zoos`."""
    return rows_of(store.zoos, limit=limit, offset=offset)


@pages.json.get("/texts")
def pool_texts(
    store: Asked,
    pool: Annotated[str, Query(max_length=200, description="A pool's name.")],
    limit: Limit = SHOWN,
    *,
    offset: Offset = 0,
) -> Rows:
    """The texts of a pool."""
    if not len(store.sql("SELECT 1 FROM pool WHERE name = ?", [pool])):
        msg = f"the store holds no pool {pool!r}; /api/pools lists them."
        raise UnknownPool(msg)
    found = store.sql(
        "SELECT * FROM texts WHERE pool = ? ORDER BY position LIMIT ? OFFSET ?",
        [pool, limit, offset],
    )
    total = store.sql("SELECT count(*) AS texts FROM texts WHERE pool = ?", [pool])[0]["texts"]
    return rows_of(found, total=total, offset=offset)
