"""Layer experiments (Figure 3.3) asked of a store, against formulas in float64 and formed effects.

Numbers: accuracies are those of a float64 computation from the stored arrays, to the image;
representations those of literally formed effects to 2e-3 of their length (float16 is stored).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import literal_second_order as literal
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbase.api import Store, open_store
from lensbase.api.classifier import Classifier
from lensbase.api.neuron_ablation import Large, NeuronAblation, neuron_ablation
from lensbase.api.neuron_changes import (
    AlongDirections,
    LayerEffects,
    MeanAblation,
    TopAblation,
    TopImages,
    _top_of_blocks,  # pyright: ignore[reportPrivateUsage]
)
from lensbase.api.open_run import OpenRun
from lensbase.ingest.models import LoadedModel, load_model
from lensbase.ingest.pictures_again import pictures_again
from lensbase.ingest.world.attributes import COLORS
from lensbase.schema.components import Neuron
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    NeuronsNotStored,
    UnknownColumn,
    UnknownComponent,
)

F64 = npt.NDArray[np.float64]
CONDITIONS = ["w/o all neurons", "w/o large norm", "w/o small norm", "x r + b"]
IMAGES = 150


@pytest.fixture(scope="module")
def store(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("ablation") / "s.lens"
    copytree(neuron_store, path, symlinks=True)
    with open_store(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(store: Store) -> OpenRun:
    return store.run()._run  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="module")
def colors(store: Store) -> Classifier:
    return store.run().classifier(list(COLORS))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("world")


def stored(run: OpenRun, name: str, layer: int) -> F64:
    """A row array of a layer's neurons, all rows, in float64."""
    rows = np.arange(IMAGES)
    return run.neurons.array(f"neuron_{name}").read(rows, layer).astype(np.float64)


def by_hand(run: OpenRun, layer: int, large: Large, *, top: int = 100) -> dict[str, F64]:
    """M [K, d'] under each condition, neuron by neuron where that says it plainest."""
    M = run.arrays["representation"].read(np.arange(IMAGES)).astype(np.float64)
    r = run.neurons.direction[layer].astype(np.float64)
    b = run.neurons.mean[layer].astype(np.float64)
    x, norm = stored(run, "coefficient", layer), stored(run, "norm", layer)
    total = stored(run, "sum", layer)
    if large == "percentile":
        of_large, mean_large = stored(run, "sum_large", layer), stored(run, "mean_large", layer)
        change = mean_large - of_large
    else:
        change = np.zeros_like(M)
        for neuron in range(len(r)):
            for row in np.argsort(-norm[:, neuron], kind="stable")[:top]:
                change[row] -= x[row, neuron] * r[neuron]
    without = M - total + b.sum(0)
    return {
        "baseline": M,
        "w/o all neurons": without,
        "w/o large norm": M + change,
        "w/o small norm": without - change,
        "x r + b": without + x @ r,
    }


def truth(store: Store, column: str) -> list[str]:
    images = store.run().images.df().query("status == 'ok'").sort_values("row")
    return images[column].tolist()


def share_right(M: F64, made: Classifier, labels: list[str]) -> float:
    guessed = [made.classes[place] for place in (M @ made.weights.T.astype(np.float64)).argmax(1)]
    return float(np.mean([a == b for a, b in zip(guessed, labels, strict=True)]))


@pytest.mark.parametrize(("large", "top"), [("percentile", 100), ("top", 100), ("top", 7)])
def test_accuracies_are_those_of_the_formulas(
    store: Store, run: OpenRun, colors: Classifier, large: Large, top: int
) -> None:
    found = neuron_ablation(run, colors, large=large, top=top, label="color")
    assert found.columns == ["layer", "component", "condition", "accuracy"]
    labels = truth(store, "color")
    rows = {(row["layer"], row["condition"]): row["accuracy"] for row in found}
    assert next(iter(rows)) == (None, "baseline")
    assert list(rows)[1:] == [(layer, name) for layer in range(7) for name in CONDITIONS]
    assert rows[None, "baseline"] == float(store.run().accuracy(colors, label="color"))
    off: list[str] = []
    for layer in range(7):
        for name, M in by_hand(run, layer, large, top=top).items():
            wanted = share_right(M, colors, labels)
            ours = rows[None if name == "baseline" else layer, name]
            if abs(ours - wanted) > 1e-9:
                off.append(f"layer {layer}, {name}: {ours}, by hand {wanted}")
    assert not off, "\n".join(off)
    spread = max(rows.values()) - min(rows.values())
    assert spread > 0.2, f"the accuracies differ by {spread:.2f} at most: nothing was compared"


