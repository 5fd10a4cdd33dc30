"""Zero-shot classification against literal computations, and classifiers that are kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from fabricated_store import TEXTS, fabricate
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.api.serve.kept import inside
from lensbase.ingest.world.attributes import SHAPES
from lensbase.queries.classification import class_directions, group_counts, predict, prompt
from lensbase.schema.errors import (
    BadClasses,
    BadTemplate,
    ExtraMissing,
    LensbaseError,
    TextNotStored,
)
from lensbase.schema.layout import Layout

# The arithmetic


def test_directions_are_means_of_unit_texts_at_unit_length() -> None:
    random = np.random.default_rng(0)
    texts = random.normal(size=(5, 7, 16))
    texts /= np.linalg.norm(texts, axis=2, keepdims=True)
    found = class_directions(texts.astype(np.float32))
    for place in range(5):
        mean = np.add.reduce([texts[place, template] for template in range(7)]) / 7
        error = np.abs(found[place] - mean / np.sqrt((mean**2).sum())).max()
        assert error < 1e-6, f"class {place} is off by {error:.1e}"


def test_the_first_of_equal_classes_is_predicted() -> None:
    weights = np.eye(4, dtype=np.float32)[[0, 1, 1, 0]]
    found = predict(np.array([[2, 1, 0, 0], [0, 3, 0, 0], [0, 0, 1, 0]], np.float32), weights)
    assert found.tolist() == [0, 1, 0]


@given(st.data())
def test_groups_are_counted(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    draw = [arrays.arrays(np.int64, count, elements=st.integers(0, top)) for top in (3, 3, 4)]
    predicted, labels, groups = (data.draw(one) for one in draw)
    found = group_counts(predicted, labels, groups, count=5)
    for group in range(5):
        inside = [at for at in range(count) if groups[at] == group]
        right = sum(predicted[at] == labels[at] for at in inside)
        assert (found.images[group], found.correct[group]) == (len(inside), right)
        assert (
            np.isnan(found.accuracy[group])
            if not inside
            else (found.accuracy[group] == right / len(inside))
        )


# Classifiers


@pytest.fixture(scope="module")
def world(world_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunView]:
    root = tmp_path_factory.mktemp("classifier") / "s.lens"
    copytree(world_store, root, symlinks=True)
    with open_store(root) as store:
        yield store.run()


def test_the_default_template_is_the_thesis(world: RunView) -> None:
    made = world.classifier(SHAPES)
    wanted = world.encode_text([f"An image of a {name}" for name in SHAPES]).values
    assert made.classes == made.names == list(SHAPES)
    assert made.templates == ["An image of a {}"]
    error = np.abs(made.weights - wanted).max()
    assert error < 1e-6, f"off by {error:.1e}"


def test_several_templates_are_averaged(world: RunView) -> None:
    templates = ["a {}", lambda name: f"one {name.upper()}", "there is a {} on {}"]
    made = world.classifier({"x": "circle", 3: "square"}, templates)
    for place, name in enumerate(("circle", "square")):
        texts = [f"a {name}", f"one {name.upper()}", f"there is a {name} on {name}"]
        mean = world.encode_text(texts).values.astype(np.float64).mean(0)
        error = np.abs(made.weights[place] - mean / np.linalg.norm(mean)).max()
        assert error < 1e-6, f"{name} is off by {error:.1e}"
    assert made.classes == ["x", "3"]
    assert made.names == ["circle", "square"]
    assert made.templates[1] == "one {}"
    assert "2 classes (x, 3) from 3 templates" in repr(made)


@pytest.mark.parametrize(("name", "count"), [("openai", 80), ("simple", 7)])
def test_open_clips_templates_by_name(world: RunView, name: str, count: int) -> None:
    from open_clip import zero_shot_metadata

    own = {
        "openai": zero_shot_metadata.OPENAI_IMAGENET_TEMPLATES,
        "simple": zero_shot_metadata.SIMPLE_IMAGENET_TEMPLATES,
    }[name]
    made = world.classifier(["circle"], name)
    assert made.templates == [template("{}") for template in own]
    assert len(made.templates) == count
    # A prompt may have words that the world does not know, but not a text or a class.
    texts = [template("circle") for template in own]
    mean = inside(world).texts.encode(texts, about=["circle"]).mean(0)
    error = np.abs(made.weights[0] - mean / np.linalg.norm(mean)).max()
    assert error < 1e-6, f"off by {error:.1e}"


def test_functions_of_one_name_are_told_apart(world: RunView) -> None:
    made = [world.classifier(["circle"], lambda name, a=a: f"{a} {name}") for a in ("red", "blue")]
    assert not np.allclose(made[0].weights, made[1].weights, atol=1e-3)


WITHOUT = """import sys
for name in {blocked}:
    sys.modules[name] = None
