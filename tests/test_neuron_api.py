"""One neuron's answers, and which neurons a text finds, by literal float64 from what is stored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from literal_pursuit import literal
from stored_neurons import StoredNeurons

from lensbase.api import Store, open_store
from lensbase.api.neuron import NeuronView
from lensbase.api.run import RunView
from lensbase.queries.sparse_text import centered_atoms, sparse_codes

PLACE, NUMBER = 5, 77
ADDRESS = f"L{PLACE}.N{NUMBER}"


@pytest.fixture(scope="module")
def path(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Answers are kept in the store, and this one is shared.
    path = tmp_path_factory.mktemp("neuron") / "s.lens"
    copytree(neuron_store, path, symlinks=True)
    return path


@pytest.fixture(scope="module")
def stored(path: Path) -> StoredNeurons:
    return StoredNeurons(path)


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return open_store(path)


@pytest.fixture(scope="module")
def clip(store: Store) -> RunView:
    return store.run()


@pytest.fixture(scope="module")
def neuron(clip: RunView) -> NeuronView:
    return clip.neuron(ADDRESS)


# One neuron


def test_a_neuron_is_what_was_fitted(neuron: NeuronView, stored: StoredNeurons) -> None:
    np.testing.assert_array_equal(neuron.direction, stored.direction[PLACE, NUMBER])
    np.testing.assert_array_equal(neuron.mean_effect, stored.mean[PLACE, NUMBER])
    assert neuron.threshold == stored.threshold[PLACE, NUMBER]
    assert neuron.explained_variance == stored.array("neuron_explained")[PLACE, NUMBER]
    length = float(np.linalg.norm(neuron.direction.astype(np.float64)))
    assert abs(length - 1) < 1e-6, f"r is {length} long"
    assert neuron.address == ADDRESS
    assert repr(neuron) == f"neuron {ADDRESS} of run 'r'"


def ranked(stored: StoredNeurons, rows: list[int]) -> list[int]:
    """Rows by descending norm, ties by row."""
    return sorted(rows, key=lambda row: (-stored.norm[row, PLACE, NUMBER], row))


def test_top_images_are_those_of_largest_norm(
    clip: RunView, neuron: NeuronView, stored: StoredNeurons
) -> None:
    everything = list(range(len(stored.image_ids)))
    circles = [row for row in everything if stored.labels[row] == "circle"]
    some = [140, 3, 9, 77, 9]
    ids = stored.image_ids[some]
    asked = {
        "the first 50": (neuron.top_images(), ranked(stored, everything)[:50]),
        "one": (neuron.top_images(1), ranked(stored, everything)[:1]),
        "more than there are": (neuron.top_images(400), ranked(stored, everything)),
        "circles": (neuron.top_images(5, where="label = 'circle'"), ranked(stored, circles)[:5]),
        "chosen": (neuron.top_images(images=ids), ranked(stored, [3, 9, 77, 140])),
        "chosen circles": (
            clip.neuron(f"r:{ADDRESS}").top_images(images=ids, where="label <> 'circle'"),
            ranked(stored, [row for row in (3, 9, 77, 140) if row not in circles]),
        ),
        "none": (neuron.top_images(0), []),
    }
    for name, (found, rows) in asked.items():
        assert found["rank"].tolist() == list(range(1, len(rows) + 1)), name
        norms = stored.norm[rows, PLACE, NUMBER]
        np.testing.assert_array_equal(found["norm"], norms.astype(np.float32), name)
        np.testing.assert_array_equal(found["image_id"], stored.image_ids[rows], name)
        coefficients = stored.coefficient[rows, PLACE, NUMBER].astype(np.float32)
        np.testing.assert_array_equal(found["coefficient"], coefficients, name)
        assert found["label"].tolist() == [stored.labels[row] for row in rows], name


def test_more_top_images_than_are_kept_in_order(evaluation_store: Path) -> None:
    """The 256 largest norms of a neuron are kept in order; past them all 1,500 are compared."""
    stored = StoredNeurons(evaluation_store)
    neuron = open_store(evaluation_store).run().neuron(ADDRESS)
    rows = ranked(stored, list(range(1500)))
    for k in (256, 257, 400, 2000):
        found = neuron.top_images(k)
        np.testing.assert_array_equal(found["image_id"], stored.image_ids[rows[:k]])
        np.testing.assert_array_equal(found["norm"], stored.norm[rows[:k], PLACE, NUMBER])


def test_activity_and_reconstruction(neuron: NeuronView, stored: StoredNeurons) -> None:
    rows = [30, 2, 30]
    found = neuron.activity(stored.image_ids[rows])
    assert found.components == ["norm", "coefficient"]
    np.testing.assert_array_equal(found.values[:, 0], stored.norm[rows, PLACE, NUMBER])
    np.testing.assert_array_equal(found.values[:, 1], stored.coefficient[rows, PLACE, NUMBER])
    assert len(neuron.activity(where="label = 'star'").values) == stored.labels.count("star")
    effects = neuron.reconstruction(stored.image_ids[rows]).values
    x = stored.coefficient[rows, PLACE, NUMBER]
    wanted = x[:, None] * stored.direction[PLACE, NUMBER] + stored.mean[PLACE, NUMBER]
    np.testing.assert_allclose(effects, wanted, atol=1e-6)


def test_the_activation_map_is_gelu_of_what_it_reads(
    neuron: NeuronView, stored: StoredNeurons
) -> None:
    row = 12
    found = neuron.activation_map(int(stored.image_ids[row])).values
    wanted = stored.activation_maps(row, PLACE)[NUMBER].reshape(8, 8)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert error < 1e-5, f"relative error {error:.1e}"


# Texts


def test_texts_are_the_pursuit_of_its_direction(
    store: Store, neuron: NeuronView, stored: StoredNeurons
) -> None:
    target = stored.direction[PLACE, NUMBER]
    for center, atoms in ((False, stored.pool), (True, stored.centered)):
        picks, fits = literal(target, atoms, 16)
        for m in (1, 4, 16):
            found = neuron.texts(m=m, center=center)
            assert found["text"].tolist() == [stored.texts[pick] for pick in picks[:m]]
            np.testing.assert_allclose(found["coefficient"], fits[m - 1], atol=1e-4)
            made = fits[m - 1] @ atoms[picks[:m]]
            cosine = float(made @ target / np.linalg.norm(made) / np.linalg.norm(target))
            assert f"cosine {cosine:.2f} with {ADDRESS}" in str(found.note)
    kept = store.sql(
        "SELECT text, coefficient FROM neuron_texts "
        "WHERE component = ? AND m = 16 AND NOT centered ORDER BY rank",
        [ADDRESS],
    )
    assert kept["text"].tolist() == neuron.texts()["text"].tolist()
    np.testing.assert_array_equal(kept["coefficient"], neuron.texts()["coefficient"])


def test_fewer_texts_are_those_of_a_shorter_pursuit(clip: RunView, stored: StoredNeurons) -> None:
    """The first 4 of 16, with the coefficients that a pursuit of 4 has: to 1e-6."""
    vectors = clip.encode_text(stored.texts).values
    for center in (False, True):
        atoms = centered_atoms(vectors) if center else vectors
        made = sparse_codes(stored.direction[PLACE, :40], atoms, m=4)
        clip.image(0).concepts(PLACE, center=center)  # from now on those of all neurons are kept
        for number in range(40):
            one = clip.neuron(f"L{PLACE}.N{number}")
            found, more = one.texts(m=4, center=center), one.texts(m=16, center=center)
            assert found["text"].tolist() == more["text"].tolist()[:4]
            assert found["text"].tolist() == [stored.texts[pick] for pick in made.picks[number]]
            np.testing.assert_allclose(found["coefficient"], made.coefficients[number], atol=1e-6)


def test_more_texts_than_the_ingest_kept(neuron: NeuronView, stored: StoredNeurons) -> None:
    picks, fits = literal(stored.direction[PLACE, NUMBER], stored.pool, 30)
    found = neuron.texts(m=30)
    assert found["text"].tolist() == [stored.texts[pick] for pick in picks]
    np.testing.assert_allclose(found["coefficient"], fits[-1], atol=1e-4)
    assert neuron.texts(m=16)["text"].tolist() == found["text"].tolist()[:16]


def test_pools_may_be_texts_or_vectors(
    clip: RunView, neuron: NeuronView, stored: StoredNeurons
) -> None:
    chosen = stored.texts[:60:2]
    vectors = stored.pool[:60:2]
    target = stored.direction[PLACE, NUMBER]
    picks, fits = literal(target, vectors, 5)
    by_texts = neuron.texts(chosen, m=5)
    assert by_texts["text"].tolist() == [chosen[pick] for pick in picks]
    for given, scale in ((clip.encode_text(chosen), 1), (vectors, 1), (3 * vectors, 1)):
        found = neuron.texts(given, m=5)
        np.testing.assert_allclose(found["coefficient"], fits[-1] * scale, atol=1e-4)
    assert neuron.texts(vectors, m=1)["text"].tolist() == [f"vector {picks[0]}"]
    for pool, center, real in ((chosen[:2], False, 2), (chosen[:9], True, 8), (None, False, 64)):
        found = neuron.texts(pool, m=100, center=center)  # there are no more
        assert len(found) == real
        assert f"codes of {real} texts" in str(found.note)
        assert f"codes of {real} texts" in str(
            clip.image(0).concepts(PLACE, pool, m=100, center=center).note
        )
    assert "of the texts given" in str(by_texts.note)


# Which neurons


def test_neurons_are_found_by_their_products_with_a_text(
    store: Store, clip: RunView, stored: StoredNeurons
) -> None:
    text = stored.texts[40]
    shown = store.sql("SELECT component, texts, explained_variance FROM neurons").rows()
    known = {row["component"]: row for row in shown}
    for layers, signed in ((None, False), (3, False), ([6, 2], True)):
        places = list(range(7)) if layers is None else sorted(np.atleast_1d(layers).tolist())
        products = {
            (place, number): float(stored.direction[place, number] @ stored.pool[40])
            for place in places
            for number in range(512)
        }
        best = sorted(
            products, key=lambda one: -(1 if signed else np.sign(products[one])) * products[one]
        )
        found = clip.find_neurons(text, 30, layers=layers, signed=signed)
        assert (
            list(zip(found["layer"].tolist(), found["neuron"].tolist(), strict=True)) == best[:30]
        )
        np.testing.assert_allclose(found["score"], [products[one] for one in best[:30]], atol=1e-6)
        for row in found:
            assert row["texts"] == known[row["component"]]["texts"]
            assert row["explained_variance"] == known[row["component"]]["explained_variance"]
    assert len(clip.find_neurons(text, 5000)) == 7 * 512
    assert len(clip.find_neurons("a thing over the water in this picture", 1)) == 1


def test_similar_neurons_are_those_of_largest_cosine(clip: RunView, stored: StoredNeurons) -> None:
    flat = stored.direction[[1, PLACE]].reshape(-1, 64)
    target = stored.direction[PLACE, NUMBER]
    cosines = flat @ target / np.linalg.norm(flat, axis=1) / np.linalg.norm(target)
    best = [one for one in np.argsort(-np.abs(cosines)).tolist() if one != 512 + NUMBER][:9]
    found = clip.neuron_similarity(ADDRESS, 9, layers=[PLACE, 1])
    names = [f"L{(1, PLACE)[one // 512]}.N{one % 512}" for one in best]
    assert found["component"].tolist() == names
    np.testing.assert_allclose(found["cosine"], cosines[best], atol=1e-6)
    assert len(clip.neuron_similarity(ADDRESS, 10_000)) == 7 * 512 - 1


def test_heads_are_found_by_the_texts_that_describe_them(
    clip: RunView, stored: StoredNeurons
) -> None:
    text, mean = stored.texts[40], stored.pool.mean(0)
    target = stored.pool[40] - mean
    scores: dict[str, float] = {}
    for head in clip.heads["component"].tolist():
        span = clip.head(head).textspan(m=5)
        weight, total = span["explained_variance"], 0.0
        for picked, share in zip(span["text"], weight, strict=True):
            other = stored.pool[stored.texts.index(picked)] - mean
            cosine = other @ target / np.linalg.norm(other) / np.linalg.norm(target)
            total += share * cosine
        scores[head] = total / weight.sum()
    best = sorted(scores, key=lambda head: -scores[head])[:6]
    found = clip.find_heads(text, 6)
    assert found["component"].tolist() == best
    np.testing.assert_allclose(found["score"], [scores[head] for head in best], atol=1e-5)


# SQL


def test_views_say_what_the_api_says(
    store: Store, clip: RunView, neuron: NeuronView, stored: StoredNeurons
) -> None:
    rows = clip.neurons.rows()
    assert [row["component"] for row in rows] == [
        f"L{layer}.N{number}" for layer in range(7) for number in range(512)
    ]
    own = rows[PLACE * 512 + NUMBER]
    norms = stored.norm[:, PLACE, NUMBER]
    active = np.flatnonzero(norms > stored.threshold[PLACE, NUMBER])
    assert own["active"] == len(active)
    assert own["norm_p98"] == neuron.threshold
    assert own["explained_variance"] == neuron.explained_variance
    assert own["mean_norm"] == pytest.approx(norms.mean(), rel=1e-3)
    signed = [
        ("-" if row["coefficient"] < 0 else "+") + row["text"] for row in neuron.texts(m=16).rows()
    ]
    assert own["texts"] == signed[:4]
    peaks = store.sql(
        "SELECT image_id, norm, coefficient FROM neuron_peaks WHERE component = ? "
        "ORDER BY norm DESC, image_id",
        [ADDRESS],
    )
    top = neuron.top_images(len(active))
    assert sorted(peaks["image_id"].tolist()) == sorted(top["image_id"].tolist())
    for column in ("norm", "coefficient"):
        assert sorted(peaks[column].tolist()) == sorted(top[column].tolist())
    kept = store.sql(
        "SELECT image_id, label, norm FROM neuron_top_images WHERE component = ? ORDER BY rank",
        [ADDRESS],
    )
    for column in ("image_id", "label", "norm"):
        assert kept[column].tolist() == neuron.top_images(20)[column].tolist()


# Without a model

_OFFLINE = """import sys
sys.modules["torch"] = None
from lensbase.api import open_store
clip = open_store(sys.argv[1]).run()
neuron, text = clip.neuron("L5.N77"), "a red circle"
print(len(neuron.top_images(3)), len(neuron.texts(center=True)), len(neuron.texts([text])))
print(neuron.activation_map(0).values.shape, neuron.activity().values.shape)
print(len(clip.find_neurons(text)), len(clip.find_heads(text)))
print(len(clip.neuron_similarity("L5.N77")))
print(len(clip.image(0).concepts()), clip.image(0).segment(text, method="neurons").mask.shape)
print(len(clip.spurious_texts(text, "a blue circle", layers=5, templates="{}")))
"""


def test_everything_is_answered_without_torch(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "3 16 1",
        "(8, 8) (150, 2)",
        "20 5",
        "10",
        "10 (64, 64)",
        "25",
    ]
