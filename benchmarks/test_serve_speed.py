"""How long every page takes, as a browser waits for it: the first time, and again.

A real `lensbase serve` on a store of real scenes with neurons and a zoo (a bound of 300 ms a page
once it has been shown), and on one of 50,000 images of random numbers (1 s). As a program it prints
a table; with a store, of that one:

    python benchmarks/test_serve_speed.py [STORE]
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi.routing import APIRoute

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from large_store import large_shape, write_large_store
from served import served

from lensbase.api import open_store
from lensbase.api.serve.app import PAGES
from lensbase.schema.arrays import run_arrays

WARM, WARM_LARGE = 0.3, 1.0  # seconds
ROUNDS = 5


class Timed(NamedTuple):
    """What one page took: seconds the first time and the least of some times after."""

    page: str
    status: int
    first: float
    again: float
    size: int


def addresses(store: Path) -> list[str]:
    """An address of every page, and some with a question, whose names this store holds."""
    names = _names(store)
    found: list[str] = []
    routes = [route for pages in PAGES for route in pages.html.routes]
    for path in (route.path for route in routes if isinstance(route, APIRoute)):
        wanted = re.findall(r"\{(\w+)(?::path)?\}", path)
        if all(name in names for name in wanted):
            found.append(re.sub(r"\{(\w+)(?::path)?\}", lambda one: names[one[1]], path))
    run = names["run"]
    text = urllib.parse.quote_plus(names["text"])
    found += [
        f"/runs/{run}/images?text={text}",
        f"/runs/{run}/images/{names['image_id']}?text={text}",
        f"/runs/{run}/search?text={text}",
        f"/search?text={text}",
        "/sql?query=SELECT+*+FROM+images+ORDER+BY+image_id",
        f"/runs/{run}/experiments?by=label" if names["labels"] else f"/runs/{run}/experiments",
    ]
    return list(dict.fromkeys(found))


def timed(store: Path) -> list[Timed]:
    """Every page's time, from a server that has just been started."""
    paths = addresses(store)
    with served(store) as (address, _):
        _get(address + "/static/lensbase.css")
        found: list[Timed] = []
        for path in paths:
            first, status, size = _get(address + path)
            again = min(_get(address + path)[0] for _ in range(ROUNDS))
            found.append(Timed(path, status, first, again, size))
    return found


def table(found: list[Timed]) -> str:
    """The times as a table of Markdown."""
    lines = ["| page | first, ms | again, ms | KB |", "| --- | ---: | ---: | ---: |"]
    for one in found:
        what = one.page if one.status == 200 else f"{one.page} ({one.status})"
        lines.append(
            f"| `{what}` | {one.first * 1e3:.0f} | {one.again * 1e3:.0f} | {one.size / 1e3:.0f} |"
        )
    return "\n".join(lines)


def _get(address: str) -> tuple[float, int, int]:
    start = time.perf_counter()
    try:
        with urllib.request.urlopen(address, timeout=300) as answer:
            body = answer.read()
            return time.perf_counter() - start, answer.status, len(body)
    except urllib.error.HTTPError as error:
        body = error.read()
        return time.perf_counter() - start, error.code, len(body)


def _names(store: Path) -> dict[str, str]:
    with open_store(store) as opened:
        row: dict[str, Any] = opened.runs[0]
        run = str(row["run"])
        names = {"run": run, "image_id": "7", "text": "a red circle", "labels": ""}
        one = opened.sql("SELECT text FROM texts LIMIT 1").rows()
        names["text"] = one[0]["text"] if one else names["text"]
        heads = json.loads(str(row["head_layers"])) if row["head_layers"] else []
        if heads:
            names["head"] = f"L{heads[-1]}.H1"
        neurons = json.loads(str(row["neuron_layers"])) if row["neuron_layers"] else []
        if neurons:
            names["neuron"] = f"L{neurons[-1]}.N7"
        query = "SELECT count(DISTINCT label) AS n FROM images"
        names["labels"] = str(opened.sql(query)[0]["n"] or "")
        zoos = opened.zoos
        if len(zoos):
            names["zoo"] = str(zoos[0]["zoo"])
            names["concept"] = "0"
            unit = opened.sql("SELECT unit FROM rosetta_units LIMIT 1")[0]["unit"]
            names["unit"] = urllib.parse.quote(str(unit), safe="")
    return names


def _large(root: Path) -> Path:
    return write_large_store(root / "large.lens", arrays=list(run_arrays(large_shape())))


def _holds(found: list[Timed], bound: float) -> None:
    print("\n" + table(found))
    assert {one.status for one in found} == {200}
    slow = [one for one in found if one.again > bound]
    assert not slow, slow


def test_pages_of_real_scenes(world_zoo: Path) -> None:
    _holds(timed(world_zoo), WARM)


@pytest.mark.timeout(900)
def test_pages_of_many_images(tmp_path: Path) -> None:
    _holds(timed(_large(tmp_path)), WARM_LARGE)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(table(timed(Path(sys.argv[1]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(table(timed(_large(Path(folder)))))