from lensbase.api import open_store
with open_store({root!r}) as store:
    clip = store.run()
    try:
        made = clip.classifier({classes!r}, {templates!r})
        print("made", float(made.weights[0] @ made.weights[0]), float(clip.accuracy(made)))
    except Exception as error:
        print(type(error).__name__, error)
assert not any(sys.modules.get(name) for name in ("torch", "open_clip"))
"""


def without(root: Path, classes: Sequence[str], templates: str | None, *blocked: str) -> str:
    script = WITHOUT.format(blocked=blocked, root=str(root), classes=classes, templates=templates)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_classifier_is_made_once_and_found_without_torch(
    world_store: Path, tmp_path: Path
) -> None:
    root = tmp_path / "s.lens"
    copytree(world_store, root, symlinks=True)
    shapes = SHAPES
    assert without(root, shapes, "openai", "torch").startswith(TextNotStored.__name__)
    with open_store(root) as store:
        made = store.run().classifier(shapes, "openai")
        wanted = float(store.run().accuracy(made))
    files = sorted(Layout(root).derived("classifier", "").parent.glob("*.parquet"))
    kept = pd.read_parquet(files[0])
    assert len(files) == 1
    assert list(kept.columns) == ["position", "label", "class", "vector"]
    assert np.array_equal(np.stack(kept["vector"].to_list()), made.weights)
    kind, length, found = without(root, shapes, "openai", "torch").split()
    assert kind == "made"
    assert float(length) == pytest.approx(1, abs=1e-6)
    assert float(found) == wanted
    # Other classes, templates or labels are another result.
    assert without(root, shapes[:9], "openai", "torch").startswith(TextNotStored.__name__)
    assert without(root, shapes, "simple", "torch").startswith(TextNotStored.__name__)
    named = without(root, shapes, "simple", "torch", "open_clip")
    assert named.startswith(ExtraMissing.__name__)
    assert "pip install lensbase[ingest]" in named


def test_prompts_of_a_stored_pool_need_no_model(tmp_path: Path) -> None:
    truth = fabricate(tmp_path / "x.lens")
    with open_store(tmp_path / "x.lens") as store:
        made = store.run().classifier({"even": "sand", "odd": "water"}, "{}")
        wanted = truth.pools["general"][[TEXTS.index("sand"), TEXTS.index("water")]]
        error = np.abs(made.weights - wanted).max()
        assert error < 1e-6, f"off by {error:.1e}"
        with pytest.raises(TextNotStored, match="'An image of a sand' is not stored"):
            store.run().classifier(["sand"])


def test_a_store_that_takes_no_results_only_forgets(tmp_path: Path) -> None:
    fabricate(tmp_path / "x.lens")
    (tmp_path / "x.lens" / "derived").write_text("in the way")
    with open_store(tmp_path / "x.lens") as store:
        made = store.run().classifier(["sand", "water"], "{}")
    assert made.weights.shape == (2, 16)


@pytest.mark.parametrize(
    ("classes", "error", "says"),
    [
        ([], BadClasses, "at least one name"),
        ({}, BadClasses, "at least one name"),
        ("circle", BadClasses, "\\['circle', 'square'\\]"),
        (5, BadClasses, "no list of classes"),
        (["a", "b", "a"], BadClasses, "'a' is given 2 times"),
        ({1: "one", "1": "two"}, BadClasses, "'1' is given 2 times"),
        (["a", " "], BadClasses, "not blank"),
        ([3], BadClasses, "mapping"),
        (["\ud800"], BadClasses, "no class name"),
    ],
)
def test_bad_classes_are_named(
    world: RunView, classes: object, error: type[LensbaseError], says: str
) -> None:
    with pytest.raises(error, match=says):
        world.classifier(classes)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("templates", "says"),
    [
        ("a photo", "put {} there, .*'openai' and 'simple'"),
        (["a {}", "a photo"], "put {} there"),
        ([], "holds no template"),
        (5, "holds no template"),
        ([5], "is no template"),
        (lambda name: 5, "has to make a text"),
    ],
)
def test_bad_templates_are_named(world: RunView, templates: object, says: str) -> None:
    with pytest.raises(BadTemplate, match=says):
        world.classifier(["a"], templates)  # pyright: ignore[reportArgumentType]


def test_a_template_puts_the_name_as_it_is() -> None:
    assert prompt("a {} of {}", "{x}") == "a {x} of {x}"
