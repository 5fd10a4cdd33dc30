"""Odd calls of chapter 2's questions: each a named error that says what would be right."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensbase.api import open_store
from lensbase.api.classifier import Classifier
from lensbase.api.pools import add_pool
from lensbase.api.run import RunView
from lensbase.schema.errors import LensbaseError, TextNotStored

Ask = Callable[[Any, Any], Any]

ODD: dict[str, tuple[Ask, str]] = {
    "m is no number": (lambda clip, c: clip.textspan(m=2.5), "m = 2.5 is no whole number"),
    "m is a truth": (lambda clip, c: clip.textspan(m=True), "m = True is no whole number"),
    "m is none": (lambda clip, c: clip.textspan(m=0), "ask for 1 or more"),
    "k is no number": (lambda clip, c: clip.top_images("a red circle", k=2.5), "k = 2.5 is no"),
    "k is negative": (lambda clip, c: clip.top_images("a red circle", k=-1), "0 or more"),
    "rank is a text": (lambda clip, c: clip.head("L7.H1").top_images(rank="1"), "rank = '1' is no"),
    "draws is no number": (lambda clip, c: clip.accuracy(c, draws=2.5), "draws = 2.5 is no"),
    "seed is negative": (lambda clip, c: clip.accuracy(c, seed=-1), "0 or more"),
    "by is no name": (lambda clip, c: clip.accuracy(c, by=3), "by=3 names no columns"),
    "by is missing": (lambda clip, c: clip.accuracy(c, by="nope"), "have no column 'nope'"),
    "no group holds two labels": (
        lambda clip, c: clip.spurious_heads(c, by="key"),
        "no label occurs in two groups|no group holds two labels",
    ),
    "nested groups": (
        lambda clip, c: clip.spurious_heads(c, by="subgroup"),
        "no group holds two labels",
    ),
    "ms holds a fraction": (lambda clip, c: clip.reconstruction(c, ms=[1.7]), "m = 1.7 is no"),
    "ms holds a text": (lambda clip, c: clip.reconstruction(c, ms=["a"]), "m = 'a' is no"),
    "ms is empty": (lambda clip, c: clip.reconstruction(c, ms=[]), "names no number of texts"),
    "vectors overflow": (
        lambda clip, c: clip.textspan(pool=np.full((5, 64), 1e155)),
        "is no pool of run",
    ),
    "vectors vanish": (lambda clip, c: clip.textspan(pool=np.zeros((5, 64))), "is no pool of run"),
    "vectors hold NaN": (
        lambda clip, c: clip.textspan(pool=np.full((5, 64), np.nan)),
        "is no pool of run",
    ),
    "a text is none": (lambda clip, c: clip.top_images(None), "None is no text"),
    "a text is a number": (lambda clip, c: clip.image(3).segment(3), "3 is no text"),
    "debias is a number": (
        lambda clip, c: clip.image(3).heatmap("a red circle", debias=5),
        "debias=5 names no texts",
    ),
    "weights hold NaN": (
        lambda clip, c: clip.accuracy(
            Classifier(c.classes, c.weights * np.nan, c.templates, c.weights_sha256, c.names)
        ),
        "no finite number",
    ),
    "a label has no UTF-8": (
        lambda clip, c: clip.classifier({"\ud800": "sand", "b": "water"}),
        "has no UTF-8",
    ),
    "a slice of many digits": (
        lambda clip, c: clip.ablate("attn[:" + "9" * 5000 + "]"),
        "no slice that Python could read",
    ),
    "masks hold NaN": (
        lambda clip, c: clip.evaluate_segmentation(
            lambda key: np.full((64, 64), np.nan), classes=c, where='"row" < 3'
        ),
        "holds NaN",
    ),
    "masks hold texts": (
        lambda clip, c: clip.evaluate_segmentation(
            lambda key: np.full((64, 64), "x"), classes=c, where='"row" < 3'
        ),
        "a mask is numbers",
    ),
}


@pytest.fixture(scope="module")
def clip(world_store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunView:
    # Answers are kept in the store, and this one is shared.
    path = tmp_path_factory.mktemp("odd") / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    return open_store(path).run()


@pytest.fixture(scope="module")
def shapes(clip: RunView) -> Classifier:
    names = sorted({row["label"] for row in clip.images.rows()})
    return clip.classifier(names)


@pytest.mark.parametrize("name", ODD)
def test_it_is_a_named_error(clip: RunView, shapes: Classifier, name: str) -> None:
    ask, told = ODD[name]
    with pytest.raises(LensbaseError, match=told):
        ask(clip, shapes)


def test_masks_of_several_sizes_are_taken_one_by_one(clip: RunView, shapes: Classifier) -> None:
    """Photographs differ in size, and so do their masks: a list need not be one array."""
    masks = [np.eye(64), np.eye(64, dtype=bool), np.eye(64, dtype=np.uint8)]
    where: dict[str, Any] = {"classes": shapes, "where": '"row" < 3'}
    several = clip.evaluate_segmentation(masks, **where)
    together = clip.evaluate_segmentation(np.stack([np.eye(64)] * 3), **where)
    assert several.miou == together.miou


def test_random_vectors_are_no_texts(world_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    add_pool(path, name="noise", random=5)
    with open_store(path) as store, pytest.raises(TextNotStored, match="never taught 'vector'"):
        store.run().encode_text("vector 0")


def test_a_slice_of_a_curve_still_plots_itself(clip: RunView, shapes: Classifier) -> None:
    curve = clip.ablation_curve(shapes)
    assert type(curve[:2]) is type(curve)
