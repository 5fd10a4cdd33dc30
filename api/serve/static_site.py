"""The dashboard's pages as plain files, which open without a server and link only each other."""

from __future__ import annotations

import asyncio
import hashlib
import html
import posixpath
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.from_thread

from ...schema.errors import ExportFailed
from ...schema.stages import Stage
from ..store import Store
from .app import create_app
from .asked_here import ask
from .pages.neurons import SHOWN
from .pages.rosetta import LISTED
from .rendering import HERE, make_environment

if TYPE_CHECKING:
    from fastapi import FastAPI

SIDE = 160
"""Heatmaps are made this small: a head's or neuron's page has dozens of them."""

_PICTURE = re.compile(r"/api/.+\.(webp|png)(\?.*)?")
_BY_NORM = "?sort=mean_norm"
_WHOLE = ("thumbnail.webp", "examples.webp", "maps.webp")


@dataclass(frozen=True)
class Site:
    """What was written: how many pages and pictures, and their bytes."""

    pages: int
    pictures: int
    bytes: int


def write_site(store: Store, folder: Path, *, neurons: int, concepts: int, work: Stage) -> Site:
    """Write pages of a store into an empty folder; raises `ExportFailed` for one that fails."""
    chosen = _chosen(store, neurons=neurons, concepts=concepts)
    shutil.copytree(HERE / "static", folder / "static")
    with _application(store) as app:
        writer = _Writer(app, folder, chosen)
        app.state.environment = make_environment(writer.link, live=False)
        asyncio.run(writer.write(work))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return Site(
        pages=len(chosen),
        pictures=len([path for path in files if path.parent.name == "pictures"]),
        bytes=sum(path.stat().st_size for path in files),
    )


class _Writer:
    """Writes one page after the other; pictures are written when a page first shows them."""

    def __init__(self, app: FastAPI, folder: Path, chosen: dict[str, str]) -> None:
        self._app = app
        self._folder = folder
        self._chosen = chosen
        self._pictures: dict[str, str | None] = {}
        self._page = ""

    async def write(self, work: Stage) -> None:
        for done, (address, name) in enumerate(self._chosen.items()):
            work.tell(done, len(self._chosen))
            self._page = name
            answer = await ask(self._app, address)
            if answer.status != 200:
                raise _failed(address, answer.status, answer.body)
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(answer.body)
        work.tell(len(self._chosen), len(self._chosen))

    def link(self, path: str) -> str | None:
        """The address of a page or picture relative to the page at work, None if not written."""
        address, hash_sign, fragment = path.partition("#")
        if address.startswith("/static/"):
            name: str | None = address[1:]
        elif _PICTURE.fullmatch(address):
            name = self._picture(address)
        else:
            # The list of neurons that is written is the one by what chose them.
            name = self._chosen.get(address) or self._chosen.get(f"{address}{_BY_NORM}")
        if name is None:
            return None
        return posixpath.relpath(name, posixpath.dirname(self._page)) + hash_sign + fragment

    def _picture(self, address: str) -> str | None:
        if address not in self._pictures:
            # Templates are rendered in a thread of the application's.
            answer = anyio.from_thread.run(ask, self._app, address)
            name = None
            if answer.status == 200:
                whole = address.partition("?")[0].endswith(_WHOLE)
                picture = answer.body if whole else _small(answer.body)
                name = f"pictures/{hashlib.sha256(picture).hexdigest()[:20]}.webp"
                path = self._folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(picture)
            self._pictures[address] = name
        return self._pictures[address]


def _small(picture: bytes) -> bytes:
    from PIL import Image

    opened = Image.open(BytesIO(picture)).convert("RGB")
    opened.thumbnail((SIDE, SIDE))
    buffer = BytesIO()
    opened.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def _chosen(store: Store, *, neurons: int, concepts: int) -> dict[str, str]:
    """The addresses of the pages that are written, and their files."""
    found = {"/": "index.html"}
    for run in store.runs["run"]:
        own, folder = f"/runs/{run}", f"runs/{run}"
        found[own] = f"{folder}/index.html"
        for (head,) in _column(store, "SELECT component FROM heads WHERE run = ? ORDER BY 1", run):
            found[f"{own}/heads/{head}"] = f"{folder}/heads/{head}.html"
        active = _column(
            store,
            "SELECT component FROM neurons WHERE run = ? "
            f"ORDER BY mean_norm DESC NULLS LAST, layer, neuron LIMIT {neurons}",
            run,
        )
        # The very order of the list, so that its pages are those of the neurons written.
        for start in range(0, len(active), SHOWN):
            name = f"from-{start}" if start else "index"
            listed = f"{own}/neurons{_BY_NORM}" + (f"&offset={start}" if start else "")
            found[listed] = f"{folder}/neurons/{name}.html"
        for (neuron,) in active:
            found[f"{own}/neurons/{neuron}"] = f"{folder}/neurons/{neuron}.html"
    for zoo in store.zoos["zoo"]:
        own, folder = f"/rosetta/{zoo}", f"rosetta/{zoo}"
        count = min(len(store.rosetta(zoo).concepts()), concepts)
        found[own] = f"{folder}/index.html"
        for start in range(LISTED, count, LISTED):
            found[f"{own}?offset={start}"] = f"{folder}/from-{start}.html"
        for concept in range(count):
            found[f"{own}/concepts/{concept}"] = f"{folder}/concepts/{concept}.html"
    return found


def _column(store: Store, sql: str, run: str) -> list[tuple[str]]:
    return [(row["component"],) for row in store.sql(sql, [run])]


@contextmanager
def _application(store: Store) -> Generator[FastAPI]:
    """The application on the very generation that a store has open."""
    app = create_app(store.path, loopback=True, new_texts=False)
    app.state.path = store.path.name  # whoever gets the files has no folder of ours
    app.state.served.close()
    app.state.served = _Held(store)
    yield app


class _Held:
    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def current(self) -> Generator[Store]:
        yield self._store


def _failed(address: str, status: int, body: bytes) -> ExportFailed:
    told = re.search(r"<main.*?</main>", body.decode("utf-8", "replace"), re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>|\s+", " ", told[0] if told else "")).strip()
    msg = f"the page {address} cannot be written ({status}): {' '.join(text.split())}"
    return ExportFailed(msg)
