"""Words by directions of indirect effects (Table 3.3), against open_clip's passes in float64.

Numbers: directions are those of the SVD of hooked effects to a cosine of 1 - 1e-6, codes those of
scikit-learn with coefficients to 1e-6, scores the literal sum to 1e-5.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from literal_interventions import Original
from sklearn.linear_model import orthogonal_mp_gram
from stored_neurons import StoredNeurons
from world_store import FEW, ingest_scenes

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.ingest.models import load_model
from lensbase.ingest.pictures_again import pictures_again
from lensbase.ingest.pools import TextPool
from lensbase.ingest.world.attributes import COLORS
from lensbase.ingest.world.dataset import write_scenes
from lensbase.ingest.world.pool import text_pool
from lensbase.schema.errors import (
    BadAddress,
    BadQuestion,
    LensbaseError,
    NeuronsNotStored,
    UnknownComponent,
    UnknownRun,
)

F64 = npt.NDArray[np.float64]
SCENES, LAYER, M = 24, 5, 6
NEURONS = (3, 77, 200, 345, 511)
ADDRESSES = [f"L{LAYER}.N{number}" for number in NEURONS]
ASK: dict[str, Any] = {"m": M, "synonym": None, "templates": "{}", "k": 1000}
SHOWN, OTHER = "a red circle", "a blue square"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indirect")
    write_scenes(folder, count=SCENES, seed=5)
    pool = TextPool("scenes", tuple(text_pool()))
    options: dict[str, Any] = FEW | {"neurons": [LAYER], "reference": None, "pool": pool}
    assert ingest_scenes(folder, folder / "s.lens", **options).complete
    return folder / "s.lens"


@pytest.fixture(scope="module")
def clip(path: Path) -> RunView:
    return open_store(path).run()


@pytest.fixture(scope="module")
def stored(path: Path) -> StoredNeurons:
    return StoredNeurons(path)


@pytest.fixture(scope="module")
def directions(clip: RunView) -> dict[str, npt.NDArray[np.float32]]:
    colors = clip.classifier(list(COLORS))
    found = clip.neuron_effects(colors, layer=LAYER, neurons=ADDRESSES, label="color")
    with pytest.raises(BadQuestion, match="ask the whole one"):
        assert getattr(found[:1], "directions")  # noqa: B009
    return found.directions


def codes(stored: StoredNeurons, direction: F64, *, center: bool = False) -> F64:
    """scikit-learn's coefficients of one direction [M] over the pool's texts of unit length."""
    atoms = stored.centered if center else stored.pool
    atoms = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    return np.asarray(
        orthogonal_mp_gram(atoms @ atoms.T, atoms @ direction, n_nonzero_coefs=M), np.float64
    )


def difference(stored: StoredNeurons) -> F64:
    return stored.pool[stored.texts.index(OTHER)] - stored.pool[stored.texts.index(SHOWN)]


def test_directions_are_those_of_hooked_forward_passes(
    clip: RunView, directions: dict[str, npt.NDArray[np.float32]]
) -> None:
    model = load_model("world")
    run = clip._run  # pyright: ignore[reportPrivateUsage]
    keys = [row["key"] for row in clip.images]
    images = next(pictures_again(run.row, keys, preprocess=model.preprocess, batch_size=64)).images
    original = Original(model.visual, images)
    means, M_of = original.activations(LAYER).mean(0), original.representation()
    assert list(directions) == ADDRESSES
    for address, neuron in zip(ADDRESSES, NEURONS, strict=True):
        effects = M_of - original.replaced(LAYER, [neuron], means=means)
        centered = effects - effects.mean(0)  # fewer images than the hundred largest
        *_, axes = np.linalg.svd(centered, full_matrices=False)
        sign = np.sign(np.sign(centered @ axes[0]).sum()) or np.sign(directions[address] @ axes[0])
        found = directions[address].astype(np.float64)
        assert directions[address].dtype == np.float32
        assert abs(np.linalg.norm(found) - 1) < 1e-6
        cosine = float(found @ axes[0] * sign)
        assert cosine > 1 - 1e-6, f"{address}: 1 - {1 - cosine:.1e}"
        own = float(abs(found @ clip.neuron(address).direction))
        assert own < 0.999, f"{address}: cosine {own} with r_n; nothing was told apart"


def test_directions_are_kept_for_readers_without_a_model(
    path: Path, directions: dict[str, npt.NDArray[np.float32]]
) -> None:
    script = f"""
