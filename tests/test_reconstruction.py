"""Accuracy from the texts of late heads, against a literal float64 computation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from test_textspan import make_head, make_texts
from world_store import ingest_scenes

from lensbase.api import Store, open_store
from lensbase.api.classifier import Classifier
from lensbase.api.pools import add_pool
from lensbase.api.run import RunView
from lensbase.ingest.world.attributes import SHAPES
from lensbase.ingest.world.pool import text_pool
from lensbase.queries.factors import head_contribution, head_factors
from lensbase.queries.reconstruction import (
    TextProjection,
    centered_factors,
    head_logits,
    text_directions,
)
from lensbase.queries.textspan import head_span, textspan
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    HeadNotStored,
    UnknownColumn,
    UnknownPool,
)

F64 = npt.NDArray[np.float64]
MS = (2, 5, 12)
LATE = (6, 7)


@pytest.fixture(scope="module")
def store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("reconstruction") / "s.lens"
    ingest_scenes(scenes, path, storage="float32", head_tokens="none")
    add_pool(path, text_pool(), name="world")
    add_pool(path, random=200, name="random")
    with open_store(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def shapes(store: Store) -> Classifier:
    return store.run().classifier(list(SHAPES))


def vectors_of(clip: RunView, pool: str, texts: list[str]) -> F64:
    """Of a random pool the vectors that its texts number, of any other the texts' embeddings."""
    if pool != "random":
        return clip.encode_text(texts).values.astype(np.float64)
    stored = clip._run.texts.pool(pool).vectors  # pyright: ignore[reportPrivateUsage]
    return stored[[int(text.removeprefix("vector ")) for text in texts]].astype(np.float64)


def literal_accuracies(
    clip: RunView, classifier: Classifier, pool: str | None, ms: tuple[int, ...]
) -> list[float]:
    """Terms and heads one by one in float64: late heads projected (pool None: as they are)."""
    layers = clip.layer_effects().values.astype(np.float64)
    truth = clip.images.df().query("status == 'ok'").sort_values("image_id")["shape"].tolist()
    found: list[float] = []
    for m in ms:
        total: F64 = np.zeros_like(layers[:, 0])
        for term in range(layers.shape[1]):
            late = term % 2 == 1 and term // 2 in LATE
            if not late:
                total += layers[:, term].mean(0)
                continue
            for number in range(8):
                head = clip.head(f"L{term // 2}.H{number}")
                c = head.contribution().values.astype(np.float64)
                mean = c.mean(0)
                if pool is None:
                    total += c
                    continue
                texts = head.textspan(pool, m)["text"]
                seen = vectors_of(clip, pool, list(texts))
                basis = head_span(head._run.basis(head._head)).directions
                seen = seen @ basis.T @ basis
                onto = seen.T @ np.linalg.pinv(seen.T)  # the projection on the span of the texts
                total += mean + (c - mean) @ onto
        logits = total @ np.float64(classifier.weights).T
        guessed = [classifier.classes[place] for place in logits.argmax(1)]
        found.append(float(np.mean([a == b for a, b in zip(guessed, truth, strict=True)])))
    return found


@pytest.mark.parametrize("pool", ["world", "random"])
def test_accuracies_are_those_of_a_literal_computation(
    store: Store, shapes: Classifier, pool: str
) -> None:
    clip = store.run()
    found = clip.reconstruction(shapes, pools=pool, ms=MS, layers=LATE, label="shape")
    assert found.columns == ["pool", "m", "accuracy"]
    by_m = {row["m"]: row["accuracy"] for row in found if row["pool"] == pool}
    literal = literal_accuracies(clip, shapes, pool, MS)
    assert list(by_m) == list(MS)
    assert np.abs(np.array(list(by_m.values())) - literal).max() < 1e-9, (
        f"accuracies {list(by_m.values())}, literally {literal}"
    )
    assert max(literal) > 0.5, f"only {max(literal):.2f} with late heads: nothing was compared"


def test_baselines_are_those_of_a_literal_computation(store: Store, shapes: Classifier) -> None:
    clip = store.run()
    found = clip.reconstruction(shapes, pools="world", ms=[3], layers=LATE, label="shape")
    base = {row["pool"]: row["accuracy"] for row in found if row["m"] is None}
    (late,) = literal_accuracies(clip, shapes, None, (1,))
    assert abs(base["late heads"] - late) < 1e-9, f"{base['late heads']}, literally {late}"
    whole = float(clip.accuracy(shapes, label="shape"))
    assert abs(base["full model"] - whole) < 1e-9, f"{base['full model']}, accuracy says {whole}"


def test_all_texts_of_a_head_give_it_back(store: Store, shapes: Classifier) -> None:
    """With as many texts as a head has dimensions nothing is lost, and the note says it ends."""
    clip = store.run()
    found = clip.reconstruction(shapes, pools=["world", "random"], ms=(1, 60), label="shape")
    rows = {(row["pool"], row["m"]): row["accuracy"] for row in found}
    late = rows["late heads", None]
    assert rows["world", 60] == rows["random", 60] == late
    assert rows["world", 1] < late, f"{rows['world', 1]} with one text a head, {late} with all"
    ends = "some heads have no more texts than 19 of world, 19 of random"
    assert found.note == f"the late heads are those of layers 4 to 7; {ends}"
    one = clip.reconstruction(shapes, ms=1, label="shape")
    assert list(one["m"][2:]) == [1]
    late_heads = "the late heads are those of layers 4 to 7"
    assert one.note == f"{late_heads}, the texts those of the default pool 'few'"


