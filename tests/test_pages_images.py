"""Pages of images: a gallery whose facets count right, an image's facts, and its pictures."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from page_checks import checked
from PIL import Image
from served import client_of

from lensbase.api import Store, open_store
from lensbase.api.run import RunView


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


def picture(client: TestClient, path: str, kind: str, **asked: Any) -> Image.Image:
    answer = client.get(f"/api{path}", params=asked or None)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == f"image/{kind}"
    image = Image.open(io.BytesIO(answer.content))
    assert image.format == kind.upper()
    return image.convert("RGB")


def test_a_gallery_by_id(client: TestClient, store: Store) -> None:
    """150 images, 60 a page; the third has 30."""
    expected = store.sql("SELECT image_id, key, label FROM images ORDER BY image_id").rows()
    pages = [facts(client, "/runs/r/images", offset=start)["rows"] for start in (0, 60, 120)]
    assert [len(page["rows"]) for page in pages] == [60, 60, 30]
    assert [row for page in pages for row in page["rows"]] == expected
    assert checked(client, "/runs/r/images").count('class="thumb"') == 60
    assert client.get("/runs/r/images?limit=61").status_code == 422


def test_facets_count_what_a_choice_leaves(client: TestClient, store: Store) -> None:
    """Every count is SQL's; a column's own choice does not narrow its own counts."""
    page = facts(client, "/runs/r/images", facet=["shape:circle", "color:blue"])
    chosen = store.sql(
        "SELECT image_id FROM images WHERE shape = 'circle' AND color = 'blue' ORDER BY image_id"
    )
    found = [row["image_id"] for row in page["rows"]["rows"]]
    assert found == chosen["image_id"].tolist()
    assert len(found) > 0
    others = {"shape": "color = 'blue'", "color": "shape = 'circle'"}
    both = "shape = 'circle' AND color = 'blue'"
    columns = [facet["column"] for facet in page["facets"]]
    assert columns[:2] == ["label", "subgroup"]
    assert {"texture", "size", "position", "background", "count"} <= set(columns)
    assert "caption" not in columns
    for facet in page["facets"]:
        name = facet["column"]
        counted = store.sql(
            f'SELECT "{name}"::VARCHAR AS value, count(*) AS images FROM images '
            f"WHERE {others.get(name, both)} GROUP BY ALL"
        )
        told = {one["value"]: one["images"] for one in facet["values"] if one["images"]}
        assert told == {row["value"]: row["images"] for row in counted}, name
    text = checked(client, "/runs/r/images", facet=["shape:circle", "color:blue"])
    assert 'href="/runs/r/images?facet=color%3Ablue"' in text, "the way back from the shape"
    assert facts(client, "/runs/r/images", facet="shape:cube")["rows"]["total"] == 0
    assert client.get("/runs/r/images?facet=caption:x").status_code == 404
    assert client.get("/runs/r/images?facet=shape").status_code == 422


def test_a_gallery_along_a_text(client: TestClient, run: RunView) -> None:
    page = facts(client, "/runs/r/images", text="a red circle", offset=60)
    expected = run.top_images("a red circle", 120, normalize=True).rows()
    assert page["rows"]["rows"] == expected[60:]
    assert page["rows"]["total"] == 150
    few = facts(client, "/runs/r/images", text="a red circle", facet="shape:circle")
    where = run.top_images("a red circle", 60, where="shape = 'circle'", normalize=True)
    assert few["rows"]["rows"] == where.rows()
    call = """top_images('a red circle', 60, normalize=True, where='"shape" = \\'circle\\'')"""
    assert few["python"].endswith(call)
    assert "offset=60&amp;" not in checked(client, "/runs/r/images", text="a red circle")
    assert client.get("/runs/r/images?text=a+red+circle&offset=99999").status_code == 422


def test_an_image_s_page(client: TestClient, store: Store, run: RunView) -> None:
    """Concepts, shares that add up to 1, the heads' shares of the view, and nearest images."""
    page = facts(client, "/runs/r/images/17")
    image = run.image(17)
    assert page["concepts"]["rows"]["rows"] == image.concepts(k=12, center=True).rows()
    assert page["nearest"]["rows"] == run.nearest_images(17, 13, normalize=True).rows()
    shares = [cell["value"] for row in page["layers"]["rows"] for cell in row["cells"] if cell]
    assert sum(shares) == pytest.approx(1, abs=5e-3), "float16 on disk"
    view = store.sql("SELECT component, norm, share FROM head_effects WHERE image_id = 17").rows()
    told = {
        cell["component"]: cell["value"] for r in page["written"]["rows"] for cell in r["cells"]
    }
    assert told == {row["component"]: pytest.approx(row["share"]) for row in view}
    assert page["facts"]["caption"] == store.sql("FROM images WHERE image_id = 17")[0]["caption"]
    rows = facts(client, "/runs/r/images/17/effects")["rows"]
    assert len(rows) == 17 + 64
    layers = image.layer_effects().values[0]
    assert [row["norm"] for row in rows[:17]] == pytest.approx(np.linalg.norm(layers, axis=1))
    checked(client, "/runs/r/images/17")
    edges = [facts(client, f"/runs/r/images/{one}") for one in (0, 149)]
    assert [(one["previous"], one["next"]) for one in edges] == [(None, 1), (148, None)]
    for wrong, status in {"150": 404, "-1": 422, "x": 422, "9" * 30: 422}.items():
        assert client.get(f"/runs/r/images/{wrong}").status_code == status, wrong


