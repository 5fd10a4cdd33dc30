"""Pages of a run, its heads and its search say what the library says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from page_checks import checked
from served import client_of

from lensbase.api import Store, open_store
from lensbase.api.run import RunView
from lensbase.schema.catalog import publishing
from lensbase.schema.layout import Layout


@pytest.fixture(scope="module")
def client(page_store: Path) -> Generator[TestClient]:
    with client_of(page_store, new_texts=False) as client:
        yield client


@pytest.fixture(scope="module")
def store(page_store: Path) -> Generator[Store]:
    with open_store(page_store) as store:
        yield store


@pytest.fixture(scope="module")
def run(store: Store) -> RunView:
    return store.run()


def facts(client: TestClient, path: str, **asked: Any) -> Any:
    answer = client.get(f"/api{path}", params=asked or None)
    assert answer.status_code == 200, answer.text
    return answer.json()


def approximately(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose fractions may differ in their last bits, as sums in another order do."""
    return [
        {
            name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


def test_the_grid_shows_every_head_by_each_measure(client: TestClient, run: RunView) -> None:
    """64 heads, shaded by three measures; 16 layer terms and EMBED whose shares add up to 1."""
    told = {row["component"]: row for row in run.heads}
    for measure in ("variance", "mean_norm", "mean_share"):
        page = facts(client, "/runs/r", measure=measure)
        cells = [cell for row in page["heads"]["rows"] for cell in row["cells"]]
        assert len(cells) == 64
        for cell in cells:
            assert cell["value"] == pytest.approx(told[cell["component"]][measure])
        values = [row["variance" if measure == "variance" else measure] for row in told.values()]
        assert page["heads"]["most"] == pytest.approx(max(map(abs, values)))
        text = checked(client, "/runs/r", measure=measure)
        assert text.count('class="cell shade') == 64 + 17
        best = max(told.values(), key=lambda row: row[measure])
        assert page["top_heads"]["rows"][0]["component"] == best["component"]
    strip = facts(client, "/runs/r")["layers"]["rows"]
    shares = [cell["value"] for row in strip for cell in row["cells"] if cell]
    assert len(shares) == 17
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert client.get("/runs/r?measure=color").status_code == 422
    assert client.get("/runs/nope").status_code == 404


def test_a_role_is_seen_as_soon_as_it_is_given(client: TestClient, store: Store) -> None:
    assert "geolocation" not in checked(client, "/runs/r")
    store.annotate("L7.H2", "geolocation")
    try:
        text = checked(client, "/runs/r")
        assert text.count("role r0") == 1
        assert "role geolocation" in text
        assert '<span class="badge">geolocation</span>' in checked(client, "/runs/r/heads/L7.H2")
        rows = facts(client, "/runs/r/heads", limit=500)["rows"]
        assert [row["component"] for row in rows if row["role"]] == ["L7.H2"]
    finally:
        store.annotate("L7.H2", None)
    assert "geolocation" not in checked(client, "/runs/r")


def test_a_head_s_page_is_its_textspan(client: TestClient, run: RunView) -> None:
    """Texts and variance as from Python, and the images along the first five texts."""
    head = run.head("L7.H2")
    page = facts(client, "/runs/r/heads/L7.H2", m=7)
    expected = head.textspan(m=7)
    assert page["rows"]["rows"] == approximately(expected.rows())
    for direction, row in zip(page["directions"], expected, strict=False):
        own = head.top_images(row["text"], k=8).rows()
        assert direction["images"]["rows"]["rows"] == approximately(own)
    assert len(page["directions"]) == 5
    text = checked(client, "/runs/r/heads/L7.H2", m=7)
    assert all(row["text"] in unescape(text) for row in expected)
    assert page["python"] == "store.run('r').head('L7.H2').textspan(m=7)"
    assert (page["previous"], page["next"]) == ("L7.H1", "L7.H3")
    assert facts(client, "/runs/r/heads/L0.H0")["previous"] is None
    assert facts(client, "/runs/r/heads/L7.H7")["next"] is None


def test_images_along_a_text_and_near_an_image(client: TestClient, run: RunView) -> None:
    head = run.head("L7.H2")
    page = facts(client, "/runs/r/heads/L7.H2", text="a red circle", to="17")
    along = head.top_images("a red circle", k=12)
    assert page["along"]["rows"]["rows"] == approximately(along.rows())
    near = head.nearest_images(17, 12)
    assert page["nearest"]["rows"]["rows"] == approximately(near.rows())
    key = run.image(17).key
    same = facts(client, "/runs/r/heads/L7.H2/nearest", to=key, k=12)
    assert same["rows"] == page["nearest"]["rows"]["rows"]
    assert facts(client, "/runs/r/heads/L7.H2/images", rank=2, k=3)["rows"] == approximately(
        head.top_images(rank=2, k=3).rows()
    )
    text = checked(client, "/runs/r/heads/L7.H2", text="a red circle", to="17")
    heat = "/heatmap.png?text=a+red+circle&amp;head=L7.H2"
    assert text.count(heat) == 12, "layers 6 and 7 kept their heads' tokens"
    assert "data-heat" not in checked(client, "/runs/r/heads/L0.H2")
    assert client.get("/runs/r/heads/L7.H2?to=no.png").status_code == 404
    assert client.get("/runs/r/heads/L7.H9").status_code == 404
    assert client.get("/runs/r/heads/nothing").status_code == 422


def test_effects_of_a_head_by_image_and_label(client: TestClient, store: Store) -> None:
    """All 150 images are in its histogram; labels as in the view, longest first."""
    page = facts(client, "/runs/r/heads/L6.H1")
    assert sum(bar["count"] for bar in page["norms"]["bars"]) == 150
    view = store.sql(
        "SELECT label, images, mean_norm, mean_share FROM head_effects_by_label "
        "WHERE component = 'L6.H1' ORDER BY mean_norm DESC, label"
    )
    assert page["labels"]["rows"] == approximately(view.rows())


def test_search_has_three_parts(client: TestClient, run: RunView) -> None:
    page = facts(client, "/runs/r/search", text="a red circle")
    assert page["heads"]["rows"]["rows"] == approximately(run.find_heads("a red circle", 8).rows())
    neurons = run.find_neurons("a red circle", 12)
    assert page["neurons"]["rows"]["rows"] == approximately(neurons.rows())
    images = run.top_images("a red circle", 18, normalize=True)
    assert page["images"]["rows"]["rows"] == approximately(images.rows())
    text = checked(client, "/runs/r/search", text="a red circle")
    assert text.count('class="thumb"') == 18
    assert ".top_images(&#39;a red circle&#39;, k=18, normalize=True)" in text
    listed = facts(client, "/runs/r/images", text="a red circle")["rows"]["rows"]
    shown = page["images"]["rows"]["rows"]
    assert [row["image_id"] for row in listed[:18]] == [row["image_id"] for row in shown]
    checked(client, "/runs/r/search")
    for asked, query in (("a red circle", "?text=a+red+circle"), ("  ", "")):
        answer = client.get("/search", params={"text": asked})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/r/search{query}")
    assert facts(client, "/search", text="a red circle")["runs"] == ["r"]
    for kind in ("heads", "neurons", "images"):
        asked = {"normalize": True} if kind == "images" else {}
        found = facts(client, f"/runs/r/find/{kind}", text="a red circle", k=3, **asked)
        assert found["rows"] == page[kind]["rows"]["rows"][:3]
    unknown = facts(client, "/runs/r/search", text="no such words")
    assert "is not stored" in unknown["images"]["missing"]
    assert client.get("/runs/r/search", params={"text": "x" * 501}).status_code == 422


def test_lists_are_json_and_csv(client: TestClient, store: Store, run: RunView) -> None:
    page = facts(client, "/runs/r/heads", limit=5, offset=60)
    assert (page["total"], len(page["rows"])) == (64, 4)
    lines = client.get("/api/runs/r/layers?format=csv").text.splitlines()
    assert len(lines) == 1 + len(run.layers) == 18
    for path, rows in (("images", 150), ("heads", 64), ("neurons", 3584)):
        answer = client.get(f"/api/runs/r/{path}?format=csv")
        assert len(answer.text.splitlines()) == 1 + rows, "all of them, not one page"
        assert answer.headers["x-total-count"] == str(rows)
        assert len(client.get(f"/api/runs/r/{path}?format=csv&limit=7").text.splitlines()) == 8
    assert "CSV of 150 rows" in checked(client, "/runs/r/images", offset=60)
    texts = facts(client, "/texts", pool="scenes", limit=3, offset=1)
    expected = store.sql("SELECT * FROM texts WHERE pool = 'scenes' ORDER BY position")
    assert (texts["rows"], texts["total"]) == (expected[1:4].rows(), len(expected))


def test_all_heads_are_listed(client: TestClient, store: Store) -> None:
    """64 heads, 50 a page, by what was chosen; the copied call gives the same ones."""
    for sort in ("variance", "mean_share", "address"):
        text = checked(client, "/runs/r/heads", sort=sort)
        shown = re.findall(r'<td class="mono"><a href="[^"]+">([^<]+)</a>', text)
        (called,) = re.findall(r'data-copy="(store.sql[^"]+)', text)
        assert shown == list(eval(unescape(called), {"store": store})["component"])
        assert len(shown) == 50
    assert "CSV of 64 rows" in text
    gone = checked(client, "/runs/r/neurons", offset=100_000)
    assert "no neurons here: there are 3,584" in gone
    assert 'rel="prev"' in gone


def test_problems_offer_ways_on(client: TestClient) -> None:
    for path, links in {
        "/runs/s": ["/"],
        "/runs/r/images/999": ["/runs/r", "/runs/r/images"],
    }.items():
        answer = client.get(path)
        assert answer.status_code == 404
        for link in links:
            assert f'class="button plain" href="{link}"' in answer.text


def test_texts_that_come_later_are_shown(world_store: Path, tmp_path: Path) -> None:
    """What a head's page computes is kept beside the generation, which stays the same."""
    root = Path(shutil.copytree(world_store, tmp_path / "s.lens", symlinks=True))
    with publishing(Layout(root)) as draft:
        draft.connection.execute("DELETE FROM head_text")
    with client_of(root) as client:
        before = facts(client, "/runs/r/heads", limit=100)["rows"]
        assert {row["texts"] for row in before} == {None}
        spans = {}
        for row in before:
            found = facts(client, f"/runs/r/heads/{row['component']}/textspan", m=4)
            spans[row["component"]] = [one["text"] for one in found["rows"]]
            if len(spans) == 1:
                now = facts(client, "/runs/r/heads", limit=100)["rows"]
                assert sum(one["texts"] is not None for one in now) == 1
        after = facts(client, "/runs/r/heads", limit=100)["rows"]
        assert {row["component"]: row["texts"] for row in after} == spans
