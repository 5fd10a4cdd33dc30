"""What neurons say of images and classes, by literal float64 from what is stored."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from literal_pursuit import literal
from literal_segmentation import literal_precision, literal_upsample
from PIL import Image
from stored_neurons import F64, StoredNeurons

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.api.spurious_texts import Source

ROWS = (4, 31, 90)  # of the images asked about
SOURCES: tuple[Source, Source] = ("random", "second-order")


@pytest.fixture(scope="module")
def path(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Answers are kept in the store, and this one is shared.
    path = tmp_path_factory.mktemp("neurons") / "s.lens"
    copytree(neuron_store, path, symlinks=True)
    return path


@pytest.fixture(scope="module")
def stored(path: Path) -> StoredNeurons:
    return StoredNeurons(path)


@pytest.fixture(scope="module")
def clip(path: Path) -> RunView:
    return open_store(path).run()


def literal_votes(
    stored: StoredNeurons, weights: dict[tuple[int, int], float], *, m: int, center: bool = False
) -> tuple[F64, F64]:
    """w_j = sum_n gamma_j^n weight_n [M], and how many neurons' codes hold each text [M]."""
    atoms = stored.centered if center else stored.pool
    scores, voters = np.zeros(len(atoms)), np.zeros(len(atoms))
    for (place, number), weight in weights.items():
        picks, fits = literal(stored.direction[place, number], atoms, m)
        scores[picks] += weight * fits[-1]
        voters[picks] += 1
    return scores, voters


def active(stored: StoredNeurons, row: int, places: list[int]) -> list[tuple[int, int]]:
    return [
        (place, number)
        for place in places
        for number in range(512)
        if stored.norm[row, place, number] > stored.threshold[place, number]
    ]


# Concepts


def test_concepts_are_the_votes_of_active_neurons(clip: RunView, stored: StoredNeurons) -> None:
    asked: list[tuple[int | list[int] | None, int, bool, bool]] = [
        (None, 16, False, True),
        (2, 16, True, True),
        ([5, 0], 6, True, False),
    ]
    for row in ROWS:
        for layer, m, center, signed in asked:
            places = list(range(7)) if layer is None else np.atleast_1d(layer).tolist()
            effects = stored.coefficient if signed else stored.norm
            who = active(stored, row, places)
            weights = {one: float(effects[row, *one]) for one in who}
            scores, voters = literal_votes(stored, weights, m=m, center=center)
            shown = [place for place in np.argsort(-scores) if voters[place]][:10]
            found = clip.image(stored.image_ids[row]).concepts(
                layer, m=m, center=center, signed=signed
            )
            texts = [stored.texts.index(text) for text in found["text"]]
            np.testing.assert_allclose(found["score"], scores[shown], atol=1e-4)
            np.testing.assert_allclose(scores[texts], scores[shown], atol=1e-4)
            np.testing.assert_array_equal(found["neurons"], voters[texts])
            assert f"{len(who)} active neuron" in str(found.note)
    assert len(clip.image(0).concepts(k=0)) == 0


def test_an_image_outside_the_store_has_the_concepts_of_its_copy_in_it(
    clip: RunView, scenes: Path
) -> None:
    """The same texts and voters; scores differ by what a batch changes of float32, under 1e-2."""
    for row in ROWS:
        image = clip.image(f"images/{row:05d}.png")
        wanted = image.concepts(k=400, center=True)
        file = scenes / image.key
        for given in (file, str(file), Image.open(file)):
            found = clip.explain(given, k=400, center=True)
            assert found.note == wanted.note
            own = {one["text"]: one for one in found}
            other = {one["text"]: one for one in wanted}
            assert own.keys() == other.keys()
            apart = max(abs(own[text]["score"] - other[text]["score"]) for text in other)
            assert apart < 1e-2, f"row {row}: scores differ by {apart:.1e}"
            assert all(own[text]["neurons"] == other[text]["neurons"] for text in other)
    layers = clip.explain(scenes / "images/00004.png", [1, 6], k=3, signed=False)
    wanted = clip.image(4).concepts([1, 6], k=3, signed=False)
    assert layers["text"].tolist() == wanted["text"].tolist()


# Segmentation


def literal_heat(
    stored: StoredNeurons, row: int, text: int, layers: list[int], count: int, *, signed: bool
) -> F64:
    """The mean map of the neurons of largest |<r, t>|, enlarged and scaled to [0, 1]."""
    products = {
        (place, number): float(stored.direction[place, number] @ stored.pool[text])
        for place in layers
        for number in range(512)
    }
    best = sorted(products, key=lambda one: -abs(products[one]))[:count]
    total = np.zeros(64)
    for place in layers:
        maps = stored.activation_maps(row, place)
        for _, number in (one for one in best if one[0] == place):
            total += maps[number] * (np.sign(products[place, number]) if signed else 1)
    large = literal_upsample((total / count).reshape(8, 8), 64)
    return (large - large.min()) / (large.max() - large.min())


