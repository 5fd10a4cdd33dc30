"""The first page: what the store holds."""

from __future__ import annotations

from pydantic import BaseModel

from ..answers import Rows, rows_of
from ..asked import Asked
from ..page import Pages

pages = Pages("store")


class StorePage(BaseModel):
    """The store at a glance: its card, runs, pools and zoos."""

    title: str
    facts: dict[str, str]
    runs: Rows
    pools: Rows
    zoos: Rows


@pages.page("/", "store.html")
def store_page(store: Asked) -> StorePage:
    """What the store holds."""
    card = store.info()
    return StorePage(
        title=store.path.name,
        facts=card.facts,
        runs=rows_of(store.runs),
        pools=rows_of(store.pools),
        zoos=rows_of(store.zoos),
    )