import sys
sys.modules["torch"] = None
from lensbase.api import open_store
with open_store({str(path)!r}) as store:
    clip = store.run()
    colors = clip.classifier({list(COLORS)!r})
    found = clip.neuron_effects(colors, layer={LAYER}, neurons={ADDRESSES!r}, label="color")
    print({{address: vector.tobytes().hex() for address, vector in found.directions.items()}})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wanted = {address: vector.tobytes().hex() for address, vector in directions.items()}
    assert done.stdout.strip() == str(wanted)


def test_a_neuron_whose_effect_never_varies_has_no_direction(clip: RunView) -> None:
    """Of one image, every effect is the mean."""
    colors = clip.classifier(list(COLORS))
    one = clip.neuron_effects(colors, layer=LAYER, neurons=2, images=[4], label="color")
    assert one.directions == {}
    assert len(one.neurons) == 2


@pytest.mark.parametrize("center", [False, True])
def test_codes_are_those_of_scikit_learn(
    clip: RunView,
    stored: StoredNeurons,
    directions: dict[str, npt.NDArray[np.float32]],
    center: bool,
) -> None:
    """One neuron's scores are its coefficients times one product."""
    v = difference(stored)
    for address, direction in directions.items():
        found = clip.spurious_texts(
            SHOWN, OTHER, directions={address: direction}, center=center, **ASK
        )
        wanted = codes(stored, direction.astype(np.float64), center=center)
        places = [stored.texts.index(text) for text in found["text"]]
        assert sorted(places) == np.flatnonzero(wanted).tolist()
        assert len(places) == M
        product = float(direction.astype(np.float64) @ v)
        np.testing.assert_allclose(found["score"] / product, wanted[places], rtol=1e-6)
        assert (np.diff(found["score"]) <= 0).all()
        assert set(found["neurons"]) == {1}


def test_scores_are_the_literal_sum_over_the_neurons_that_write_most_along_v(
    clip: RunView, stored: StoredNeurons, directions: dict[str, npt.NDArray[np.float32]]
) -> None:
    v = difference(stored)
    exact = {address: one.astype(np.float64) for address, one in directions.items()}
    products = {address: float(one @ v) for address, one in exact.items()}
    best = sorted(products, key=lambda one: -abs(products[one]))
    for count in (1, 3, 5, 100):
        parts = [codes(stored, exact[one]) * products[one] for one in best[:count]]
        wanted, held = np.sum(parts, axis=0), np.sum([part != 0 for part in parts], axis=0)
        found = clip.spurious_texts(SHOWN, OTHER, neurons=count, directions=directions, **ASK)
        places = [stored.texts.index(text) for text in found["text"]]
        assert sorted(places) == np.flatnonzero(held).tolist()
        np.testing.assert_allclose(found["score"], wanted[places], atol=1e-5)
        np.testing.assert_array_equal(found["neurons"], held[places])
        assert (np.diff(found["score"]) <= 0).all()
        assert f"{min(count, 5)} of 5 neurons by the directions given" in str(found.note)
    # Neither the order of the neurons nor the lengths and signs of directions matter.
    other: dict[str, Any] = {
        f"r:{address}": (1e200 * -exact[address]).tolist() for address in reversed(ADDRESSES)
    }
    again = clip.spurious_texts(SHOWN, OTHER, neurons=3, directions=other, **ASK)
    first = clip.spurious_texts(SHOWN, OTHER, neurons=3, directions=directions, **ASK)
    assert again["text"].tolist() == first["text"].tolist()
    np.testing.assert_allclose(again["score"], first["score"], rtol=1e-5)


def test_the_runs_own_directions_give_the_runs_own_words(clip: RunView) -> None:
    own = {f"L{LAYER}.N{n}": clip.neuron(f"L{LAYER}.N{n}").direction for n in range(512)}
    given = clip.spurious_texts(SHOWN, OTHER, neurons=40, directions=own, **ASK)
    stored_codes = clip.spurious_texts(SHOWN, OTHER, neurons=40, **ASK)
    assert given["text"].tolist() == stored_codes["text"].tolist()
    np.testing.assert_allclose(given["score"], stored_codes["score"], atol=1e-5)