def test_a_segment_is_where_the_neurons_of_a_text_are_active(
    clip: RunView, stored: StoredNeurons
) -> None:
    text = 40
    for row, layers, count, signed in ((4, [4, 5, 6], 200, False), (31, [2], 30, True)):
        wanted = literal_heat(stored, row, text, layers, count, signed=signed)
        found = clip.image(stored.image_ids[row]).segment(
            stored.texts[text], method="neurons", layers=layers, neurons=count, signed=signed
        )
        np.testing.assert_allclose(found.values, wanted, atol=1e-5)
        assert found.threshold == 0.5
        sure = np.abs(wanted - 0.5) > 1e-4
        np.testing.assert_array_equal(found.mask[sure], (wanted > 0.5)[sure])
    strict = clip.image(4).segment("a red circle", method="neurons", threshold=0.9)
    assert strict.share < clip.image(4).segment("a red circle", method="neurons").share


def test_evaluated_segments_are_those_of_each_image(clip: RunView) -> None:
    ids = clip.images["image_id"][:12]
    masks = {key: np.eye(64) for key in clip.images["key"][:12]}
    made = clip.classifier(["a red circle", "a blue square", "a green star"], templates="{}")
    options: dict[str, Any] = {"method": "neurons", "layers": [5, 6], "neurons": 50}
    found = clip.evaluate_segmentation(
        masks, classes=made, target="predicted", images=ids, **options
    )
    right, precisions, alone = 0, list[float](), list[float]()
    for number, name in zip(found.images["image_id"], found.images["class"], strict=True):
        segment = clip.image(number).segment(name, **options)
        right += int((segment.mask == np.eye(64, dtype=bool)).sum())
        heat, truth = segment.values.ravel().astype(np.float64), np.eye(64).ravel() > 0
        positive = [*(~truth).tolist(), *truth.tolist()]
        precisions.append(literal_precision(positive, [*(1 - heat).tolist(), *heat.tolist()]))
        alone.append(literal_precision(truth.tolist(), heat.tolist()))
    assert found.pixel_accuracy == pytest.approx(right / (12 * 64 * 64))
    assert found.map == pytest.approx(np.mean(precisions), abs=1e-4)
    assert found.foreground_map == pytest.approx(np.mean(alone), abs=1e-4)


# Spurious texts


def test_spurious_texts_are_the_votes_of_neurons_along_a_difference(
    clip: RunView, stored: StoredNeurons
) -> None:
    shown, other = "a red circle", "a blue square"
    places = [stored.texts.index(shown), stored.texts.index(other)]
    v = stored.pool[places[1]] - stored.pool[places[0]]
    products = {
        (place, number): float(stored.direction[place, number] @ v)
        for place in (4, 6)
        for number in range(512)
    }
    near = stored.pool @ stored.pool[places[1]] >= 0.8
    assert 0 < near.sum() < len(near)
    ask: dict[str, Any] = {"layers": [6, 4], "neurons": 40, "m": 8, "templates": "{}", "k": 12}
    best = sorted(products, key=lambda one: -abs(products[one]))[:40]
    scores, voters = literal_votes(stored, {one: products[one] for one in best}, m=8)
    for synonym in (None, 0.8):
        kept = np.flatnonzero((voters > 0) & ~(near & (synonym is not None)))
        wanted = kept[np.argsort(-scores[kept])][:12]
        found = clip.spurious_texts(shown, other, synonym=synonym, **ask)
        assert found["text"].tolist() == [stored.texts[place] for place in wanted]
        np.testing.assert_allclose(found["score"], scores[wanted], atol=1e-4)
        np.testing.assert_array_equal(found["neurons"], voters[wanted])
        assert ("left out" in str(found.note)) == (synonym is not None)

    similar = clip.spurious_texts(shown, other, synonym=0.8, source="similar", **ask)
    along = stored.pool @ v
    along[near] = -np.inf
    wanted = np.argsort(-along)[:12]
    assert similar["text"].tolist() == [stored.texts[place] for place in wanted]
    np.testing.assert_allclose(similar["score"], along[wanted], atol=1e-6)
    assert "neurons" not in similar.columns
    assert "texts of 'scenes'" in str(similar.note)
    assert "codes" not in str(similar.note)

    drawn = [
        clip.spurious_texts(shown, other, source="random", seed=seed, **ask)["score"].tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    ask |= {"neurons": 1024, "synonym": None}
    drawn_all, every = (
        clip.spurious_texts(shown, other, source=source, **ask) for source in SOURCES
    )
    assert drawn_all["text"].tolist() == every["text"].tolist()
    np.testing.assert_allclose(drawn_all["score"], every["score"])
