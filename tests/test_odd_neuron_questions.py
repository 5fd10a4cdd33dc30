"""Odd questions about neurons: each a named error that says what would be right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from world_store import ingest_scenes

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.errors import (
    BadAddress,
    BadClasses,
    BadQuestion,
    ExtraMissing,
    ImageFileMissing,
    LensbaseError,
    NeuronInputNotStored,
    NeuronsNotStored,
    NoImages,
    RejectedImage,
    RejectedRow,
    SourceNotFound,
    TextNotStored,
    UnknownComponent,
    UnknownImage,
    UnknownPool,
    UnknownRun,
)


@pytest.fixture(scope="module")
def path(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Answers are kept in the store, and this one is shared.
    path = tmp_path_factory.mktemp("odd") / "s.lens"
    copytree(neuron_store, path, symlinks=True)
    return path


@pytest.fixture(scope="module")
def clip(path: Path) -> RunView:
    return open_store(path).run()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> RunView:
    """A run of two layers without what their neurons read; the image of row 7 is broken."""
    folder = tmp_path_factory.mktemp("bare")
    write_scenes(folder, count=20, seed=9)
    (folder / "images" / "00007.png").write_bytes(b"no image")
    ingest_scenes(folder, folder / "s.lens", neurons=[4, 5], tokens=False, head_tokens=None)
    return open_store(folder / "s.lens").run()


NEURONS_KEPT: dict[str, tuple[Callable[[RunView], Any], type[LensbaseError], str]] = {
    "a neuron past the last": (
        lambda clip: clip.neuron("L5.N512"),
        UnknownComponent,
        "layer 5 has no neuron L5.N512: it has 0 to 511",
    ),
    "a layer past the last": (
        lambda clip: clip.neuron("L8.N1"),
        UnknownComponent,
        "its layers are 0 to 7",
    ),
    "the last layer": (
        lambda clip: clip.neuron("L7.N1"),
        NeuronsNotStored,
        "layer 7 is the last one.*no second-order effect.*kept layers 0 to 6",
    ),
    "a head": (lambda clip: clip.neuron("L5.H1"), BadAddress, "write L9.N391"),
    "no address": (lambda clip: clip.neuron("neuron 5"), BadAddress, "L9.N391"),
    "a number": (lambda clip: clip.neuron(3), BadAddress, "3 is not.*as a text"),  # type: ignore[arg-type]
    "a list of neurons": (
        lambda clip: clip.neuron_similarity(["L5.N1"]),  # type: ignore[arg-type]
        BadAddress,
        "as a text",
    ),
    "a head by number": (lambda clip: clip.head(3), BadAddress, "as a text"),  # type: ignore[arg-type]
    "another run": (lambda clip: clip.neuron("x:L5.N1"), UnknownRun, r"store\.run\('x'\)"),
    "k is no number": (
        lambda clip: clip.neuron("L5.N1").top_images(2.5),  # type: ignore[arg-type]
        BadQuestion,
        "k = 2.5 is no whole number",
    ),
    "k is negative": (lambda clip: clip.find_neurons("water", -1), BadQuestion, "0 or more"),
    "k of heads": (lambda clip: clip.find_heads("water", True), BadQuestion, "k = True is no"),
    "k of neighbors": (
        lambda clip: clip.neuron_similarity("L5.N1", "3"),  # type: ignore[arg-type]
        BadQuestion,
        "k = '3' is no whole number",
    ),
    "k of concepts": (lambda clip: clip.image(0).concepts(k=-2), BadQuestion, "0 or more"),
    "m is none": (lambda clip: clip.neuron("L5.N1").texts(m=0), BadQuestion, "1 or more"),
    "m is a fraction": (
        lambda clip: clip.image(0).concepts(m=1.5),  # type: ignore[arg-type]
        BadQuestion,
        "m = 1.5 is no whole number",
    ),
    "layers that are none": (
        lambda clip: clip.find_neurons("water", layers="all"),  # type: ignore[arg-type]
        BadQuestion,
        "'all' names no layers; give a number",
    ),
    "no layers": (lambda clip: clip.image(0).concepts([]), BadQuestion, "names no layers"),
    "a negative layer": (lambda clip: clip.image(0).concepts(-1), BadQuestion, "numbers from 0"),
    "the last layer among some": (
        lambda clip: clip.find_neurons("water", layers=[5, 7]),
        NeuronsNotStored,
        "layer 7 is the last one",
    ),
    "no such pool": (
        lambda clip: clip.neuron("L5.N1").texts("nowhere"),
        UnknownPool,
        "nowhere",
    ),
    "an empty pool": (lambda clip: clip.neuron("L5.N1").texts([]), BadQuestion, "pool= takes"),
    "vectors of another width": (
        lambda clip: clip.neuron("L5.N1").texts(np.ones((3, 9))),
        BadQuestion,
        r"takes finite vectors \[M, 64\]",
    ),
    "a vector of zeros": (
        lambda clip: clip.neuron("L5.N1").texts(np.eye(3, 64) * [[1], [0], [1]]),
        BadQuestion,
        "row 1 of pool= is 0",
    ),
    "no text": (lambda clip: clip.find_neurons(3), BadQuestion, "3 is no text"),  # type: ignore[arg-type]
    "no image": (lambda clip: clip.neuron("L5.N1").activity([9999]), UnknownImage, "9999"),
    "no image of a map": (
        lambda clip: clip.neuron("L5.N1").activation_map("images/x.png"),
        UnknownImage,
        "images/x.png",
    ),
    "no file to explain": (
        lambda clip: clip.explain("nowhere.png"),
        ImageFileMissing,
        "there is no image at nowhere.png.*give an image file",
    ),
    "no file at all": (lambda clip: clip.explain(3), ImageFileMissing, "3 is no image"),
    "a broken file to explain": (
        lambda clip: clip.explain(__file__),
        RejectedImage,
        r"test_odd_neuron_questions.py cannot be read as an image \(not an image",
    ),
    "nothing to find neurons by": (
        lambda clip: clip.find_neurons(" "),
        BadQuestion,
        "' ' is blank",
    ),
    "nothing to find heads by": (lambda clip: clip.find_heads(""), BadQuestion, "'' is blank"),
    "no method": (
        lambda clip: clip.image(0).segment("water", method="magic"),  # type: ignore[arg-type]
        BadQuestion,
        "'tokens' and 'neurons'",
    ),
    "layers of tokens": (
        lambda clip: clip.image(0).segment("water", layers=5),
        BadQuestion,
        "method .* has to be 'neurons'",
    ),
    "neurons of tokens": (
        lambda clip: clip.image(0).segment("water", neurons=5),
        BadQuestion,
        "method .* has to be 'neurons'",
    ),
    "neurons of tokens to compare with masks": (
        lambda clip: clip.evaluate_segmentation({}, neurons=5),
        BadQuestion,
        "method .* has to be 'neurons'",
    ),
    "neurons without a bias": (
        lambda clip: clip.image(0).segment("water", method="neurons", debias="nope"),
        BadQuestion,
        "debias .*take maps of tokens away",
    ),
    "a relative map of neurons": (
        lambda clip: clip.image(0).segment("water", method="neurons", relative_to="sand"),
        BadQuestion,
        "relative_to and",
    ),
    "no neurons to segment by": (
        lambda clip: clip.image(0).segment("water", method="neurons", neurons=0),
        BadQuestion,
        "1 or more",
    ),
    "no neurons to vote": (
        lambda clip: clip.spurious_texts("sand", "water", neurons=0),
        BadQuestion,
        "1 or more",
    ),
    "no source": (
        lambda clip: clip.spurious_texts("sand", "water", source="guess"),  # type: ignore[arg-type]
        BadQuestion,
        "second-order, random, similar",
    ),
    "a synonym above 1": (
        lambda clip: clip.spurious_texts("sand", "water", synonym=1.5),
        BadQuestion,
        "None keeps all texts",
    ),
    "a negative seed": (
        lambda clip: clip.spurious_texts("sand", "water", source="random", seed=-1),
        BadQuestion,
        "0 or more",
    ),
    "the same class twice": (
        lambda clip: clip.spurious_texts("sand", "sand"),
        BadClasses,
        "sand",
    ),
}


@pytest.mark.parametrize("name", NEURONS_KEPT)
def test_it_is_a_named_error(clip: RunView, name: str) -> None:
    ask, error, told = NEURONS_KEPT[name]
    with pytest.raises(error, match=told):
        ask(clip)


EVERY: dict[str, Callable[[RunView], Any]] = {
    "neuron": lambda clip: clip.neuron("L4.N1"),
    "find_neurons": lambda clip: clip.find_neurons("water"),
    "neuron_similarity": lambda clip: clip.neuron_similarity("L4.N1"),
    "concepts": lambda clip: clip.image(0).concepts(),
    "explain": lambda clip: clip.explain(Image.new("RGB", (64, 64))),
    "segment": lambda clip: clip.image(0).segment("water", method="neurons"),
    "spurious_texts": lambda clip: clip.spurious_texts("sand", "water"),
    "evaluate_segmentation": lambda clip: clip.evaluate_segmentation({}, method="neurons"),
}


@pytest.mark.parametrize("name", EVERY)
def test_a_run_without_neurons_says_how_to_get_them(world_store: Path, name: str) -> None:
    clip = open_store(world_store).run()
    with pytest.raises(
        NeuronsNotStored, match=r"kept no neurons.*a new run, `--run NEW_NAME --neurons default`"
    ):
        EVERY[name](clip)
    assert len(clip.neurons) == 0


def test_what_the_neurons_read_is_needed_for_maps(bare: RunView) -> None:
    told = "kept nothing to make activation maps of.*--neuron-input"
    maps: list[Callable[[], Any]] = [
        lambda: bare.neuron("L4.N1").activation_map(0),
        lambda: bare.image(0).segment("a red circle", method="neurons"),
        lambda: bare.evaluate_segmentation({}, method="neurons"),
    ]
    for ask in maps:
        with pytest.raises(NeuronInputNotStored, match=told):
            ask()
    assert len(bare.neuron("L4.N1").texts("few", m=3)) == 3


def test_a_layer_that_was_not_kept_is_named_with_those_that_were(bare: RunView) -> None:
    told = r"no neurons of layer 2, only those of layers 4 and 5|layers 4, 5.*--neurons 2,4,5"
    layers: list[Callable[[], Any]] = [
        lambda: bare.neuron("L2.N1"),
        lambda: bare.find_neurons("a red circle", layers=[4, 2]),
        lambda: bare.image(0).concepts(2),
        lambda: bare.explain(Image.new("RGB", (64, 64)), 2),
    ]
    for ask in layers:
        with pytest.raises(NeuronsNotStored, match=told):
            ask()


def test_a_rejected_image_has_no_neurons(bare: RunView, tmp_path: Path) -> None:
    key = "images/00007.png"
    neuron = bare.neuron("L4.N1")
    asked: list[Callable[[], Any]] = [
        lambda: bare.image(key).concepts(),
        lambda: neuron.activity([key]),
        lambda: neuron.reconstruction(key),
        lambda: neuron.top_images(images=[key]),
    ]
    for ask in asked:
        with pytest.raises(RejectedRow, match="00007"):
            ask()
    assert len(neuron.top_images(50)) == 19
    assert len(neuron.activity().values) == 19
    assert np.isfinite(neuron.activity().values).all()
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(RejectedImage):
        bare.explain(tmp_path / "x.png")
    assert len(bare.explain(Image.new("L", (90, 30)), k=2)) <= 2


def test_a_text_that_is_not_stored_needs_the_model(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "lensbase.ingest.models", raising=False)
    monkeypatch.delitem(sys.modules, "lensbase.ingest.one_image", raising=False)
    clip = open_store(path).run()
    assert len(clip.find_neurons("a red circle")) == 20
    with pytest.raises(TextNotStored, match=r"torch is not installed.*nearest stored texts"):
        clip.find_neurons("a purple elephant")
    with pytest.raises(ExtraMissing, match=r"torch is not installed.*need no model"):
        clip.explain(Image.new("RGB", (64, 64)))
    with pytest.raises(BadQuestion, match="0 or more"):
        clip.explain(Image.new("RGB", (64, 64)), k=-1)
    # What is cheap to see is said first.
    for file, error in (("nowhere.png", ImageFileMissing), (__file__, RejectedImage)):
        with pytest.raises(error):
            clip.explain(file)
    for folder, error in (("nowhere", SourceNotFound), (path.parent / "none", NoImages)):
        (path.parent / "none").mkdir(exist_ok=True)
        with pytest.raises(error, match="name one with images"):
            clip.fooled(folder, "a purple elephant", "sand")
    with pytest.raises(BadQuestion, match="cannot be mistaken"):
        clip.fooled("nowhere", "sand", "sand")
