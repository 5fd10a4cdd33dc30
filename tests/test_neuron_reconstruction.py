"""Neurons rebuilt from texts (Figure 3.4), against scikit-learn's pursuit in float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import orthogonal_mp

from lensbase.api import Store, open_store
from lensbase.api.classifier import Classifier
from lensbase.api.neuron_ablation import neuron_ablation
from lensbase.api.neuron_reconstruction import neuron_reconstruction
from lensbase.api.open_run import OpenRun
from lensbase.ingest.world.attributes import COLORS
from lensbase.ingest.world.pool import text_pool
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    NeuronsNotStored,
    UnknownColumn,
    UnknownPool,
)

F64 = npt.NDArray[np.float64]
BASES = ["baseline", "w/o all neurons", "x r + b"]
LAYER = 0  # where colors depend most on the neurons


@pytest.fixture(scope="module")
def store(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("reconstruction") / "s.lens"
    copytree(neuron_store, path, symlinks=True)
    with open_store(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(store: Store) -> OpenRun:
    return store.run()._run  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="module")
def colors(store: Store) -> Classifier:
    return store.run().classifier(list(COLORS))


def accuracy_along(store: Store, run: OpenRun, made: Classifier, directions: F64) -> float:
    """With every effect replaced by x_n r'_n + b_n, in float64 from the stored arrays."""
    rows, neurons = np.arange(150), run.neurons
    M, total, x = (
        array.read(rows, *at).astype(np.float64)
        for array, at in (
            (run.arrays["representation"], ()),
            (neurons.array("neuron_sum"), (LAYER,)),
            (neurons.array("neuron_coefficient"), (LAYER,)),
        )
    )
    changed = M - total + neurons.mean[LAYER].astype(np.float64).sum(0) + x @ directions
    images = store.run().images.df().query("status == 'ok'").sort_values("row")
    guessed = [
        made.classes[place] for place in (changed @ made.weights.T.astype(np.float64)).argmax(1)
    ]
    return float(np.mean([a == b for a, b in zip(guessed, images["color"], strict=True)]))


@pytest.mark.parametrize("center", [False, True])
def test_accuracies_are_those_of_sklearns_codes(
    store: Store, run: OpenRun, colors: Classifier, center: bool
) -> None:
    ms = (1, 4, 20)
    found = neuron_reconstruction(run, colors, layer=LAYER, ms=ms, center=center, label="color")
    assert found.columns == ["pool", "m", "accuracy"]
    assert list(found["pool"]) == [*BASES, *["scenes"] * 3]
    assert [row["m"] for row in found] == [None, None, None, *ms]
    atoms = run.texts.pool("scenes").vectors.astype(np.float64)
    if center:
        atoms = atoms - atoms.mean(0)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    r = run.neurons.direction[LAYER].astype(np.float64)
    for m, ours in zip(ms, found["accuracy"][3:], strict=True):
        codes = np.asarray(orthogonal_mp(atoms.T, r.T, n_nonzero_coefs=m))
        wanted = accuracy_along(store, run, colors, codes.reshape(len(atoms), -1).T @ atoms)
        assert abs(ours - wanted) < 1e-9, f"m = {m}: {ours}, with scikit-learn's codes {wanted}"
    base, without, along = found["accuracy"][:3]
    assert abs(along - accuracy_along(store, run, colors, r)) < 1e-9
    assert base - without > 0.1, f"{base} with, {without} without effects: nothing was compared"
    assert ("the pool's mean taken away" in str(found.note)) == center


def test_baselines_are_those_of_the_layer_experiment(run: OpenRun, colors: Classifier) -> None:
    found = neuron_reconstruction(run, colors, layer=3, ms=2, label="color")
    layer = neuron_ablation(run, colors, layers=3, label="color")
    by_name = dict(zip(layer["condition"], layer["accuracy"], strict=True))
    assert [by_name[name] for name in BASES] == found["accuracy"][:3].tolist()