def test_random_neurons_are_drawn_among_those_given(
    clip: RunView, stored: StoredNeurons, directions: dict[str, npt.NDArray[np.float32]]
) -> None:
    v = difference(stored)
    exact = [one.astype(np.float64) for one in directions.values()]
    single = [codes(stored, one) * float(one @ v) for one in exact]
    seen: set[int] = set()
    for seed in range(30):
        question: dict[str, Any] = ASK | {"neurons": 1, "seed": seed, "source": "random"}
        found = clip.spurious_texts(SHOWN, OTHER, directions=directions, **question)
        mirrored = dict(reversed(directions.items()))
        again = clip.spurious_texts(SHOWN, OTHER, directions=mirrored, **question)
        assert again.rows() == found.rows()
        scores = np.zeros(len(stored.texts))
        scores[[stored.texts.index(text) for text in found["text"]]] = found["score"]
        seen |= {place for place, one in enumerate(single) if np.abs(one - scores).max() < 1e-5}
    assert seen == set(range(len(NEURONS)))


WRONG: dict[str, tuple[Callable[[F64], Any], type[LensbaseError], str]] = {
    "no mapping": (lambda one: [one], BadQuestion, "takes vectors by neuron"),
    "numbers as names": (lambda one: {3: one}, BadQuestion, "takes vectors by neuron"),
    "nothing": (lambda _: {}, BadQuestion, "names no neuron"),
    "a head": (lambda one: {"L5.H1": one}, BadAddress, "is not a neuron"),
    "no such neuron": (lambda one: {"L5.N512": one}, UnknownComponent, "no neuron L5.N512"),
    "another layer": (lambda one: {"L4.N1": one}, NeuronsNotStored, "no neurons of layer 4"),
    "another run": (lambda one: {"q:L5.N1": one}, UnknownRun, "another run"),
    "twice": (lambda one: {"L5.N1": one, "r:L5.N1": one}, BadQuestion, "names L5.N1 twice"),
    "too short": (lambda one: {"L5.N1": one[:-1]}, BadQuestion, "no direction of run 'r'"),
    "a matrix": (lambda one: {"L5.N1": one[None]}, BadQuestion, "no direction of run 'r'"),
    "texts": (lambda one: {"L5.N1": ["a"] * len(one)}, BadQuestion, "no direction of run 'r'"),
    "ragged": (lambda _: {"L5.N1": [[1.0], 2.0]}, BadQuestion, "no direction of run 'r'"),
    "flags": (lambda one: {"L5.N1": one > 0}, BadQuestion, "no direction of run 'r'"),
    "NaN": (lambda one: {"L5.N1": np.where(one > 0, one, np.nan)}, BadQuestion, "NaN or inf"),
    "infinite": (lambda one: {"L5.N1": one / 0.0}, BadQuestion, "NaN or infinite"),
    "0": (lambda one: {"L5.N1": 0 * one}, BadQuestion, "is 0, which is no direction"),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("wrong", WRONG)
def test_what_are_no_directions_is_a_named_error(
    clip: RunView, directions: dict[str, npt.NDArray[np.float32]], wrong: str
) -> None:
    make, error, said = WRONG[wrong]
    given = make(directions[ADDRESSES[0]].astype(np.float64))
    with pytest.raises(error, match=said):
        clip.spurious_texts(SHOWN, OTHER, directions=given, **ASK)


def test_the_call_that_is_named_works(clip: RunView) -> None:
    with pytest.raises(BadQuestion) as caught:
        clip.spurious_texts(SHOWN, OTHER, directions=[1.0], **ASK)  # type: ignore[arg-type]
    (call,) = re.findall(r"clip\.neuron_effects\(.*\)\.directions", str(caught.value))
    few = "neurons=1, images=[0, 1], label='color', layer="
    found = eval(call.replace("layer=", few), {"clip": clip, "CLASSES": list(COLORS)})
    assert len(clip.spurious_texts(SHOWN, OTHER, directions=found, **ASK)) > 0


def test_directions_exclude_layers_and_similar_words(
    clip: RunView, directions: dict[str, npt.NDArray[np.float32]]
) -> None:
    with pytest.raises(BadQuestion, match="leave layers= out"):
        clip.spurious_texts(SHOWN, OTHER, directions=directions, layers=LAYER, **ASK)
    with pytest.raises(BadQuestion, match="asks no neuron"):
        clip.spurious_texts(SHOWN, OTHER, directions=directions, source="similar", **ASK)
