"""Search: heads, neurons and images about a text."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel, Field

from ..addresses import address, part
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
        images=section(lambda: run.top_images(text, IMAGES, normalize=True)) if asked else None,
        python=f"store.run({run.name!r}).find_heads({text!r}, k={HEADS})" if asked else "",
    )


@pages.page("/search", "search_runs.html")
def search_runs(request: Request, store: Asked, text: MaybeText = "") -> RunChoice:
    """The runs to search for a text; with one only, the page is that run's."""
    runs = [row["run"] for row in store.runs]
    if len(runs) == 1:
        request.state.instead = address(f"/runs/{part(runs[0])}/search", text=text.strip())
    return RunChoice(text=text, runs=runs)


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