def test_as_many_texts_as_there_are_give_the_direction_back(
    run: OpenRun, colors: Classifier
) -> None:
    """The pool spans the joint space, so codes of 64 texts and more are r_n itself."""
    found = neuron_reconstruction(run, colors, layer=LAYER, ms=(64, 128), label="color")
    rows = {(row["pool"], row["m"]): row["accuracy"] for row in found}
    assert rows.keys() == {*((name, None) for name in BASES), ("scenes", 64)}
    assert rows["scenes", 64] == rows["x r + b", None]
    assert found.note == (
        f"all neurons of layer {LAYER}, the texts those of the default pool 'scenes'; "
        "no neuron has more texts than 64 of scenes"
    )
    few = neuron_reconstruction(
        run, colors, layer=LAYER, pools={"few": ["a red circle", "water"]}, ms=[5], label="color"
    )
    assert [row["m"] for row in few] == [None, None, None, 2]
    assert few.note == f"all neurons of layer {LAYER}; no neuron has more texts than 2 of few"


def test_fewer_texts_are_those_of_a_question_of_their_own(run: OpenRun, colors: Classifier) -> None:
    ask: Any = lambda ms: neuron_reconstruction(run, colors, layer=2, ms=ms, label="color")  # noqa: E731
    several = ask((3, 16, 30))["accuracy"][3:]
    np.testing.assert_array_equal(several, [ask(m)["accuracy"][3] for m in (3, 16, 30)])


def test_pools_may_be_a_name_texts_or_an_array(
    store: Store, run: OpenRun, colors: Classifier
) -> None:
    texts = text_pool()
    vectors = store.run().encode_text(texts).values
    ask: Any = lambda pools: neuron_reconstruction(  # noqa: E731
        run, colors, layer=LAYER, pools=pools, ms=[2, 4], label="color"
    )
    expected = ask("scenes")["accuracy"]
    found = ask({"a list": texts, "vectors": vectors})
    assert list(found["pool"]) == [*BASES, "a list", "a list", "vectors", "vectors"]
    np.testing.assert_array_equal(found["accuracy"][3:5], expected[3:])
    np.testing.assert_array_equal(found["accuracy"][5:7], expected[3:])
    np.testing.assert_array_equal(ask(vectors)["accuracy"], expected)
    np.testing.assert_array_equal(ask(["scenes"])["accuracy"], expected)


def test_images_choose_whom_accuracy_is_over(run: OpenRun, colors: Classifier) -> None:
    ask: Any = lambda **more: neuron_reconstruction(  # noqa: E731
        run, colors, layer=LAYER, ms=[4], label="color", **more
    )["accuracy"]
    parts = [ask(where=where) for where in ("row < 60", "row >= 60")]
    np.testing.assert_allclose((60 * parts[0] + 90 * parts[1]) / 150, ask(), atol=1e-12)


def test_the_plot_has_a_line_a_pool_and_dashed_baselines(run: OpenRun, colors: Classifier) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    found = neuron_reconstruction(run, colors, layer=1, ms=(2, 6), label="color")
    lines = found.plot().get_lines()
    assert [line.get_label() for line in lines] == ["scenes", *BASES]
    assert [line.get_linestyle() for line in lines] == ["-", "--", "--", "--"]
    assert np.asarray(lines[0].get_xdata()).tolist() == [2, 6]


def test_wrong_questions_are_named_errors(
    world_store: Path, run: OpenRun, colors: Classifier
) -> None:
    ask: Any = neuron_reconstruction
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (BadQuestion, {"ms": []}),
        (BadQuestion, {"ms": [0, 5]}),
        (BadQuestion, {"ms": ["ten"]}),
        (BadQuestion, {"layer": None}),
        (BadQuestion, {"layer": [1, 2]}),
        (BadQuestion, {"layer": -1}),
        (BadQuestion, {"layer": "last"}),
        (BadQuestion, {"pools": {"baseline": "scenes"}}),
        (BadQuestion, {"pools": {}}),
        (NeuronsNotStored, {"layer": 7}),
        (UnknownPool, {"pools": "nouns"}),
        (UnknownPool, {"pools": ["red", "blue"]}),
        (UnknownColumn, {"label": "species"}),
        (BadSelection, {"where": "row < 0"}),
    ]
    for error, question in wrong:
        with pytest.raises(error):
            ask(run, colors, **({"layer": 3, "label": "color"} | question))
    other = Classifier(colors.classes, colors.weights, [], "00" * 32, colors.names)
    with pytest.raises(ClassifierMismatch):
        ask(run, other, layer=3, label="color")
    with open_store(world_store) as without:
        bare = without.run()._run  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(NeuronsNotStored, match="--neurons"):
            ask(bare, colors, layer=3, label="color")
