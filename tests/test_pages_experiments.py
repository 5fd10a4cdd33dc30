"""Experiments in the dashboard: the numbers are the library's, and no question hangs or escapes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi.testclient import TestClient

from lensbase.api import open_store
from lensbase.api.roles import role
from lensbase.api.run import RunView
from lensbase.api.serve import experiments
from lensbase.api.serve.app import create_app

BASE = "/runs/r"


@pytest.fixture(scope="module")
def own_store(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experiments") / "s.lens"
    return shutil.copytree(neuron_store, folder, symlinks=True)


@pytest.fixture(scope="module")
def client(own_store: Path) -> Iterator[TestClient]:
    app = create_app(own_store, new_texts=False)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="module")
def run(own_store: Path) -> Iterator[RunView]:
    with open_store(own_store) as store:
        store.annotate(["L5.H1", "L5.H2"], "position", run="r")
        yield store.run()


def facts(client: TestClient, path: str, **asked: Any) -> dict[str, Any]:
    answer = client.get(f"/api{BASE}{path}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def html(client: TestClient, path: str, **asked: Any) -> str:
    answer = client.get(f"{BASE}{path}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.text


def labels(run: RunView, column: str = "label") -> list[str]:
    return sorted({row[column] for row in run.images.rows()})


@pytest.mark.parametrize(
    "ablate", [[], ["L5.H1", "L4.H0"], ["L5.MLP", "attn"], ["role:position"], ["mlp"]]
)
def test_accuracy_is_the_library_s(client: TestClient, run: RunView, ablate: list[str]) -> None:
    made = run.classifier(labels(run), templates="a {}")
    parts = [role("position") if one == "role:position" else one for one in ablate]
    where = "background IN ('water', 'sand', 'grass')"
    expected = run.accuracy(made, by="background", ablate=parts, where=where)
    found = facts(client, "/accuracy", by="background", ablate=ablate, where=where)
    assert found["accuracy"]["overall"] == pytest.approx(expected.overall)
    assert found["accuracy"]["worst_group"] == pytest.approx(expected.worst_group)
    assert found["images"] == expected.images < 150
    assert found["rows"]["rows"] == expected.groups.rows()
    if not ablate:
        assert found["before"] is None
    else:
        assert expected.before is not None
        assert found["before"]["overall"] == pytest.approx(expected.before.overall)
    assert (found["random"] is None) == (expected.random is None)
    if expected.random is not None:
        assert found["random"]["worst_group"] == pytest.approx(expected.random.worst_group)


def test_curves_and_spurious_heads_are_the_library_s(client: TestClient, run: RunView) -> None:
    made = run.classifier(labels(run), templates="a {}")
    for kind in ("attn", "mlp"):
        found = facts(client, "/ablation-curve", kind=kind)
        assert found["rows"] == run.ablation_curve(made, kind=kind).rows()
    found = facts(client, "/spurious-heads", by="background", k=4)
    expected = run.spurious_heads(made, "background", 4)
    assert found["rows"] == expected.rows()
    text = unescape(html(client, "/spurious-heads", by="background", k=4, ablate="L0.H0"))
    assert f"Tick all {len(expected)} and run" in text
    (address,) = re.findall(r'class="button" href="([^"]+)"', text)
    asked = parse_qs(urlsplit(address).query)
    assert asked["ablate"] == ["L0.H0", *expected["component"]]
    drawn = html(client, "/ablation-curve")
    assert drawn.count('class="dot') == 2 * (len(facts(client, "/ablation-curve")["rows"]))


def test_an_address_holds_the_whole_experiment(client: TestClient, run: RunView) -> None:
    asked = {
        "by": "background",
        "where": '"count" < 9',
        "ablate": ["L5.H1", "L4.ATTN", "role:position", "mlp", "attn[:2]"],
        "zero": "true",
        "classes": labels(run),
    }
    page = facts(client, "/experiments", **asked)
    assert page["problem"] is None
    text = html(client, "/experiments", **asked)
    ticked = re.findall(r'name="ablate" value="([^"]+)" checked', text)
    assert sorted(ticked) == sorted(asked["ablate"])
    assert len(re.findall(r'name="classes" value="[^"]+" checked', text)) == len(labels(run))
    assert 'value="true" checked' in text
    assert 'value="&#34;count&#34; &lt; 9"' in text
    shown = re.findall(r"([\d.]+) %</dd>", text)
    assert shown[0] == f"{100 * page['outcome']['accuracy']['overall']:.1f}"
    made = run.classifier(labels(run), templates="a {}")
    (called,) = re.findall(r'data-copy="([^"]+accuracy[^"]+)"', text)[:1]
    with open_store(run._run.layout.root) as store:  # pyright: ignore[reportPrivateUsage]
        measured = eval(unescape(called), {"store": store, "role": role})
    assert measured.overall == pytest.approx(page["outcome"]["accuracy"]["overall"])
    assert measured.classifier.classes == made.classes


def test_ticked_classes_choose_their_images(client: TestClient, run: RunView) -> None:
    """Two of the labels: only their images are classified, and the shown Python does the same."""
    two = labels(run)[:2]
    page = facts(client, "/experiments", classes=two, where="width > 0")
    assert page["problem"] is None
    made = run.classifier(two, templates="a {}")
    chosen = f"(width > 0) AND \"label\" IN ('{two[0]}', '{two[1]}')"
    expected = run.accuracy(made, where=chosen)
    assert page["outcome"]["accuracy"]["overall"] == pytest.approx(expected.overall)
    assert page["outcome"]["images"] == expected.images < 150
    assert f"where={chosen!r}" in page["python"]
    assert facts(client, "/ablation-curve", classes=two)["rows"]
    wrong = html(client, "/experiments", where="nothing > 1")
    assert "template=a+" not in wrong, "another template would not help"


def test_the_form_offers_every_component_and_column(client: TestClient, run: RunView) -> None:
    page = facts(client, "/experiments")
    kept = [one["component"] for row in page["layers"] for one in row["heads"] if one]
    assert kept == list(run.heads["component"])
    assert [row["mlp"]["component"] for row in page["layers"]] == [f"L{n}.MLP" for n in range(8)]
    assert {"label", "background", "count"} <= set(page["columns"])
    assert not {"key", "caption", "sha256"} & set(page["columns"])
    assert page["outcome"]["by"] is None, "with texts stored, the page measures at once"
    assert "role:position" in [one["components"] for one in page["sets"]]


def test_texts_that_are_not_stored_are_told_on_the_page(client: TestClient) -> None:
    answer = client.get(f"{BASE}/experiments", params={"template": "one more {}"})
    assert answer.status_code == 200
    text = unescape(answer.text)
    assert "'one more circle' is not stored" in text
    assert "template=a+%7B%7D" in text, "a template whose texts are stored is offered"
    assert client.get(f"/api{BASE}/accuracy?template=one+more+{{}}").status_code == 422


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"where": "true) OR (true"}, "expression"),
        ({"where": "1 THEN 1 END"}, "expression"),
        ({"where": "nothing > 1"}, "nothing"),
        ({"where": "width"}, "BIGINT|INTEGER"),
        ({"where": "width < 0"}, "no image"),
        ({"where": "(SELECT content FROM read_text('/etc/hostname')) = ''"}, "expression"),
        ({"where": "getenv('HOME') = ''"}, "expression"),
        ({"ablate": "L99.H0"}, "L99.H0"),
        ({"ablate": "role:nobody"}, "nobody"),
        ({"by": "nothing"}, "nothing"),
        ({"label": "caption", "classes": "circle"}, "no image"),
        ({"label": "nothing"}, "nothing"),
        ({"template": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_asked_is_told(client: TestClient, asked: dict[str, Any], said: str) -> None:
    answer = client.get(f"/api{BASE}/accuracy", params=asked)
    page = client.get(f"{BASE}/experiments", params=asked)
    assert answer.status_code in (404, 422), answer.text
    assert re.search(said, answer.json()["message"])
    assert page.status_code == 200
    assert 'role="alert"' in page.text


def test_a_slow_expression_is_stopped(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensbase.api.serve.choosing.SECONDS", 0.5)
    where = "(SELECT count(*) FROM range(100000000000)) > 0"
    answer = client.get(f"/api{BASE}/accuracy", params={"where": where})
    assert answer.status_code == 422
    assert "0.5 s" in answer.json()["message"]
    assert facts(client, "/accuracy", where="width > 0")["images"] == 150


@pytest.mark.parametrize(
    "asked", [{"k": 0}, {"k": 51}, {"by": "b" * 201}, {"ablate": ["L0.H0"] * 401}, {"zero": "so"}]
)
def test_parameters_are_bounded(client: TestClient, asked: dict[str, Any]) -> None:
    assert client.get(f"/api{BASE}/spurious-heads", params=asked).status_code == 422


def test_experiments_leave_nothing_in_the_store(client: TestClient, own_store: Path) -> None:
    def kept() -> set[Path]:
        return {path for path in (own_store / "derived").rglob("*") if path.is_file()}

    before = kept()
    where = "label IN ('circle', 'heart', 'star')"
    asked = {"classes": ["circle", "heart", "star"], "template": "a {}", "where": where}
    for path in ("/accuracy", "/ablation-curve", "/spurious-heads"):
        facts(client, path, **asked, **({"by": "background"} if "spurious" in path else {}))
    assert kept() == before


def test_more_labels_than_can_be_classes_are_told(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "MOST_CLASSES", 2)
    answer = client.get(f"/api{BASE}/accuracy?label=key")
    assert answer.status_code == 422
    assert "more labels than the 2 classes" in answer.json()["message"]