@torch.inference_mode()
def test_representations_are_those_of_formed_effects(run: OpenRun, model: LoadedModel) -> None:
    """Every phi_n(I) of a layer formed token by token and head by head, for two images."""
    layer, rows = 6, np.array([11, 12])
    keys = [row["key"] for row in run.query("SELECT key FROM images WHERE run = ? ORDER BY row")]
    (batch,) = pictures_again(run.row, [keys[row] for row in rows], preprocess=model.preprocess)
    effects = LayerEffects(run, layer)
    b, r = (each[layer].astype(np.float64) for each in (run.neurons.mean, run.neurons.direction))
    M = run.arrays["representation"].read(rows)
    top = TopImages(effects, 100)
    changes: dict[str, Any] = {
        "all": MeanAblation(effects, "all"),
        "large": MeanAblation(effects, "large"),
        "small": MeanAblation(effects, "small"),
        "along": AlongDirections(effects, effects.directions),
        "top large": TopAblation(effects, top, "large"),
        "top small": TopAblation(effects, top, "small"),
    }
    ours = {name: one.apply(M, rows, out=np.empty_like(M)) for name, one in changes.items()}
    for place, row in enumerate(rows):
        seen = literal.run(model.visual, batch.images[place])
        phi = np.array([literal.effect(seen, layer, n) for n in range(run.neurons.count)])
        large = np.linalg.norm(phi, axis=1) > run.neurons.threshold[layer]
        x = ((phi - b) * r).sum(1)
        in_top = np.zeros(len(phi), np.bool_)
        for neuron in range(len(phi)):
            found = run.neurons.top(run.neurons.find(str(Neuron(layer, neuron))))
            assert found is not None
            in_top[neuron] = row in found[0][:100]
        assert 0 < in_top.sum() < len(phi)
        estimate = (x[:, None] * r)[in_top].sum(0)
        wanted = {
            "all": M[place] - phi.sum(0) + b.sum(0),
            "large": M[place] - (phi - b)[large].sum(0),
            "small": M[place] - (phi - b)[~large].sum(0),
            "along": M[place] - phi.sum(0) + b.sum(0) + x @ r,
            "top large": M[place] - estimate,
            "top small": M[place] - phi.sum(0) + b.sum(0) + estimate,
        }
        for name, expected in wanted.items():
            error = np.linalg.norm(ours[name][place] - expected) / np.linalg.norm(expected)
            assert error < 2e-3, f"row {row}, {name}: off by {error:.1e} of its length"
        moved = np.linalg.norm(wanted["all"] - M[place]) / np.linalg.norm(M[place])
        assert moved > 0.05, f"all effects together are {moved:.1e} of M: nothing was compared"


@settings(max_examples=25)
@given(
    rows=st.lists(st.integers(0, IMAGES - 1), min_size=1, max_size=12),
    layer=st.integers(0, 6),
    count=st.sampled_from([1, 40, 150]),
)
def test_large_and_small_make_up_the_whole(
    run: OpenRun, rows: list[int], layer: int, count: int
) -> None:
    """What is lost without large effects and without small ones is lost without any: M + M_all =
    M_large + M_small; and rows, in any order and twice, are as if each was asked for alone.
    """
    effects, chosen = LayerEffects(run, layer), np.array(rows)
    M = run.arrays["representation"].read(chosen)

    def applied(change: Any, part: slice = slice(None)) -> F64:
        out = np.full((len(rows) + 3, M.shape[1]), np.nan, np.float32)
        found = change.apply(M[part], chosen[part], out=out)
        np.testing.assert_array_equal(found, out[: len(chosen[part])])
        return found.astype(np.float64)

    top = TopImages(effects, count)
    everything = applied(MeanAblation(effects, "all"))
    for large, small in (
        (MeanAblation(effects, "large"), MeanAblation(effects, "small")),
        (TopAblation(effects, top, "large"), TopAblation(effects, top, "small")),
    ):
        error = np.abs(applied(large) + applied(small) - M - everything).max()
        assert error < 2e-5, f"off by {error:.1e}"
        alone = [applied(small, slice(place, place + 1))[0] for place in range(len(rows))]
        np.testing.assert_allclose(applied(small), alone, atol=2e-5)
    if count == IMAGES:
        along = applied(AlongDirections(effects, effects.directions))
        np.testing.assert_allclose(applied(TopAblation(effects, top, "small")), along, atol=2e-5)


@pytest.mark.parametrize("count", [1, 100, 150, 300])
def test_top_images_are_those_of_the_norms(run: OpenRun, count: int) -> None:
    """From the norms image by image, as for more than are listed: as listed, ties by row."""
    effects = LayerEffects(run, 3)
    norm = stored(run, "norm", 3)
    ours = _top_of_blocks(effects, count)
    wanted = np.argsort(-norm, axis=0, kind="stable")[:count].T
    np.testing.assert_array_equal(ours, wanted)
    for neuron in (0, 77, 511):
        found = run.neurons.top(run.neurons.find(f"L3.N{neuron}"))
        assert found is not None
        np.testing.assert_array_equal(found[0][:count], wanted[neuron])


