"""Table 3.1 asked of a store, against open_clip's own forward passes in float64.

Numbers: accuracies are those of the literal passes, to the image, and what they come from to 5e-6
of ||M||; shares explained agree to 2e-3, lengths to 1e-4 of themselves.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from literal_interventions import Original

from lensbase.api import Store, open_store
from lensbase.api.classifier import Classifier
from lensbase.api.copying import copy_store
from lensbase.api.neuron_ablation import neuron_ablation
from lensbase.api.neuron_effects import neuron_effects
from lensbase.api.open_run import OpenRun
from lensbase.ingest.models import load_model
from lensbase.ingest.pictures_again import pictures_again
from lensbase.ingest.world.attributes import COLORS
from lensbase.schema.derived import derived_results
from lensbase.schema.errors import (
    BadAddress,
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    ExtraMissing,
    ImageFileMissing,
    NeuronsNotStored,
    UnknownColumn,
    UnknownComponent,
    WeightsNotFound,
)

F64 = npt.NDArray[np.float64]
LAYER = 0  # where colors depend most on the neurons
NEURONS = (3, 200, 511)
ADDRESSES = [f"L{LAYER}.N{number}" for number in NEURONS]
PLACES = np.arange(20, 150)  # more than the 100 largest that a direction is taken from


@pytest.fixture(scope="module")
def path(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("effects") / "s.lens"
    copytree(neuron_store, made, symlinks=True)
    return made


@pytest.fixture(scope="module")
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(store: Store) -> OpenRun:
    return inside(store)


@pytest.fixture(scope="module")
def colors(store: Store) -> Classifier:
    return store.run().classifier(list(COLORS))


def inside(store: Store) -> OpenRun:
    return store.run()._run  # pyright: ignore[reportPrivateUsage]


def share_right(run: OpenRun, M: F64, made: Classifier, rows: npt.NDArray[np.int64]) -> float:
    labels = run.query("SELECT color FROM images WHERE run = ? ORDER BY row")["color"][rows]
    guessed = [made.classes[place] for place in (M @ made.weights.T.astype(np.float64)).argmax(1)]
    return float(np.mean([a == b for a, b in zip(guessed, labels, strict=True)]))


def direct_map(visual: Any, images: torch.Tensor) -> tuple[F64, F64]:
    """sigma [B, 1] of the last norm as the network has it, and P^T (gamma * w_n) [N, E]."""
    double, seen = copy.deepcopy(visual).double(), list[torch.Tensor]()
    double.ln_post.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        double(images.double())
    final = seen[0] if seen[0].ndim == 2 else seen[0][:, 0]
    block = double.transformer.resblocks[LAYER]
    write = block.mlp.c_proj.weight.detach().numpy().T * getattr(block.ls_2, "gamma", 1.0)
    gamma, projection = double.ln_post.weight.detach().numpy(), double.proj.detach().numpy()
    return np.sqrt(final.numpy().var(1, keepdims=True) + 1e-5), (gamma * write) @ projection


def explained(effects: F64) -> float:
    """The first component's share of the 100 largest mean-subtracted effects [K, E]."""
    centered = effects - effects.mean(0)
    largest = np.argsort(-np.linalg.norm(centered, axis=1), kind="stable")[:100]
    energy = np.linalg.svd(centered[largest], compute_uv=False) ** 2
    return float(energy[0] / energy.sum())


