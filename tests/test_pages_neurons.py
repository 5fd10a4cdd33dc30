"""Pages of neurons: lists in every order, texts with signs, images, norms, and their likes."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from page_checks import checked
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


@pytest.mark.parametrize("sort", ["explained_variance", "active", "mean_norm", "norm_p98"])
def test_neurons_in_order(client: TestClient, store: Store, sort: str) -> None:
    """3,584 neurons, 50 a page, as the view has them; of one layer, 512."""
    expected = store.sql(f"SELECT * FROM neurons ORDER BY {sort} DESC, layer, neuron").rows()
    page = facts(client, "/runs/r/neurons", sort=sort, offset=50)["rows"]
    assert page["total"] == len(expected) == 3584
    assert len(page["rows"]) == 50
    for row, own in zip(page["rows"], expected[50:100], strict=True):
        assert row == {name: own[name] for name in page["columns"]}
    layer = facts(client, "/runs/r/neurons", sort=sort, layer=0)["rows"]
    assert layer["total"] == 512
    assert layer["rows"][0]["component"] == next(
        row["component"] for row in expected if row["layer"] == 0
    )


def test_paging_goes_to_the_last_neuron(client: TestClient) -> None:
    first = facts(client, "/runs/r/neurons", sort="address")["rows"]
    assert first["rows"][0]["component"] == "L0.N0"
    assert first["next"] == "/api/runs/r/neurons?sort=address&offset=50"
    last = facts(client, "/runs/r/neurons", sort="address", offset=3550)["rows"]
    assert [last["rows"][-1]["component"], last["next"]] == ["L6.N511", None]
    text = checked(client, "/runs/r/neurons", sort="address", offset=3550)
    assert 'rel="prev" href="/runs/r/neurons?sort=address&amp;offset=3500"' in text
    assert 'rel="next"' not in text
    past = checked(client, "/runs/r/neurons", offset=9999)
    assert "no neurons" in past


def test_neurons_along_a_text(client: TestClient, run: RunView) -> None:
    """As `find_neurons` has them, on a second page and in one layer too."""
    expected = run.find_neurons("a red circle", 60).rows()
    page = facts(client, "/runs/r/neurons", text="a red circle", limit=20, offset=40)["rows"]
    assert page["rows"] == expected[40:]
    one = facts(client, "/runs/r/neurons", text="a red circle", layer="4", limit=5)["rows"]
    assert one["rows"] == run.find_neurons("a red circle", 5, layers=4).rows()
    assert one["total"] == 512
    checked(client, "/runs/r/neurons", text="a red circle", layer="")
    assert client.get("/runs/r/neurons?layer=7").status_code == 404, "the last has no such effects"
    assert client.get("/runs/r/neurons?layer=70").status_code == 404
    assert client.get("/runs/r/neurons?layer=one").status_code == 422


def test_a_neuron_s_page(client: TestClient, run: RunView) -> None:
    """Texts with signs, 24 images with activation maps, all 150 norms, and 8 others like it."""
    neuron = run.neuron("L6.N12")
    page = facts(client, "/runs/r/neurons/L6.N12")
    texts = neuron.texts().rows()
    assert page["rows"]["rows"] == texts
    assert page["most"] == max(abs(row["coefficient"]) for row in texts)
    assert page["images"]["rows"] == neuron.top_images(24).rows()
    assert page["similar"]["rows"] == run.neuron_similarity("L6.N12", 8).rows()
    assert page["explained_variance"] == pytest.approx(neuron.explained_variance)
    norms = neuron.activity().values[:, 0]
    bars = page["norms"]["bars"]
    assert sum(bar["count"] for bar in bars) == len(norms) == 150
    assert (bars[0]["low"], bars[-1]["high"]) == pytest.approx((norms.min(), norms.max()))
    across = (neuron.threshold - norms.min()) / (norms.max() - norms.min())
    assert page["norms"]["limit"] == pytest.approx(across, abs=1e-4)
    assert page["facts"]["active"] == int(np.sum(norms > neuron.threshold))
    text = checked(client, "/runs/r/neurons/L6.N12")
    assert text.count("activation.png?neuron=L6.N12") == 24
    signs = re.findall(r'<span class="sign(?: negative)?">(.)</span><a', text)
    assert signs == ["−" if row["coefficient"] < 0 else "+" for row in texts]
    assert page["python"] == "store.run('r').neuron('L6.N12').texts(m=16)"


def test_the_list_s_python_gives_the_list(client: TestClient, store: Store) -> None:
    for asked in ({"sort": "mean_norm", "layer": 3, "offset": 50}, {"text": "a red circle"}):
        page = facts(client, "/runs/r/neurons", **asked)
        found = eval(page["python"], {"store": store})
        named = [row["component"] for row in page["rows"]["rows"]]
        assert list(found["component"]) == named
        assert len(named) == 50


def test_a_neuron_s_answers(client: TestClient, run: RunView) -> None:
    neuron = run.neuron("L6.N12")
    own = "/runs/r/neurons/L6.N12"
    assert facts(client, f"{own}/texts", m=3)["rows"] == neuron.texts(m=3).rows()
    assert facts(client, f"{own}/images", k=3)["rows"] == neuron.top_images(3).rows()
    near = run.neuron_similarity("L6.N12", 4, layers=6)
    assert facts(client, f"{own}/similar", k=4, layer=6)["rows"] == near.rows()
    assert facts(client, f"{own}/norms")["total"] == 150
    edges = [facts(client, f"/runs/r/neurons/{one}") for one in ("L0.N0", "L0.N511", "L6.N511")]
    assert [(one["previous"], one["next"]) for one in edges] == [
        (None, "L0.N1"),
        ("L0.N510", "L1.N0"),
        ("L6.N510", None),
    ]
    for wrong, status in {"L7.N0": 404, "L6.N512": 404, "L6.H1": 422}.items():
        assert client.get(f"/runs/r/neurons/{wrong}").status_code == status, wrong