def test_images_choose_whom_accuracy_is_over(store: Store, shapes: Classifier) -> None:
    clip = store.run()
    parts = [
        clip.reconstruction(shapes, pools="world", ms=[4], label="shape", where=where)["accuracy"]
        for where in ("row < 60", "row >= 60")
    ]
    (whole,) = [clip.reconstruction(shapes, pools="world", ms=[4], label="shape")["accuracy"]]
    np.testing.assert_allclose((60 * parts[0] + 90 * parts[1]) / 150, whole, atol=1e-12)


def test_pools_may_be_a_default_a_dict_or_an_array(store: Store, shapes: Classifier) -> None:
    clip = store.run()
    ask: Any = lambda pools: clip.reconstruction(  # noqa: E731
        shapes, pools=pools, ms=[2, 4], layers=[7], label="shape"
    )
    assert list(ask(None)["pool"][2:]) == ["few", "few"]
    texts = text_pool()
    named = ask({"a list": texts, "vectors": clip.encode_text(texts).values})
    expected = ask("world")["accuracy"]
    np.testing.assert_array_equal(named["accuracy"][2:4], expected[2:])
    np.testing.assert_array_equal(named["accuracy"][4:6], expected[2:])
    np.testing.assert_array_equal(ask(clip.encode_text(texts).values)["accuracy"], expected)


def test_the_plot_has_a_line_a_pool_and_dashed_baselines(store: Store, shapes: Classifier) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    found = store.run().reconstruction(shapes, pools=["world", "random"], ms=MS, label="shape")
    lines = found.plot().get_lines()
    assert [line.get_label() for line in lines] == ["world", "random", "full model", "late heads"]
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    assert np.asarray(lines[0].get_xdata()).tolist() == list(MS)
    np.testing.assert_array_equal(lines[0].get_ydata(), found["accuracy"][2:5])


def test_wrong_questions_are_named_errors(store: Store, shapes: Classifier) -> None:
    clip: Any = store.run()
    wrong: dict[type[Exception], list[dict[str, Any]]] = {
        BadQuestion: [
            {"ms": []},
            {"ms": [0, 5]},
            {"pools": {"full model": "world"}},
            {"layers": []},
            {"ms": ["ten"]},
        ],
        UnknownPool: [{"pools": "nouns"}, {"pools": ["world", "nouns"]}],
        UnknownColumn: [{"label": "species"}],
        BadSelection: [{"where": "row < 0"}],
    }
    for error, questions in wrong.items():
        for question in questions:
            with pytest.raises(error):
                clip.reconstruction(shapes, **({"label": "shape"} | question))
    with pytest.raises(UnknownPool, match=r"for a list of texts, give {'mine': "):
        clip.reconstruction(shapes, pools=["red", "blue"], label="shape")
    with pytest.raises(BadQuestion, match=r"make one with clip\.classifier"):
        clip.reconstruction(["circle"], label="shape")
    with pytest.raises((HeadNotStored, KeyError)):
        clip.reconstruction(shapes, layers=[9], label="shape")
    narrow = replace(shapes, weights=shapes.weights[:, :-1])
    with pytest.raises(ClassifierMismatch):
        clip.reconstruction(narrow, label="shape")


# The parts


def test_directions_from_the_picks_are_those_of_textspan() -> None:
    head = make_head(5, width=16, joint=64)
    texts = make_texts(5, 300, 64)
    span = textspan(head.moment(), head.stored_basis, texts, m=12)
    found = text_directions(head.stored_basis, texts[span.picks])
    for m in range(1, 13):
        ours, theirs = found[:m].T @ found[:m], span.directions[:m].T @ span.directions[:m]
        error = np.abs(ours - theirs).max()
        assert error < 1e-9, f"projections on {m} texts differ by {error:.1e}"


def test_logits_are_those_of_projected_contributions() -> None:
    heads = [make_head(seed, width=16, joint=64, images=90) for seed in (1, 2, 3)]
    texts, classes = make_texts(9, 40, 64), make_texts(10, 7, 64)
    basis = np.stack([head.stored_basis for head in heads])
    # One scale for all heads, as the images have.
    scale = heads[0].scale
    values = np.stack([head.u for head in heads], axis=1)
    factors = [head_factors(values[:, place], scale) for place in range(3)]
    means = np.stack([one.mean(0) for one in factors])
    centered = centered_factors(values, scale, means)
    picked = [
        texts[np.random.default_rng(seed).permutation(40)[:n]] for seed, n in enumerate((6, 9, 2))
    ]
    directions = [text_directions(basis[place], picked[place]) for place in range(3)]
    projection = TextProjection(basis, directions, classes, steps=(2, 6, 12))
    found = [part.copy() for part in projection.logits(centered)]
    unprojected: F64 = np.zeros((90, 7))
    for step, logits in zip((2, 6, 12), found, strict=True):
        expected: F64 = np.zeros((90, 7))
        for place in range(3):
            c = np.float64(head_contribution(factors[place], basis[place]))
            c -= c.mean(0)
            span = head_span(basis[place]).directions
            seen = np.float64(picked[place][:step]) @ span.T @ span
            expected += c @ seen.T @ np.linalg.pinv(seen.T) @ np.float64(classes).T
            if step == 2:
                unprojected += c @ np.float64(classes).T
        error = np.abs(logits - expected).max() / np.abs(expected).max()
        assert error < 1e-5, f"m = {step}: relative error {error:.1e}"
    error = np.abs(head_logits(centered, basis, classes) - unprojected).max()
    error /= np.abs(unprojected).max()
    assert error < 1e-5, f"unprojected: relative error {error:.1e}"
