"""Rosetta pages: what they say is what the zoo says, and their pictures are of its units."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from lensbase.api import open_store
from lensbase.api.rosetta import RosettaView
from lensbase.api.serve.app import create_app
from lensbase.api.serve.pages.rosetta import MEMBERS
from lensbase.api.serve.pages.rosetta_rows import GAP, SIDE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(shown_zoo: Path) -> Iterator[TestClient]:
    app = create_app(shown_zoo, new_texts=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def zoo(shown_zoo: Path) -> Iterator[RosettaView]:
    with open_store(shown_zoo) as store:
        yield store.rosetta()


def facts(client: TestClient, path: str, **asked: Any) -> dict[str, Any]:
    answer = client.get(f"/api{path}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def html(client: TestClient, path: str, **asked: Any) -> str:
    answer = client.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    return answer.text


def test_a_zoo_s_page_lists_its_concepts_as_the_library_does(
    client: TestClient, zoo: RosettaView
) -> None:
    page = facts(client, "/rosetta/scenes", limit=10, offset=5)
    expected = zoo.concepts()
    assert page["rows"]["rows"] == expected[5:15].rows()
    assert page["rows"]["total"] == len(expected) > 20
    assert page["columns"] == ["clip", "resnet", "mae"]
    assert [one["concept"] for one in page["dictionary"]] == list(range(5, 11))
    text = html(client, "/rosetta/scenes", limit=10, offset=5)
    assert f'href="/rosetta/scenes/concepts/{14}"' in text
    assert "offset=15" in text
    assert len(re.findall("<img ", text)) <= 60


def test_the_dictionary_shows_the_pictures_of_the_library_s(
    client: TestClient, zoo: RosettaView
) -> None:
    page = facts(client, "/rosetta/scenes")
    grid = zoo.dictionary(3, images=2)
    for place, one in enumerate(page["dictionary"][:3]):
        names = [f"concept {one['concept']}\npicture {image}" for image in one["images"]]
        assert grid.rows[2 * place : 2 * place + 2] == names
        shown = [cell.heatmap.text for cell in grid[2 * place][1:] if cell.heatmap is not None]
        assert shown == [unit["unit"] for unit in one["units"]]


def test_a_concept_s_page_has_its_tuple_its_units_and_the_neuron_s_texts(
    client: TestClient, zoo: RosettaView, shown_zoo: Path
) -> None:
    concepts = zoo.concepts().rows()
    chosen = max(concepts, key=lambda row: row["size"])
    path = f"/rosetta/scenes/concepts/{chosen['concept']}"
    page = facts(client, path)
    units = [one["unit"] for one in page["strongest"]["units"]]
    assert units == [chosen["unit"], chosen["resnet"], chosen["mae"]]
    said = [one["correlation"] for one in page["strongest"]["units"][1:]]
    assert said == pytest.approx([chosen["correlation_resnet"], chosen["correlation_mae"]])
    assert len(page["members"]) == min(chosen["size"], MEMBERS) > 1
    assert page["members"][0]["units"] == units
    lowest = [one["min_correlation"] for one in page["members"]]
    assert lowest == sorted(lowest, reverse=True)
    (described,) = page["descriptions"]
    with open_store(shown_zoo) as store:
        (neuron,) = store.sql(
            "SELECT * FROM neurons WHERE component = ?", [described["component"]]
        ).rows()
    assert described["texts"] == neuron["texts"]
    text = unescape(html(client, path))
    assert f'href="/runs/r/neurons/{described["component"]}"' in text
    assert all(f"/rosetta/scenes/units/{unit}" in text for unit in units)


def test_a_unit_s_page_has_the_partners_and_activity_of_the_library(
    client: TestClient, zoo: RosettaView
) -> None:
    (first, *_) = zoo.concepts().rows()
    for name in ("unit", "resnet", "mae"):
        view = zoo.unit(first[name])
        page = facts(client, f"/rosetta/scenes/units/{first[name]}")
        assert page["rows"]["rows"] == view.partners().rows()
        assert page["facts"] == view.info().facts
        assert page["concept"] == (0 if name == "unit" else None)
        peaks = view.activity().max((1, 2))
        assert page["images"][0] == int(np.argmax(peaks))
        assert page["peaks"] == sorted(peaks.tolist(), reverse=True)
        text = html(client, f"/rosetta/scenes/units/{first[name]}")
        assert f'<h1 class="mono">{first[name]}</h1>' in text


def test_maps_are_drawn_side_by_side(client: TestClient, zoo: RosettaView) -> None:
    (first, *_) = zoo.concepts().rows()
    drawn = zoo.heatmaps(3, "mae", concepts=[0])[0][1].heatmap
    assert drawn is not None
    answer = client.get(
        "/api/rosetta/scenes/maps.webp", params={"unit": first["mae"], "images": [5, 3]}
    )
    assert answer.headers["content-type"] == "image/webp"
    strip = Image.open(io.BytesIO(answer.content)).convert("RGB")
    assert strip.size == (2 * SIDE + GAP, SIDE)
    second = np.asarray(strip.crop((SIDE + GAP, 0, 2 * SIDE + GAP, SIDE)), float)
    expected = np.asarray(drawn.picture().resize((SIDE, SIDE)), float)
    assert np.abs(second - expected).mean() < 6
    examples = client.get("/api/rosetta/scenes/examples.webp", params={"images": [0]})
    assert Image.open(io.BytesIO(examples.content)).size == (SIDE, SIDE)


def test_rows_of_a_zoo_are_those_of_the_library(client: TestClient, zoo: RosettaView) -> None:
    found = facts(client, "/rosetta/scenes/units", models="resnet", limit=7)
    assert found["rows"] == zoo.units_of("resnet")[:7].rows()
    found = facts(client, "/rosetta/scenes/matches", models="mae", min_correlation=0.8)
    assert found["rows"] == zoo.matches("mae", 0.8)[:50].rows()
    found = facts(client, "/rosetta/scenes/search", text="a red circle", k=4)
    assert found["rows"] == zoo.search("a red circle", 4).rows()
    unit = found["rows"][0]["unit"]
    found = facts(client, "/rosetta/scenes/partners", unit=unit, model="resnet", mutual=False)
    assert found["rows"] == zoo.unit(unit).partners("resnet", mutual=False).rows()
    answer = client.get("/api/rosetta/scenes/units?format=csv&limit=3")
    assert len(answer.text.strip().splitlines()) == 4


def test_a_text_finds_units_on_the_zoo_s_page(client: TestClient, zoo: RosettaView) -> None:
    page = facts(client, "/rosetta/scenes", text="a red circle")
    assert page["found"]["rows"]["rows"] == zoo.search("a red circle", 10).rows()
    page = facts(client, "/rosetta/scenes", text="no such words at all")
    assert "no such words at all" in page["found"]["missing"]
    assert "no such words at all" in html(client, "/rosetta/scenes", text="no such words at all")


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/rosetta/none", 404, "scenes"),
        ("/rosetta/scenes/concepts/100000", 404, "concepts"),
        ("/rosetta/scenes/concepts/first", 422, "concept"),
        ("/rosetta/scenes/units/clip", 422, "MODEL:MODULE/CHANNEL"),
        ("/rosetta/scenes/units/clip:nothing/1", 404, "nearest"),
        ("/rosetta/scenes/units/../../../etc/passwd", 404, ""),
        ("/api/rosetta/scenes/maps.webp?unit=mae:blocks.0.mlp.act/0&images=1", 404, "match"),
        ("/api/rosetta/scenes/maps.webp?unit=mae:blocks.0.mlp.act/0", 422, "images"),
        ("/api/rosetta/scenes/examples.webp?images=99", 422, "0 to 7"),
        ("/api/rosetta/scenes/examples.webp?" + "images=1&" * 13, 422, "images"),
        ("/api/rosetta/scenes/matches?min_correlation=nan", 422, "min_correlation"),
        ("/api/rosetta/scenes/matches?models=vgg", 404, "vgg"),
    ],
)
def test_what_is_not_there_is_said(client: TestClient, path: str, status: int, said: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    assert said in unescape(answer.text)


def test_a_zoo_without_pictures_says_how_to_keep_some(world_zoo: Path) -> None:
    app = create_app(world_zoo, new_texts=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        assert "--examples" in html(client, "/rosetta/scenes/concepts/0")
        assert "maps not kept" in html(client, "/rosetta/scenes")
        unit = facts(client, "/rosetta/scenes/concepts/0")["strongest"]["units"][0]["unit"]
        assert "--examples" in html(client, f"/rosetta/scenes/units/{unit}")
        assert client.get("/api/rosetta/scenes/examples.webp?images=0").status_code == 404


def test_the_only_zoo_is_led_to(client: TestClient) -> None:
    answer = client.get("/rosetta", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/rosetta/scenes")
    assert facts(client, "/rosetta")["rows"]["total"] == 1