def test_shuffled_directions_are_the_mean_of_draws(
    store: Store, run: OpenRun, colors: Classifier
) -> None:
    ask: Any = lambda **more: neuron_ablation(run, colors, label="color", layers=0, **more)  # noqa: E731
    found = ask(shuffles=4, seed=5)
    assert list(found["condition"][1:]) == [*CONDITIONS, "x r' + b, r shuffled"]
    hand, random = by_hand(run, 0, "percentile"), np.random.default_rng(5)
    x, r = stored(run, "coefficient", 0), run.neurons.direction[0]
    shares = [
        share_right(
            hand["w/o all neurons"] + x @ random.permutation(r).astype(np.float64),
            colors,
            truth(store, "color"),
        )
        for _ in range(4)
    ]
    assert abs(found["accuracy"][-1] - np.mean(shares)) < 1e-9
    np.testing.assert_array_equal(found["accuracy"], ask(shuffles=4, seed=5)["accuracy"])
    own, shuffled = found["accuracy"][4:6]
    assert own - shuffled > 0.2, f"own directions {own}, shuffled ones {shuffled}"
    assert "with r shuffled, accuracy is the mean over 4 draws (seed 5)" in found.note


def test_groups_layers_and_images_are_chosen_as_for_accuracy(
    store: Store, run: OpenRun, colors: Classifier
) -> None:
    found = neuron_ablation(run, colors, label="color", layers=[5, 2], by="background")
    assert found["layer"][1:].tolist() == [2] * 4 + [5] * 4
    base = store.run().accuracy(colors, label="color", by="background")
    assert found["worst_group"][0] == base.worst_group
    assert (found["worst_group"] <= found["accuracy"]).all()
    parts = [
        neuron_ablation(run, colors, label="color", layers=[2, 5], where=where)["accuracy"]
        for where in ("row < 60", "row >= 60")
    ]
    whole = (60 * parts[0] + 90 * parts[1]) / 150
    np.testing.assert_allclose(whole, found["accuracy"], atol=1e-12)
    twice = neuron_ablation(run, colors, label="color", layers=2, images=[0, 0, 1])
    assert set(np.round(twice["accuracy"] * 3).tolist()) <= {0, 1, 2, 3}


def test_the_notes_say_what_is_large(run: OpenRun, colors: Classifier) -> None:
    found = neuron_ablation(run, colors, label="color", layers=1)
    assert found.note == (
        "means are over the 150 reference images of the run; large is a norm above the neuron's "
        "98th percentile over them"
    )
    top = neuron_ablation(run, colors, label="color", layers=1, large="top", top=20)
    assert top.note is not None
    assert "each neuron's 20 images of largest norm in the run" in top.note


def test_the_plot_has_a_line_a_condition(run: OpenRun, colors: Classifier) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    found = neuron_ablation(run, colors, label="color", shuffles=1)
    lines = found.plot().get_lines()
    assert [line.get_label() for line in lines] == [
        "baseline",
        *CONDITIONS,
        "x r' + b, r shuffled",
    ]
    assert [line.get_linestyle() for line in lines] == ["--", *["-"] * 5]
    assert np.asarray(lines[1].get_xdata()).tolist() == list(range(7))
    part = found[:3]
    assert isinstance(part, NeuronAblation)
    assert [line.get_label() for line in part.plot().get_lines()] == ["baseline", *CONDITIONS[:2]]


def test_wrong_questions_are_named_errors(
    world_store: Path, run: OpenRun, colors: Classifier
) -> None:
    ask: Any = neuron_ablation
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (BadQuestion, {"large": "huge"}),
        (BadQuestion, {"large": "top", "top": 0}),
        (BadQuestion, {"shuffles": -1}),
        (BadQuestion, {"shuffles": 1.5}),
        (BadQuestion, {"seed": "one"}),
        (BadQuestion, {"layers": []}),
        (BadQuestion, {"layers": "last"}),
        (NeuronsNotStored, {"layers": 7}),
        (UnknownComponent, {"layers": [3, 70]}),
        (UnknownColumn, {"label": "species"}),
        (BadSelection, {"where": "row < 0"}),
    ]
    for error, question in wrong:
        with pytest.raises(error):
            ask(run, colors, **({"label": "color"} | question))
    with pytest.raises(BadQuestion, match=r"make one with clip\.classifier"):
        ask(run, ["red"], label="color")
    other = Classifier(colors.classes, colors.weights, [], "00" * 32, colors.names)
    with pytest.raises(ClassifierMismatch):
        ask(run, other, label="color")
    with open_store(world_store) as without:
        bare = without.run()._run  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(NeuronsNotStored, match="--neurons"):
            ask(bare, colors, label="color")
