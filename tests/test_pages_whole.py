"""The dashboard as a whole: every link leads somewhere, and nothing that was read is markup."""

from __future__ import annotations

import csv
from collections.abc import Generator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from page_checks import checked, crawled
from served import client_of
from world_store import ingest_scenes

from lensbase.ingest.world.dataset import write_scenes

MARKUP = "<script>alert('1')</script>"


@pytest.fixture(scope="module")
def client(page_store: Path) -> Generator[TestClient]:
    with client_of(page_store, new_texts=False) as client:
        yield client


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Generator[TestClient]:
    """A run with two layers of heads and nothing else, of 12 images with hostile labels."""
    folder = tmp_path_factory.mktemp("lean")
    write_scenes(folder, count=12, seed=1)
    manifest = folder / "manifest.csv"
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = MARKUP
        row["color"] = "a:b&c=d/é\"'" + row["color"]
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    kept = {"heads": "last:2", "head_tokens": None, "tokens": False, "thumbnails": False}
    assert ingest_scenes(folder, folder / "s.lens", pool=None, **kept).complete
    with client_of(folder / "s.lens", new_texts=False) as client:
        yield client


@pytest.mark.parametrize(
    "start", [pytest.param("/", marks=pytest.mark.slow), "/runs/r/search?text=a+red+circle"]
)
def test_every_link_leads_somewhere(client: TestClient, start: str) -> None:
    """The first 120 addresses from here, breadth first: pages, pictures, data."""
    statuses = crawled(client, start, 120)
    assert len(statuses) == 120
    assert {path: status for path, status in statuses.items() if status != 200} == {}
    assert start == "/" or any("heatmap.png" in path for path in statuses)


def test_texts_of_a_pool_are_never_markup(client: TestClient) -> None:
    for path in ("/runs/r/heads/L7.H2", "/runs/r/neurons/L6.N12"):
        text = checked(client, path, pool="markup", m=3)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "{{ 7 * 7 }}" in text
    for path in ("/runs/r/search", "/runs/r/neurons", "/runs/r/images"):
        text = checked(client, path, text="<script>alert(1)</script>")
        assert "<script>alert" not in text


def test_a_lean_run_says_how_to_keep_more(lean: TestClient) -> None:
    """No neurons, tokens, thumbnails or pool: every page stands, and names the option."""
    statuses = crawled(lean, "/", 100)
    broken = {path: status for path, status in statuses.items() if status != 200}
    assert all(path.endswith(".webp") for path in broken), broken
    assert set(broken.values()) <= {404}, "pictures that were not kept"
    text = checked(lean, "/runs/r/heads/L7.H2")
    assert "has no text pool" in text
    assert "--neurons" in checked(lean, "/runs/r/neurons")
    assert "--neurons" in checked(lean, "/runs/r")
    assert "--tokens" in checked(lean, "/runs/r/images/3")
    for path in ("/", "/rosetta"):
        assert "lensbase rosetta mine" in checked(lean, path)
    assert "layer" in checked(lean, "/runs/r").lower()
    assert lean.get("/runs/r/heads/L0.H1").status_code == 404


def test_hostile_labels_and_values(lean: TestClient) -> None:
    """Labels and facets with markup, colons and separators stay texts, and can be chosen."""
    text = checked(lean, "/runs/r/images", facet=f"label:{MARKUP}")
    assert "<script>alert" not in text
    assert "12 with &lt;script&gt;" in text
    page = lean.get("/api/runs/r/images").json()
    (facet,) = [one for one in page["facets"] if one["column"] == "color"]
    for one in facet["values"]:
        chosen = lean.get("/api/runs/r/images", params={"facet": f"color:{one['value']}"})
        assert chosen.json()["rows"]["total"] == one["images"] > 0
    assert "<script>alert" not in checked(lean, "/runs/r/images/3")
    assert "<script>alert" not in checked(lean, "/runs/r/heads/L7.H2")