@pytest.mark.slow
def test_the_table_is_that_of_literal_forward_passes(run: OpenRun, colors: Classifier) -> None:
    model = load_model("world")
    keys = [row["key"] for row in run.query("SELECT key FROM images WHERE run = ? ORDER BY row")]
    batches = pictures_again(run.row, keys, preprocess=model.preprocess, batch_size=150)
    images = next(batches).images
    everything = Original(model.visual, images)
    hidden = everything.activations(LAYER)
    means = hidden.mean(0)
    sigma, written = direct_map(model.visual, images)
    direct = (hidden[:, 0] / sigma) @ written
    chosen = Original(model.visual, images[PLACES])
    M = chosen.representation()
    found = neuron_effects(
        run, colors, layer=LAYER, neurons=ADDRESSES, label="color", where=f"row >= {PLACES[0]}"
    )
    assert found.columns == ["effect", "accuracy", "baseline", "explained_variance"]
    assert list(found["effect"]) == ["first-order", "second-order", "indirect"]
    stored = run.neurons.array("neuron_sum").read(PLACES, LAYER).astype(np.float64)
    after = {
        "first-order": M - direct[PLACES] + direct.mean(0),
        "second-order": M - stored + run.neurons.mean[LAYER].astype(np.float64).sum(0),
        "indirect": chosen.replaced(LAYER, slice(None), means=means),
    }
    for row in found:
        wanted = share_right(run, after[row["effect"]], colors, PLACES)
        assert abs(row["accuracy"] - wanted) < 1e-9, f"{row['effect']}: {wanted} literally, {row}"
        assert abs(row["baseline"] - share_right(run, M, colors, PLACES)) < 1e-9
    (kept,) = (
        one.rows.to_pydict()
        for one in derived_results(run.layout, "neuron_effect_image")
        if one.rows is not None and one.parameters["layer"] == LAYER and one.rows.num_rows == 130
    )
    assert kept["row"] == PLACES.tolist()
    # Rounding in float32, of numbers that are summed to the length of M(I).
    length = np.linalg.norm(M, axis=1, keepdims=True)
    for name, wanted in (
        ("ablated", after["indirect"]),
        ("first_order", direct[PLACES] - direct.mean(0)),
    ):
        off = np.abs(np.asarray(kept[name]) - wanted) / length
        assert off.max() < 5e-6, f"{name}: {off.max():.1e} of ||M||"
    moved = float(np.ptp(found["accuracy"]))
    assert moved > 0.1, f"accuracies differ by {moved:.2f} at most: nothing was compared"
    effects = [M - chosen.replaced(LAYER, [neuron], means=means) for neuron in NEURONS]
    table = found.neurons
    assert list(table["component"]) == ADDRESSES
    shares = [explained(each) for each in effects]
    np.testing.assert_allclose(table["indirect_explained"], shares, atol=2e-3)
    assert abs(found["explained_variance"][2] - np.mean(shares)) < 2e-3
    lengths = [np.linalg.norm(each, axis=1).mean() for each in effects]
    np.testing.assert_allclose(table["indirect_norm"], lengths, rtol=1e-4)
    first = (hidden[:, 0] / sigma)[PLACES][:, NEURONS, None] * written[list(NEURONS)]
    np.testing.assert_allclose(
        table["direct_norm"], np.linalg.norm(first, axis=2).mean(0), rtol=1e-4
    )
    for each in range(len(NEURONS)):
        assert explained(first[:, each]) > 1 - 1e-9, "a first-order effect has one direction"
    second = run.neurons.explained[LAYER, list(NEURONS)]
    np.testing.assert_allclose(table["second_order_explained"], second, rtol=1e-6)
    np.testing.assert_allclose(found["explained_variance"][:2], [1, second.mean()], rtol=1e-6)
    assert found.note == (
        "layer 0, 3 neurons; means are over the 150 reference images of the run, as is the "
        "variance explained of second-order effects; that of indirect ones is over 130 images"
    )


