"""Effects of a layer's neurons added up, with and without the norms' constants; batches of neurons.

Everything of a run stored in float32 against effects formed one by one in float64: to 1e-4 of the
largest number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import literal_second_order as literal
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from stored_neurons import StoredNeurons
from world_store import FEW, ingest_scenes

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.ingest.models import load_model
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    NeuronsNotStored,
    UnknownComponent,
    UnknownImage,
)

F64 = npt.NDArray[np.float64]
SCENES, LAYERS, N = 24, (3, 6), 512
ROWS = (20, 3, 11)
LIMIT = 1e-4


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    write_scenes(folder, count=SCENES, seed=6)
    options: dict[str, Any] = FEW | {"neurons": LAYERS, "reference": None, "storage": "float32"}
    assert ingest_scenes(folder, folder / "s.lens", **options).complete
    return folder / "s.lens"


@pytest.fixture(scope="module")
def clip(path: Path) -> RunView:
    return open_store(path).run()


@pytest.fixture(scope="module")
def passes(path: Path, clip: RunView) -> list[literal.Pass]:
    """Every image by row, through the tower in float64."""
    model = load_model("world")
    keys = [row["key"] for row in sorted(clip.images.rows(), key=lambda one: one["row"])]
    pictures = [Image.open(path.parent / key).convert("RGB") for key in keys]
    return [literal.run(model.visual, model.preprocess(picture)) for picture in pictures]


def ids(clip: RunView, rows: tuple[int, ...]) -> list[int]:
    return [row["image_id"] for place in rows for row in clip.images if row["row"] == place]


def off(found: Any, wanted: Any) -> float:
    """The largest difference, relative to the largest number that was wanted."""
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())


def test_the_sum_is_that_of_all_neurons_formed_one_by_one(
    clip: RunView, passes: list[literal.Pass]
) -> None:
    image, layer = ids(clip, (7,)), LAYERS[1]
    effects = [literal.effect(passes[7], layer, neuron) for neuron in range(N)]
    share = literal.constant_share(passes[7], layer)
    plain, shared = clip.neuron_sum(layer, image), clip.neuron_sum(layer, image, bias="shared")
    assert off(plain.values[0], np.sum(effects, axis=0)) < LIMIT
    assert off(shared.values[0], np.sum([one + share for one in effects], axis=0)) < LIMIT


@pytest.mark.parametrize("layer", LAYERS)
def test_sums_of_chosen_images_are_in_their_order(
    clip: RunView, passes: list[literal.Pass], layer: int
) -> None:
    """A sum is what the MLP wrote, less its output bias, sent through later heads."""
    wanted = np.array([
        literal.through_later_heads(
            passes[row],
            layer,
            passes[row].output[layer] - literal.output_bias(passes[row], layer),
        )
        for row in ROWS
    ])  # fmt: skip
    shares = np.array([literal.constant_share(passes[row], layer) for row in ROWS])
    moved = off(wanted + N * shares, wanted)
    assert moved > 100 * LIMIT, f"the constants are {moved:.1e} of the sum: nothing was compared"
    chosen = ids(clip, ROWS)
    for bias, expected in ((None, wanted), ("shared", wanted + N * shares)):
        found = clip.neuron_sum(layer, [*chosen, chosen[0]], bias=bias)  # type: ignore[arg-type]
        assert found.values.dtype == np.float32
        np.testing.assert_array_equal(found.image_ids, [*chosen, chosen[0]])
        assert off(found.values[:3], expected) < LIMIT
        np.testing.assert_array_equal(found.values[3], found.values[0])
        some = clip.neuron_sum(layer, where="row = 11", bias=bias)  # type: ignore[arg-type]
        np.testing.assert_array_equal(some.values, found.values[2:3])
    assert clip.neuron_sum(layer).shape == (SCENES, wanted.shape[1])


@pytest.mark.parametrize(("layer", "neuron"), [(3, 40), (6, 500)])
def test_a_reconstruction_is_its_first_component_with_or_without_the_share(
    clip: RunView, passes: list[literal.Pass], layer: int, neuron: int
) -> None:
    """The reference set is all images, and fewer than the hundred that a direction is from."""
    effects = np.array([literal.effect(one, layer, neuron) for one in passes])
    shares = np.array([literal.constant_share(one, layer) for one in passes])
    mean = effects.mean(0)
    *_, axes = np.linalg.svd(effects - mean)
    wanted = (effects - mean) @ np.outer(axes[0], axes[0]) + mean
    view, chosen, rows = clip.neuron(f"L{layer}.N{neuron}"), ids(clip, ROWS), list(ROWS)
    assert off(view.reconstruction(chosen), wanted[rows]) < LIMIT
    shared = view.reconstruction(chosen, bias="shared")
    assert off(shared, (wanted + shares)[rows]) < LIMIT
    np.testing.assert_array_equal(shared.image_ids, chosen)
    moved = off((wanted + shares)[rows], wanted[rows])
    assert moved > 100 * LIMIT, f"the share is {moved:.1e} of the effect: nothing was compared"


def test_shares_of_all_neurons_add_up_to_those_of_the_sum(clip: RunView) -> None:
    chosen = ids(clip, ROWS)
    for layer in LAYERS:
        of_sum = clip.neuron_sum(layer, chosen, bias="shared").values.astype(np.float64)
        of_sum -= clip.neuron_sum(layer, chosen).values
        one = clip.neuron(f"L{layer}.N9")
        of_one = one.reconstruction(chosen, bias="shared").values.astype(np.float64)
        of_one -= one.reconstruction(chosen).values
        assert off(N * of_one, of_sum) < LIMIT


def test_wrong_questions_are_named_errors(clip: RunView, world_store: Path) -> None:
    ask: Any = clip.neuron_sum
    for bias in ("split", "", True, False, 1, ["shared"]):
        with pytest.raises(BadQuestion, match="says nothing of the norms' constants"):
            ask(3, bias=bias)
        with pytest.raises(BadQuestion, match="says nothing of the norms' constants"):
            clip.neuron("L3.N0").reconstruction(bias=bias)  # type: ignore[arg-type]
    for layer in (None, "3", [3, 6], 2.5):
        with pytest.raises(BadQuestion):
            ask(layer)
    for layer in (4, 7):
        with pytest.raises(NeuronsNotStored):
            ask(layer)
    with pytest.raises(UnknownComponent, match="its layers are 0 to 7"):
        ask(12)
    with pytest.raises(UnknownImage):
        ask(3, [10_000])
    with pytest.raises(BadSelection):
        ask(3, where="nonsense >")
    with open_store(world_store) as without, pytest.raises(NeuronsNotStored, match="--neurons"):
        without.run().neuron_sum(3)


# Batches


@pytest.mark.parametrize("size", [1, 7, 100])
def test_batches_of_neurons_are_all_images_in_pieces(path: Path, clip: RunView, size: int) -> None:
    stored = StoredNeurons(path)
    order = np.argsort(stored.image_ids)
    names = [f"L{layer}.N{neuron}" for layer in LAYERS for neuron in range(N)]
    for kind in ("neuron_norm", "neuron_coefficient"):
        parts = list(clip.batches(kind, size=size))
        assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
        assert all(part.components == names for part in parts)
        found = np.concatenate([part.values for part in parts])
        np.testing.assert_array_equal(found, stored.array(kind).reshape(SCENES, -1)[order])
        image_ids = np.concatenate([np.asarray(part.image_ids) for part in parts])
        np.testing.assert_array_equal(image_ids, stored.image_ids[order])
    (norms,) = clip.batches("neuron_norm")
    activity = clip.neuron("L6.N41").activity().values[:, 0]
    np.testing.assert_array_equal(norms.df()["L6.N41"], activity)
