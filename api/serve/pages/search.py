"""Search: heads, neurons and images about a text."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ..answers import Rows, rows_of
from ..asked import Asked, AskedRun
from ..asking import K, Layer, MaybeText, Text
from ..page import Pages
from ..sections import Section, section

pages = Pages("search")

HEADS = 8
NEURONS = 12
IMAGES = 18


class SearchPage(BaseModel):
    """What a run has about a text."""

    run: str
    text: str
    heads: Section | None
    neurons: Section | None
    images: Section | None
    python: str


class RunChoice(BaseModel):
    """A text, and the runs to search."""

    text: str
    runs: list[str] = Field(description="Runs that can be searched.")


@pages.page("/runs/{run}/search", "search.html")
def search_page(run: AskedRun, text: MaybeText = "") -> SearchPage:
    """Heads, neurons and images about a text."""
    asked = bool(text.strip())
    return SearchPage(
        run=run.name,
        text=text,
        heads=section(lambda: run.find_heads(text, HEADS)) if asked else None,
        neurons=section(lambda: run.find_neurons(text, NEURONS)) if asked else None,
        images=section(lambda: run.top_images(text, IMAGES)) if asked else None,
        python=f"store.run({run.name!r}).find_heads({text!r})" if asked else "",
    )


@pages.page("/search", "search_runs.html")
def search_runs(store: Asked, text: MaybeText = "") -> RunChoice:
    """The runs to search for a text."""
    return RunChoice(text=text, runs=[row["run"] for row in store.runs])


@pages.json.get("/runs/{run}/find/heads")
def find_heads(run: AskedRun, text: Text, k: K = 5) -> Rows:
    """The heads whose TEXTSPAN texts are most like a text."""
    return rows_of(run.find_heads(text, k))


@pages.json.get("/runs/{run}/find/neurons")
def find_neurons(
    run: AskedRun, text: Text, k: K = 20, *, layer: Layer = None, signed: bool = False
) -> Rows:
    """The neurons whose directions are most along a text."""
    return rows_of(run.find_neurons(text, k, layers=layer, signed=signed))


@pages.json.get("/runs/{run}/find/images")
def find_images(run: AskedRun, text: Text, k: K = 10, *, normalize: bool = False) -> Rows:
    """The images whose representations are most along a text."""
    return rows_of(run.top_images(text, k, normalize=normalize))
