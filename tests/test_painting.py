"""Painting images of descriptions, and counting which a model takes for another class."""

from __future__ import annotations

import csv
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fabricated_store import fabricate
from PIL import Image
from torch.nn import functional as F

from lensbase.api import open_store
from lensbase.api.adversarial import generate, score
from lensbase.api.open_run import OpenRun
from lensbase.ingest.job import ingest
from lensbase.ingest.world.adversary import paint
from lensbase.ingest.world.model import load_clip
from lensbase.schema.errors import (
    BadDescriptions,
    BadManifest,
    BadQuestion,
    ExtraMissing,
    NoImages,
    PainterFailed,
    SourceNotFound,
    WeightsNotFound,
)

TEXTS = ["a small pentagon on sand", "a large pentagon on water"]


@pytest.fixture(scope="module")
def run(world_store: Path, tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    """A copy's: the classifiers that are asked for are kept in the store."""
    path = tmp_path_factory.mktemp("own") / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    return open_store(path).run()._run


# Painting


def test_painting_is_resumed_and_removed_images_stay_away(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def painter(text: str, seed: int) -> Image.Image:
        calls.append((text, seed))
        if len(calls) == 4:
            raise MemoryError(calls)
        return paint(text, seed)

    with pytest.raises(PainterFailed, match="3 images painted before it stay"):
        generate(TEXTS, painter, tmp_path, per_description=3, seed=5)
    assert not (tmp_path / "manifest.csv").exists()
    assert len(list(tmp_path.glob("*.png"))) == 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    made = generate(TEXTS, painter, tmp_path, per_description=3, seed=5, label="pentagon")
    assert (made.images, made.new, made.removed) == (6, 3, 0)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len({seed for _, seed in calls}) == 6

    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["description"] for row in rows] == [text for text in TEXTS for _ in range(3)]
    for row in rows:
        assert row["label"] == "pentagon"
        own = np.asarray(Image.open(tmp_path / row["path"]))
        assert np.array_equal(own, np.asarray(paint(row["description"], int(row["seed"]))))

    (tmp_path / rows[0]["path"]).unlink()
    again = generate(TEXTS, painter, tmp_path, per_description=3, seed=5)
    assert (again.images, again.new, again.removed) == (5, 0, 1)
    # Other seeds and texts are other images.
    other = generate([TEXTS[0], "a pentagon"], painter, tmp_path, per_description=3, seed=6)
    assert (other.images, other.new) == (6, 6)


@dataclass
class Pipeline:
    """Called and answering like a pipeline of diffusers."""

    made: list[float]

    def __call__(self, prompt: str, *, generator: torch.Generator | None = None) -> Any:
        assert generator is not None
        self.made.append(float(torch.rand((), generator=generator)))
        self.images = [Image.new("L", (9, 7), int(255 * self.made[-1]))]
        return self


def test_a_pipeline_gets_a_generator_and_gives_images(tmp_path: Path) -> None:
    first, second = Pipeline([]), Pipeline([])
    generate(["a"], first, tmp_path / "a", per_description=4)
    generate(["a"], second, tmp_path / "b", per_description=4)
    assert first.made == second.made
    assert len(set(first.made)) == 4
    for path in (tmp_path / "a").glob("*.png"):
        assert (Image.open(path).mode, Image.open(path).size) == ("RGB", (9, 7))


def test_bad_painters_and_descriptions_are_named(tmp_path: Path) -> None:
    for wrong in (None, "image.png", Pipeline, [], np.zeros((4, 4, 3), np.uint8)):
        with pytest.raises(PainterFailed, match="PIL image"):
            generate(["a"], lambda _, given=wrong: given, tmp_path)
    for texts in ([], "a dog", ["a", " "]):
        with pytest.raises(BadDescriptions):
            generate(texts, paint, tmp_path)
    wrong_options: list[dict[str, Any]] = [{"per_description": 0}, {"seed": -1}, {"seed": 0.5}]
    for options in wrong_options:
        with pytest.raises(BadQuestion):
            generate(TEXTS, paint, tmp_path, **options)
    assert not list(tmp_path.iterdir())


# No UTF-8, and a field longer than the reader of CSV takes.
UNREADABLE = (b"path\n\xff\xfe\n", b"path\n" + b"x" * 200_000 + b"\n")


@pytest.mark.parametrize("content", UNREADABLE)
def test_a_manifest_that_cannot_be_read_is_named(
    run: OpenRun, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    for ask in (
        lambda: generate(TEXTS, paint, tmp_path),
        lambda: score(tmp_path, run, shown="pentagon", mistaken_for="hexagon"),
    ):
        with pytest.raises(BadManifest, match=r"manifest\.csv cannot be read as CSV.*take it away"):
            ask()
    assert (tmp_path / "manifest.csv").read_bytes() == content


# Scoring


def test_scores_are_cosines_of_the_models_own_embeddings(run: OpenRun, tmp_path: Path) -> None:
    generate(TEXTS, paint, tmp_path, per_description=4)
    found = score(tmp_path, run, shown="pentagon", mistaken_for="hexagon")
    model, preprocess, tokenizer = load_clip()
    with torch.inference_mode():
        names = [f"An image of a {name}" for name in ("pentagon", "hexagon")]
        classes = F.normalize(model.encode_text(tokenizer(names)), dim=-1)
        pixels = [
            preprocess(Image.open(tmp_path / key).convert("RGB")) for key in found.rows["key"]
        ]
        images = F.normalize(model.encode_image(torch.stack(pixels)), dim=-1)
        expected = (images @ classes.T).numpy()
    own = np.stack([found.rows[f"similarity_{of}"] for of in ("shown", "mistaken_for")], 1)
    assert np.abs(own - expected).max() < 1e-5
    assert found.fooled == (expected[:, 1] > expected[:, 0]).sum()
    assert found.images == 8
    assert str(found).startswith(
        f"{found.fooled} of 8 images of 'pentagon' are taken for 'hexagon'"
    )
    swapped = score(tmp_path, run, shown="hexagon", mistaken_for="pentagon")
    assert swapped.fooled == 8 - found.fooled


def test_any_folder_is_scored_and_bad_images_are_told(run: OpenRun, tmp_path: Path) -> None:
    classes: dict[str, Any] = {"shown": "pentagon", "mistaken_for": "hexagon"}
    with pytest.raises(SourceNotFound, match="no folder"):
        score(tmp_path / "none", run, **classes)
    with pytest.raises(NoImages):
        score(tmp_path, run, **classes)
    (tmp_path / "sub").mkdir()
    paint(TEXTS[0]).save(tmp_path / "sub" / "one.jpg")
    (tmp_path / "two.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("nothing")
    found = score(tmp_path, run, **classes)
    assert list(found.rows["key"]) == ["sub/one.jpg"]
    assert found.rows.note is not None
    assert found.rows.note.startswith("not readable: two.png")
    for content in (b"name,label\na,b\n", b"path\n\xff\xfe\n", b""):
        (tmp_path / "manifest.csv").write_bytes(content)
        with pytest.raises(BadManifest):
            score(tmp_path, run, **classes)
    (tmp_path / "manifest.csv").write_text("path\nsub/one.jpg\ngone.png\n")
    found = score(tmp_path, run, **classes)
    assert (found.images, found.rows.note) == (1, "1 image of the manifest taken out")
    with pytest.raises(BadQuestion, match="cannot be mistaken"):
        score(tmp_path, run, shown="star", mistaken_for="star")


def test_a_model_that_is_not_at_hand_is_named(tmp_path: Path) -> None:
    fabricate(tmp_path / "s.lens")
    generate(TEXTS, paint, tmp_path / "images", per_description=1)
    run = open_store(tmp_path / "s.lens").run()._run
    stored: dict[str, Any] = {"shown": "sand", "mistaken_for": "water", "templates": "{}"}
    with pytest.raises(WeightsNotFound, match="cannot be loaded to see new images"):
        score(tmp_path / "images", run, **stored)


def test_scoring_without_torch_says_what_to_install(
    run: OpenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(TEXTS[:1], paint, tmp_path)
    monkeypatch.setattr(run.texts, "_model", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in [name for name in sys.modules if name.startswith("lensbase.ingest.")]:
        monkeypatch.delitem(sys.modules, module)
    told = r"needed to see new images, and torch is not installed: `pip install lensbase\[ingest\]`"
    with pytest.raises(ExtraMissing, match=told):
        score(tmp_path, run, shown="a red circle", mistaken_for="a blue square", templates="{}")


def test_painted_images_can_be_ingested(run: OpenRun, world_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(world_store, tmp_path / "s.lens", symlinks=True)
    made = generate(TEXTS, paint, tmp_path / "images", per_description=3, label="pentagon")
    found = score(tmp_path / "images", run, shown="pentagon", mistaken_for="hexagon")
    ingest(made.manifest, store, model="world", run="painted", workers=0, threads=1)
    view = open_store(store).run("painted")
    kept = view.accuracy(view.classifier(["pentagon", "hexagon"]))
    assert kept.images - kept.counts.correct.sum() == found.fooled
    assert list(view.images["key"]) == list(found.rows["key"])
    assert list(view.images["description"]) == list(found.rows["description"])
