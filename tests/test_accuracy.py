"""Zero-shot accuracy, overall and by group, before and after ablations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fabricated_store import SHA, Truth, fabricate

from lensbase.api import Store, open_store
from lensbase.api.accuracy import Accuracy
from lensbase.api.classifier import Classifier
from lensbase.api.maintenance import add_columns
from lensbase.api.run import RunView
from lensbase.ingest.world.attributes import BACKGROUNDS, COUNTS, SHAPES
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    LensbaseError,
    UnknownColumn,
    UnknownComponent,
    UnknownLabel,
)

# Accuracy, on random numbers: by hand


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("accuracy") / "x.lens"
    truth = fabricate(root)
    table = {"key": truth.keys, "half": [None if row % 5 == 0 else row % 2 for row in range(70)]}
    add_columns(root, pd.DataFrame(table).astype({"half": "Int64"}))
    with open_store(root) as store:
        yield store, truth


def of_labels(labels: list[str], sha: str = SHA, width: int = 16) -> Classifier:
    weights = np.random.default_rng(4).normal(size=(len(labels), width)).astype(np.float32)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return Classifier(labels, weights, ["{}"], sha, labels)


PARITY = of_labels(["even", "odd"])


def right(truth: Truth, M: np.ndarray, labels: list[str], classes: list[str]) -> np.ndarray:
    """Which of all readable images, by row, are classified right: literally."""
    scores = M @ of_labels(classes).weights.T.astype(np.float64)
    best = [classes[int(np.argmax(row))] for row in scores]
    return np.array([a == b for a, b in zip(best, labels, strict=True)])


def test_accuracy_by_hand(made: tuple[Store, Truth]) -> None:
    store, truth = made
    rows = np.flatnonzero(truth.ok)
    hits = right(
        truth, truth.arrays["representation"][rows], [truth.labels[r] for r in rows], PARITY.classes
    )
    found = store.run().accuracy(PARITY, by="weather")
    assert found.overall == float(found) == hits.mean(), f"{found.overall} is not {hits.mean()}"
    assert found.images == 68
    weather = np.array(truth.weather)[rows]
    shares = {name: hits[weather == name].mean() for name in sorted(set(weather))}
    assert list(found.groups["weather"]) == list(shares)
    assert list(found.groups["accuracy"]) == list(shares.values())
    assert list(found.groups["images"]) == [int((weather == name).sum()) for name in shares]
    assert found.worst_group == min(shares.values())
    assert found.before is None
    assert found.random is None
    shown = found.predictions.df().set_index("image_id")
    for row, hit in zip(rows, hits, strict=True):
        facts = shown.loc[truth.image_ids[row]]
        assert facts.label == truth.labels[row]
        assert (facts.predicted == facts.label) == hit


def test_accuracy_after_an_ablation(made: tuple[Store, Truth]) -> None:
    store, truth = made
    rows = np.flatnonzero(truth.ok)
    gone = truth.contribution(2, 1)[rows]
    M = truth.arrays["representation"][rows]
    labels = [truth.labels[row] for row in rows]
    found = store.run().accuracy(PARITY, by=["label", "weather"], ablate="L2.H1", draws=3)
    after = right(truth, M - gone + gone.mean(0), labels, PARITY.classes)
    assert found.overall == after.mean()
    assert found.before is not None
    assert found.before.overall == right(truth, M, labels, PARITY.classes).mean()
    assert found.groups.columns == ["label", "weather", "images", "before", "accuracy"]
    assert len(found.groups) == 6
    zeroed = store.run().accuracy(PARITY, ablate="L2.H1", zero=True, draws=0)
    assert zeroed.overall == right(truth, M - gone, labels, PARITY.classes).mean()
    assert zeroed.random is None
    means = store.run().accuracy(
        PARITY, ablate="L2.H1", mean_over=truth.image_ids[rows[:20]], draws=0
    )
    wanted = right(truth, M - gone + gone[:20].mean(0), labels, PARITY.classes)
    assert means.overall == wanted.mean()


def test_random_heads_are_others_and_the_best_is_told(made: tuple[Store, Truth]) -> None:
    clip = made[0].run()
    found = clip.accuracy(PARITY, by="weather", ablate=["L2.H1"], draws=8)
    assert found.random is not None
    others = [f"L{layer}.H{head}" for layer in (1, 2) for head in (0, 1)][:3]
    assert set(found.random.ablated) < set(others)
    drawn = [clip.accuracy(PARITY, by="weather", ablate=one, draws=0) for one in others]
    # Eight draws of one of three heads miss one with 12 %; this seed misses none.
    assert found.random.worst_group == max(one.worst_group for one in drawn)
    again = clip.accuracy(PARITY, by="weather", ablate=["L2.H1"], draws=8)
    assert again.random is not None
    assert again.random.ablated == found.random.ablated
    assert clip.accuracy(PARITY, ablate=["L2.H1", "mlp"]).random is None
    # More heads than are left cannot be drawn.
    assert clip.accuracy(PARITY, ablate=["L2.H1", "L2.H0", "L1.H1"]).random is None


def test_images_and_where_choose(made: tuple[Store, Truth]) -> None:
    store, truth = made
    rows = np.array([3, 9, 21])
    found = store.run().accuracy(PARITY, images=truth.image_ids[rows])
    hits = right(
        truth, truth.arrays["representation"][rows], [truth.labels[r] for r in rows], PARITY.classes
    )
    assert found.overall == hits.mean()
    assert store.run().accuracy(PARITY, where="weather = 'sun'").images == 24


def test_labels_are_compared_as_text_and_nulls_passed_over(made: tuple[Store, Truth]) -> None:
    store, truth = made
    rows = np.array([row for row in np.flatnonzero(truth.ok) if row % 5])
    found = store.run().accuracy(of_labels(["0", "1"]), label="half")
    hits = right(
        truth, truth.arrays["representation"][rows], [str(r % 2) for r in rows], ["0", "1"]
    )
    assert found.images == len(rows)
    assert found.overall == hits.mean()
    passed = int(truth.ok.sum()) - len(rows)
    assert found.note == f"{passed} images without a value in column 'half' were passed over"
    assert str(found.note) in str(found)
    # Images without a group are one, the last.
    groups = store.run().accuracy(PARITY, by="half").groups
    assert groups.df()["half"].isna().tolist() == [False, False, True]
    assert groups["images"].sum() == truth.ok.sum()


def test_it_prints_and_plots(made: tuple[Store, Truth]) -> None:
    import matplotlib.pyplot as plt

    clip = made[0].run()
    found = clip.accuracy(PARITY, by="weather", ablate=["L2.H1"])
    text, html = str(found), found._repr_html_()
    for told in ("worst group", "ablated to their means", "L2.H1", "best of 5 draws of 1 random"):
        assert told in text
        assert told in html
    assert repr(found) == text
    assert len(found.plot().patches) == 6
    assert len(clip.accuracy(PARITY).plot().patches) == 1
    assert "O'Hare" in text
    plt.close("all")


@pytest.mark.parametrize(
    ("classifier", "options", "error", "says"),
    [
        (of_labels(["even", "odd"], width=8), {}, ClassifierMismatch, "8 dimensions and .* 16"),
        (of_labels(["even", "odd"], sha="c" * 64), {}, ClassifierMismatch, "of the model cccc"),
        (PARITY, {"label": "lable"}, UnknownColumn, "no column 'lable'; they have .*label"),
        (PARITY, {"by": "wheather"}, UnknownColumn, "weather"),
        (PARITY, {"by": ["weather", "x"]}, UnknownColumn, "no column 'x'"),
        (of_labels(["even"]), {}, UnknownLabel, "34 images .* no class: odd. .* classes even"),
        (PARITY, {"label": "weather"}, UnknownLabel, "O'Hare snow, rain, sun"),
        (PARITY, {"label": "subgroup"}, BadSelection, "one of run, image_id"),
        (PARITY, {"where": "false"}, BadSelection, "nothing to classify"),
        (PARITY, {"ablate": "L2.H1", "draws": -1}, BadQuestion, "draws = -1"),
        (PARITY, {"ablate": "L2.H9"}, UnknownComponent, "no 'L2.H9'"),
        (PARITY, {"ablate": "mlp", "zero": True, "mean_over": [100]}, BadQuestion, "zero=True"),
    ],
)
def test_bad_questions_are_named(
    made: tuple[Store, Truth],
    classifier: Classifier,
    options: dict[str, object],
    error: type[LensbaseError],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        made[0].run().accuracy(classifier, **options)  # pyright: ignore[reportArgumentType]


def test_weights_that_do_not_fit_their_classes_are_refused(made: tuple[Store, Truth]) -> None:
    bad = Classifier(["even"], PARITY.weights, ["{}"], SHA, ["even"])
    with pytest.raises(ClassifierMismatch, match="a classifier of 1 classes needs weights"):
        made[0].run().accuracy(bad)


# The embedded world: what the thesis' tables and Figure 2.2 show


@pytest.fixture(scope="module")
def world(world_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunView]:
    root = tmp_path_factory.mktemp("accuracy") / "s.lens"
    copytree(world_store, root, symlinks=True)
    with open_store(root) as store:
        yield store.run()


def literal(run: RunView, classifier: Classifier, M: np.ndarray, label: str) -> float:
    scores = M.astype(np.float64) @ classifier.weights.astype(np.float64).T
    labels = run.images.df()[label].astype(str)
    best = np.array(classifier.classes)[scores.argmax(1)]
    return float((best == labels.to_numpy()).mean())


def test_the_worlds_attributes_are_classified(world: RunView) -> None:
    counts = dict(enumerate(COUNTS, start=1))
    for label, classes, least in (
        ("label", SHAPES, 0.5),
        ("background", BACKGROUNDS, 0.9),
        ("count", counts, 0.5),
    ):
        template = {"count": "{} objects", "background": "an object on {}"}.get(label)
        made = world.classifier(classes, template)
        found = world.accuracy(made, label=label)
        wanted = literal(world, made, world.representation().values, label)
        assert found.overall == wanted
        assert found.overall > least, f"{label}: {found.overall:.3f}, chance is far less"


def test_accumulated_ablation_is_one_call(world: RunView) -> None:
    import matplotlib.pyplot as plt

    made = world.classifier(SHAPES)
    curve = world.ablation_curve(made)
    layers = world._run.shape.layers
    assert curve["layers"].tolist() == list(range(layers + 1))
    assert list(curve["component"]) == [None, *(f"L{layer}.ATTN" for layer in range(layers))]
    for count in (0, 1, layers):
        ablate = f"attn[:{count}]" if count else ()
        wanted = world.accuracy(made, ablate=ablate).overall
        assert curve["accuracy"][count] == wanted, f"after {count} layers"
    early, last = curve["accuracy"][2], curve["accuracy"][layers]
    assert curve["accuracy"][0] - early < 0.1, f"the first two layers cost {1 - early:.2f}"
    assert curve["accuracy"][0] - last > 0.4, f"all layers leave {last:.2f}"
    assert len(curve.plot().lines) == 2
    assert list(world.ablation_curve(made, kind="mlp")["component"])[1] == "L0.MLP"
    with pytest.raises(BadQuestion, match="choose one of attn, mlp"):
        world.ablation_curve(made, kind="head")  # pyright: ignore[reportArgumentType]
    plt.close("all")


def test_the_tables_are_one_call(world: RunView) -> None:
    made = world.classifier(BACKGROUNDS, "an object on {}")
    table = world.ablation_table(made, label="background", by="label")
    sets: dict[str, object] = {"base": (), "mlp": "mlp", "cls": "cls-token"}
    wanted: list[Accuracy] = [
        world.accuracy(made, label="background", by="label", ablate=one)
        for one in ((), "mlp", "cls-token", ["cls-token", "mlp"])
    ]
    assert list(table["accuracy"]) == [one.overall for one in wanted]
    assert list(table["worst_group"]) == [one.worst_group for one in wanted]
    lost = table["accuracy"][0] - table["accuracy"][1]
    assert lost < 0.05, f"all MLPs cost {lost:.3f} of background accuracy"
    own = world.ablation_table(made, sets, label="background")
    assert list(own["ablation"]) == list(sets)
    assert json.loads(own.arrow().to_pandas().to_json())["components"]["2"] == "cls-token"
    listed = world.ablation_table(made, ["mlp", ["cls-token", "mlp[:2]"]], label="background")
    assert list(listed["ablation"]) == ["mlp", "cls-token, mlp[:2]"]
    assert list(listed["components"]) == list(listed["ablation"])
    assert listed["accuracy"][0] == own["accuracy"][1]
    with pytest.raises(BadQuestion, match="names no ablation"):
        world.ablation_table(made, {})


def test_an_ablation_is_told_as_it_was_asked_for(world: RunView) -> None:
    made = world.classifier(BACKGROUNDS, "an object on {}")
    kinds = world.accuracy(made, label="background", ablate=["mlp", "L7.ATTN"])
    assert "ablated to their means: mlp, L7.ATTN\n" in f"{kinds}\n"
    assert kinds.ablated[0] == "L0.MLP"
    head = world.accuracy(made, label="background", ablate="L7.H0", draws=1)
    assert "best of 1 draw of 1 random head:" in str(head)
    one = world.accuracy(made, label="background", where="row = 3")
    assert "of 1 image, " in str(one)


@pytest.mark.parametrize("given", [["circle", "star"], "circle", None])
def test_what_is_no_classifier_is_named(world: RunView, given: Any) -> None:
    asks = (world.accuracy, world.ablation_table, world.ablation_curve, world.reconstruction)
    for ask in (*asks, lambda c: world.spurious_heads(c, by="background")):
        with pytest.raises(BadQuestion, match=r"is no classifier; make one with clip\.classifier"):
            ask(given)