def test_an_image_is_found_by_its_key(client: TestClient, run: RunView) -> None:
    for key in (run.image(17).key, "17"):
        answer = client.get("/runs/r/images/by-key", params={"key": key})
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs/r/images/17")
    assert client.get("/runs/r/images/by-key?key=none.png").status_code == 404


def test_concepts_with_and_without_what_all_texts_share(client: TestClient, run: RunView) -> None:
    image = run.image(17)
    for asked, center in (({}, True), ({"center": False}, False)):
        page = facts(client, "/runs/r/images/17", **asked)
        expected = image.concepts(k=12, center=center).rows()
        found = [row["text"] for row in page["concepts"]["rows"]["rows"]]
        assert found == [row["text"] for row in expected]
        text = checked(client, "/runs/r/images/17", **asked)
        call = ".concepts(k=12, center=True)" if center else ".concepts(k=12)"
        assert call in text


@pytest.mark.parametrize(
    ("asked", "said"),
    [("head=L9.H9", "L9.H9"), ("head=L0.H2&text=a", "layer 0"), ("neuron=L9.N1", "9")],
)
def test_a_page_says_what_its_pictures_lack(client: TestClient, asked: str, said: str) -> None:
    for path in ("/runs/r/images/17", "/api/runs/r/images/17"):
        answer = client.get(f"{path}?{asked}")
        assert answer.status_code == 404
        assert said in answer.text


def test_maps_of_an_image(client: TestClient, run: RunView) -> None:
    """Numbers and pictures are the library's, pixel by pixel."""
    own, image = "/runs/r/images/17", run.image(17)
    plain = image.heatmap("a red circle")
    assert np.array(facts(client, f"{own}/heatmap", text="a red circle")["values"]) == (
        pytest.approx(plain.values)
    )
    asked: list[dict[str, str]] = [
        {},
        {"head": "L7.H2"},
        {"relative_to": "a blue square"},
        {"debias": "false"},
        {"debias": "scenes"},
    ]
    for further in asked:
        options: dict[str, Any] = further
        if further.get("debias") == "false":
            options = {"debias": False}
        drawn = picture(client, f"{own}/heatmap.png", "png", text="a red circle", **further)
        expected = image.heatmap("a red circle", **options).picture()
        assert np.array_equal(np.asarray(drawn), np.asarray(expected)), further
    drawn = picture(client, f"{own}/activation.png", "png", neuron="L6.N12")
    expected = run.neuron("L6.N12").activation_map(17).picture()
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    for method in ("tokens", "neurons"):
        mask = image.segment("a red circle", method=method)
        told = facts(client, f"{own}/segment", text="a red circle", method=method)
        assert told["share"] == pytest.approx(mask.share)
        read = [[one == "1" for one in row] for row in told["mask"]]
        assert np.array_equal(np.array(read), mask.mask)
        drawn = picture(client, f"{own}/segment.png", "png", text="a red circle", method=method)
        assert np.array_equal(np.asarray(drawn), np.asarray(mask.picture()))
    text = checked(client, own, text="a red circle", relative_to="a blue square", neuron="L6.N12")
    assert "heatmap.png?text=a+red+circle&amp;relative_to=a+blue+square" in text
    assert "activation.png?neuron=L6.N12" in text
    for wrong, status in {
        "heatmap.png": 422,
        "heatmap.png?text=": 422,
        "heatmap.png?text=a+red+circle&head=L0.H0": 404,
        "heatmap.png?text=a+red+circle&debias=": 422,
        "heatmap.png?text=a+red+circle&debias=nope": 404,
        "segment.png?text=a+red+circle&method=magic": 422,
        "activation.png?neuron=L6.H1": 422,
    }.items():
        assert client.get(f"/api{own}/{wrong}").status_code == status, wrong


def test_pictures_of_an_image(client: TestClient, run: RunView) -> None:
    thumbnail = picture(client, "/runs/r/images/17/thumbnail.webp", "webp")
    assert np.array_equal(np.asarray(thumbnail), np.asarray(run.thumbnail(17)))
    original = picture(client, "/runs/r/images/17/picture.webp", "webp")
    assert original.size == run.image(17).size == (64, 64)
    assert client.get("/api/runs/r/images/150/thumbnail.webp").status_code == 404
