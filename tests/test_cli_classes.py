"""The command line's questions about classes: accuracy, spurious heads, segmentation."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import WITHOUT_TORCH, call, invoke
from PIL import Image

from lensbase.api import open_store, role
from lensbase.api.run import RunView

CLASSES = ("--class", "circle", "--class", "square")
BOTH = ("--where", "label IN ('circle', 'square')")
TEMPLATE = ("--template", "a photo of a {}")


@pytest.fixture(scope="module")
def store(world_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    assert invoke("annotate", path, "L7.H7", "L6.H2", "--role", "color").exit_code == 0
    return path


@pytest.fixture(scope="module")
def clip(store: Path) -> RunView:
    return open_store(store).run()


def good(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def labels(clip: RunView) -> list[str]:
    return sorted({row["label"] for row in clip.images if row["status"] == "ok"})


# Accuracy


def test_accuracy_prints_what_the_api_answers(store: Path, clip: RunView) -> None:
    found = clip.accuracy(clip.classifier(labels(clip)))
    assert good("accuracy", store) == f"{found}\n"
    assert "150 images, 10 classes" in str(found)
    shapes = clip.classifier(["circle", "square"], templates="a photo of a {}")
    found = clip.accuracy(
        shapes,
        by=["label", "background"],
        ablate=["L5.MLP", role("color")],
        where=BOTH[1],
        zero=True,
    )
    groups = ("--by", "label", "--by", "background")
    ablation = ("--ablate", "L5.MLP", "--role", "color", "--zero")
    asked = ("accuracy", store, *CLASSES, *TEMPLATE, *groups, *ablation, *BOTH)
    assert good(*asked) == f"{found}\n"


@pytest.mark.parametrize("by", [(), ("--by", "background")])
@pytest.mark.parametrize("ablate", [(), ("--ablate", "r:L7.H1", "--draws", "0")])
def test_rows_are_the_groups(
    store: Path, clip: RunView, by: tuple[str, ...], ablate: tuple[str, ...]
) -> None:
    found = clip.accuracy(
        clip.classifier(labels(clip)), by=list(by[1:]), ablate=list(ablate[1:2])
    ).groups
    assert len(found) == (1 if not by else len({row["background"] for row in clip.images}))
    assert ("before" in found.columns) == bool(ablate)
    assert json.loads(good("accuracy", store, *by, *ablate, "--json")) == found.rows()
    rows = list(csv.DictReader(io.StringIO(good("accuracy", store, *by, *ablate, "--csv"))))
    assert [list(row) for row in rows] == [found.columns] * len(found)
    assert [float(row["accuracy"]) for row in rows] == found["accuracy"].tolist()


def test_draws_are_counted_and_none_is_allowed(store: Path) -> None:
    asked = ("accuracy", store, "--ablate", "L7.H1")
    assert "best of 3 draws of 1 random head" in good(*asked, "--draws", 3)
    assert "random" not in good(*asked, "--draws", 0)


def test_another_label_column_gives_its_own_classes(store: Path, clip: RunView) -> None:
    names = sorted({row["background"] for row in clip.images})
    found = clip.accuracy(clip.classifier(names), label="background")
    assert good("accuracy", store, "--label", "background") == f"{found}\n"
    # Numbers are compared as texts, so they are sorted as texts too.
    told = json.loads(good("accuracy", store, "--label", "count", "--by", "count", "--json"))
    assert sum(row["images"] for row in told) == len(clip.images)


# Heads


def test_spurious_heads_are_those_of_the_api(store: Path, clip: RunView) -> None:
    shapes = clip.classifier(["circle", "square"], templates="a photo of a {}")
    found = clip.spurious_heads(shapes, ["background"], 3, where=BOTH[1])
    asked = ("head", "spurious", store, "--by", "background", *CLASSES, *TEMPLATE, "-k", 3, *BOTH)
    assert json.loads(good(*asked, "--json")) == found.rows()
    assert len(found) == 3
    table = good(*asked)
    assert all(row["component"] in table for row in found)
    everything = clip.spurious_heads(clip.classifier(labels(clip)), "background")
    told = good("head", "spurious", store, "--by", "background", "--csv")
    rows = csv.DictReader(io.StringIO(told))
    assert [row["component"] for row in rows] == list(everything["component"])


# Segmentation


def test_segment_writes_masks_and_heat(
    store: Path, clip: RunView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    view = clip.image(3)
    found = view.segment("a red circle")
    name = f"{Path(view.key).stem}-a-red-circle-mask.png"
    assert good("image", "segment", store, 3, "a red circle") == f"Wrote {name}: {found}.\n"
    assert np.array_equal(np.asarray(Image.open(name)) > 0, found.mask)
    asked = ("image", "segment", store, view.key, "a red circle")
    other = view.segment("a red circle", relative_to="a blue square", threshold=0.7)
    good(*asked, "-o", "m.png", "--relative-to", "a blue square", "--threshold", "0.7")
    assert np.array_equal(np.asarray(Image.open("m.png")) > 0, other.mask)
    assert not np.array_equal(other.mask, found.mask)
    good(*asked, "-o", "x.npy", "--no-debias")
    assert np.array_equal(np.load("x.npy"), view.segment("a red circle", debias=False).values)


# What cannot be answered


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["accuracy", "--label", "nope"], "no column 'nope'"),
        (["accuracy", "--label", 'a"; b'], "no column 'a\"; b'"),
        (["accuracy", "--label", "nope", *CLASSES, *TEMPLATE], "no column 'nope'"),
        (["accuracy", "--by", "nope"], "no column 'nope'"),
        (["accuracy", "--by", "nope", "--class", "unheard of"], "no column 'nope'"),
        (["accuracy", "--label", "reason"], "`lensbase columns add`"),
        (["accuracy", "--role", "nope"], "its roles: color."),
        (["accuracy", "--role", "No pe"], "cannot name a role"),
        (["accuracy", "--ablate", "L99.H0"], "L99"),
        (["accuracy", *CLASSES, *TEMPLATE], "that is no class"),
        (["accuracy", "--template", "a shape"], "put {} there"),
        (["accuracy", "--draws", "-1"], "draws"),
        (["accuracy", "--run", "nope"], "nope"),
        (["accuracy", "--json", "--csv"], "exclude each other"),
        (["head", "spurious", "--by", "nope"], "no column 'nope'"),
        (["head", "spurious", "--by", "background", "-k", "0"], "k = 0"),
        (["head", "spurious", "--by", "background", "--label", "nope"], "no column 'nope'"),
    ],
)
def test_what_is_wrong_is_one_line(store: Path, arguments: list[str], said: str) -> None:
    at = 2 if arguments[0] == "head" else 1
    assert said in refused(*arguments[:at], store, *arguments[at:])


@pytest.mark.parametrize("threshold", ["half", "nan", "1.5"])
def test_a_threshold_is_mean_or_a_number(store: Path, tmp_path: Path, threshold: str) -> None:
    asked = ("image", "segment", store, 3, "a red circle", "-o", tmp_path / "m.png")
    assert "neither 'mean' nor a number from 0 to 1" in refused(*asked, "--threshold", threshold)
    assert not (tmp_path / "m.png").exists()
    assert "end it in .png" in refused(*asked[:-1], tmp_path / "m.xyz")


def test_neurons_are_counted_only_where_they_segment(store: Path) -> None:
    asked = ("image", "segment", store, 3, "a red circle")
    assert "the method (--method) has to be 'neurons'" in refused(*asked, "--neurons", 5)
    assert "--no-debias) take maps" in refused(*asked, "--method", "neurons", "--no-debias")


def test_kept_classifiers_need_no_torch(store: Path) -> None:
    told = good("accuracy", store)
    done = call("accuracy", store, program=WITHOUT_TORCH)
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