def test_an_answer_is_kept_for_readers_without_model_and_pictures(
    path: Path, run: OpenRun, colors: Classifier, tmp_path: Path
) -> None:
    question: dict[str, Any] = {"layer": 4, "neurons": 5, "images": [3, 9, 40], "label": "color"}
    first = neuron_effects(run, colors, **question)
    moved = tmp_path / "moved.lens"
    copytree(path, moved, symlinks=True)
    script = f"""
import sys
sys.modules["torch"] = None
from lensbase.api import open_store
from lensbase.api.neuron_effects import neuron_effects
with open_store({str(moved)!r}) as store:
    run = store.run()
    colors = run.classifier({list(COLORS)!r})
    again = neuron_effects(run._run, colors, **{question!r})
    print(again.rows(), again.neurons.rows())
    try:
        neuron_effects(run._run, colors, **{question | {"neurons": 6}!r})
    except ImportError as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same, other = done.stdout.splitlines()
    assert same == f"{first.rows()} {first.neurons.rows()}"
    assert other.startswith(f"{ExtraMissing.__name__} the model of run 'r' is needed to measure")
    assert "pip install lensbase[ingest]" in other
    # Another classifier asks of the same measurement.
    labels = {color: f"a {color} thing" for color in COLORS}
    with open_store(path) as fresh:
        again = inside(fresh)
        found = neuron_effects(again, fresh.run().classifier(labels), **question)
    assert list(found.neurons["indirect_norm"]) == list(first.neurons["indirect_norm"])


def test_second_order_accuracy_is_that_of_the_layer_experiment(
    run: OpenRun, colors: Classifier
) -> None:
    question: dict[str, Any] = {"label": "color", "where": "row < 30"}
    layer = neuron_ablation(run, colors, layers=LAYER, **question)
    found = neuron_effects(run, colors, layer=LAYER, neurons=2, **question)
    assert found["baseline"].tolist() == [layer["accuracy"][0]] * 3
    assert found["accuracy"][1] == layer["accuracy"][1]


def test_neurons_are_drawn_by_a_seed_or_named(run: OpenRun, colors: Classifier) -> None:
    ask: Any = lambda neurons, **more: list(  # noqa: E731
        neuron_effects(
            run, colors, layer=6, neurons=neurons, images=[1, 2], label="color", **more
        ).neurons["component"]
    )
    drawn = ask(8, seed=1)
    assert len(set(drawn)) == 8
    assert drawn == sorted(drawn, key=lambda one: int(one.removeprefix("L6.N")))
    assert ask(8, seed=1) == drawn
    assert ask(8, seed=2) != drawn
    assert ask(["L6.N9", "r:L6.N2", "L6.N9"]) == ["L6.N2", "L6.N9"]
    assert ask("L6.N4") == ["L6.N4"]


def test_images_may_be_named_twice_and_in_any_order(run: OpenRun, colors: Classifier) -> None:
    ask: Any = lambda images: neuron_effects(  # noqa: E731
        run, colors, layer=LAYER, neurons=2, images=images, label="color"
    )["accuracy"]
    one, two = ask([5]), ask([31])
    np.testing.assert_allclose(ask([31, 5, 31]), (one + 2 * two) / 3, atol=1e-12)


def test_the_plot_has_bars_and_the_accuracy_before(run: OpenRun, colors: Classifier) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    found = neuron_effects(run, colors, layer=LAYER, neurons=2, images=[5, 6], label="color")
    ax = found.plot()
    heights = [bar.get_height() for bar in ax.patches]  # pyright: ignore
    np.testing.assert_allclose(heights, [*found["accuracy"], *found["explained_variance"]])
    assert [line.get_linestyle() for line in ax.get_lines()] == ["--"]
    assert [text.get_text() for text in ax.get_xticklabels()] == list(found["effect"])
    with pytest.raises(BadQuestion, match="ask the whole one"):
        assert getattr(found[:1], "neurons")  # noqa: B009


def test_pictures_that_have_gone_or_changed_are_named(
    path: Path, scenes: Path, colors: Classifier, tmp_path: Path
) -> None:
    question: dict[str, Any] = {"layer": 5, "neurons": 1, "images": [0], "label": "color"}
    folder = tmp_path / "scenes"
    copytree(scenes, folder)
    with open_store(path, image_root=folder) as store:
        run = inside(store)
        (key,) = (row["key"] for row in run.query("SELECT key FROM images WHERE run = ?")[:1])
        (folder / key).rename(folder / "elsewhere.png")
        with pytest.raises(ImageFileMissing, match=r"cannot be read again from .*image_root="):
            neuron_effects(run, colors, **question)
        other = next(file for file in sorted(folder.rglob("*.png")) if file.name != "elsewhere.png")
        (folder / key).write_bytes(other.read_bytes())
        with pytest.raises(ImageFileMissing, match="is another than was ingested"):
            neuron_effects(run, colors, **question)
        (folder / "elsewhere.png").replace(folder / key)
        assert len(neuron_effects(run, colors, **question)) == 3


def test_a_model_that_is_not_at_hand_is_named(
    path: Path, colors: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(path) as store:
        run = inside(store)
        monkeypatch.setitem(run.texts._run, "model_source", "module")  # type: ignore[index]
        with pytest.raises(WeightsNotFound, match=r"a module in memory.*the answer is kept"):
            neuron_effects(run, colors, layer=5, neurons=3, images=[7], label="color")


def test_a_copy_without_the_reference_images_is_asked_what_it_can_answer(
    neuron_store: Path, colors: Classifier, tmp_path: Path
) -> None:
    """Stored means hold for any image; those of forward passes need the original's images."""
    where = "background = 'water'"
    copy = copy_store(neuron_store, tmp_path / "copy.lens", where=where)
    with open_store(neuron_store) as whole, open_store(copy) as part:
        question: dict[str, Any] = {"layers": [LAYER, 5], "shuffles": 2, "label": "color"}
        there = neuron_ablation(inside(whole), colors, where=where, **question)
        here = neuron_ablation(inside(part), colors, **question)
        assert here.rows() == there.rows()
        assert there.note is not None
        assert "over the 150 reference images of the run" in there.note
        assert here.note is not None
        assert "over the original's 150 reference images" in here.note
        with pytest.raises(BadQuestion, match="ask the store that it was copied from"):
            neuron_effects(inside(part), colors, layer=LAYER, label="color")


def test_wrong_questions_are_named_errors(
    world_store: Path, run: OpenRun, colors: Classifier
) -> None:
    ask: Any = neuron_effects
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (BadQuestion, {"layer": None}),
        (BadQuestion, {"layer": [1, 2]}),
        (NeuronsNotStored, {"layer": 7}),
        (BadQuestion, {"neurons": 0}),
        (BadQuestion, {"neurons": 2.5}),
        (BadQuestion, {"neurons": []}),
        (BadQuestion, {"neurons": [3, 4]}),
        (BadQuestion, {"neurons": ["L4.N1"]}),
        (BadAddress, {"neurons": ["L3.H1"]}),
        (UnknownComponent, {"neurons": ["L3.N512"]}),
        (BadQuestion, {"seed": -1}),
        (UnknownColumn, {"label": "species"}),
        (BadSelection, {"where": "row < 0"}),
    ]
    for error, question in wrong:
        with pytest.raises(error):
            ask(run, colors, **({"layer": 3, "label": "color"} | question))
    other = Classifier(colors.classes, colors.weights, [], "00" * 32, colors.names)
    with pytest.raises(ClassifierMismatch):
        ask(run, other, layer=3, label="color")
    with open_store(world_store) as without, pytest.raises(NeuronsNotStored, match="--neurons"):
        ask(inside(without), colors, layer=3, label="color")
