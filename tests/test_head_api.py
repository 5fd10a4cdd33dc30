"""One head's answers against literal float64 computations from what is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fabricated_store import MORE_TEXTS, STORED_TEXTS, TEXTS, Truth, fabricate

from lensbase.api import Store, open_store
from lensbase.api.head import HeadView
from lensbase.schema.errors import (
    BadAddress,
    BadQuestion,
    BadSelection,
    HeadNotStored,
    StoreCorrupt,
    TextNotStored,
    UnknownComponent,
    UnknownPool,
    UnknownRun,
)
from lensbase.schema.layout import Layout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("head") / "x.lens"
    truth = fabricate(root)
    with open_store(root) as store:
        yield store, truth


@pytest.fixture(scope="module")
def head(made: tuple[Store, Truth]) -> HeadView:
    return made[0].run().head("L2.H1")


@pytest.fixture(scope="module")
def truth(made: tuple[Store, Truth]) -> Truth:
    return made[1]


def literal_textspan(
    C: np.ndarray, R: np.ndarray, basis: np.ndarray, m: int
) -> tuple[list[int], list[float]]:
    """Algorithm 1 as printed: texts projected on the head's span, variance, deflation."""
    _, _, span = np.linalg.svd(basis, full_matrices=False)
    texts = R @ span.T @ span
    rest = C - C.mean(0)
    total = (rest**2).sum()
    picks: list[int] = []
    explained: list[float] = []
    for _ in range(m):
        pick = int(np.argmax(np.var(rest @ texts.T, axis=0)))
        direction = texts[pick] / np.linalg.norm(texts[pick])
        picks.append(pick)
        explained.append(float(((rest @ direction) ** 2).sum() / total))
        rest = rest - np.outer(rest @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
    return picks, explained


# Contributions


def test_contributions_are_exact_and_add_up_to_their_layer(
    made: tuple[Store, Truth], truth: Truth
) -> None:
    clip, rows = made[0].run(), truth.rows_by_id
    total = np.zeros((len(rows), truth.shape.embed_dim))
    for number in range(truth.shape.heads):
        found = clip.head(f"L2.H{number}").contribution()
        expected = truth.contribution(2, number)[rows]
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < 1e-5, f"relative error {error.max():.1e}"
        np.testing.assert_array_equal(found.image_ids, truth.image_ids[rows])
        total += found
    attention = clip.layer_effects().values[:, 1 + 2 * 2]
    gap = np.linalg.norm(total - attention, axis=1) / np.linalg.norm(attention, axis=1)
    assert gap.max() < 5e-3, f"heads miss their layer by {gap.max():.1e}"  # float16 storage


def test_normalized_contributions_are_shares_of_a_unit_vector(head: HeadView, truth: Truth) -> None:
    ids = truth.image_ids[[9, 3, 9]]
    found = head.contribution(ids, normalize=True)
    expected = truth.contribution(2, 1) / truth.arrays["scale"][:, 2:3]
    np.testing.assert_allclose(found, expected[[9, 3, 9]], rtol=1e-4, atol=1e-5)


def test_factors_are_what_is_stored(head: HeadView, truth: Truth) -> None:
    rows = truth.rows_by_id
    np.testing.assert_array_equal(head.factors(), truth.arrays["head_value"][rows, 1, 1])
    one = head.factors(int(truth.image_ids[3]))
    np.testing.assert_array_equal(one, truth.arrays["head_value"][[3], 1, 1])


def test_heads_are_found_by_address(made: tuple[Store, Truth]) -> None:
    clip = made[0].run()
    assert repr(clip.head("world-demo:l2.h1")) == "head L2.H1 of run 'world-demo'"
    with pytest.raises(HeadNotStored, match=r"layers 1, 2.*--run NEW_NAME --heads 0,1,2"):
        clip.head("L0.H1")
    for absent in ("L3.H0", "L2.H2"):
        with pytest.raises(UnknownComponent, match="0 to 2 and its heads 0 to 1"):
            clip.head(absent)
    with pytest.raises(UnknownRun, match=r"store\.run"):
        clip.head("other:L2.H1")
    with pytest.raises(BadAddress):
        clip.head("L2.N1")


# TEXTSPAN


def test_whole_run_textspan_is_algorithm_1(made: tuple[Store, Truth], truth: Truth) -> None:
    for address, (place, number) in {"L1.H0": (0, 0), "L2.H1": (1, 1)}.items():
        rows = truth.rows_by_id
        # Whole-run moments come from values before float16: here they are rebuilt from these.
        basis = truth.basis[place, number]
        moment = truth.moment.sum(0)[0, place, number]
        assert moment[-1, -1] == len(rows)
        second = moment[:-1, :-1] - np.outer(moment[-1, :-1], moment[-1, :-1]) / len(rows)
        eigenvalues, eigenvectors = np.linalg.eigh(second)
        half = (np.sqrt(np.maximum(eigenvalues, 0)) * eigenvectors).T @ basis
        both = np.vstack([half, -half])  # the same covariance with mean 0
        picks, explained = literal_textspan(both, truth.pools["words"], basis, 6)
        found = made[0].run().head(address).textspan("words", 6)
        assert found["text"].tolist() == [MORE_TEXTS[pick] for pick in picks]
        np.testing.assert_allclose(found["explained_variance"], explained, rtol=1e-6)
        np.testing.assert_allclose(found["cumulative"], np.cumsum(explained), rtol=1e-6)
        assert found["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_chosen_images_textspan_is_algorithm_1_on_stored_values(
    head: HeadView, truth: Truth
) -> None:
    rows = truth.rows_by_id
    even = rows[rows % 2 == 0]
    basis = truth.basis[1, 1]
    for normalize in (False, True):
        norms = truth.arrays["scale"][:, 2:3] if normalize else 1
        contribution = truth.contribution(2, 1) / norms
        picks, explained = literal_textspan(contribution[even], truth.pools["words"], basis, 6)
        for options in (
            {"where": "label = 'even'"},
            {"images": truth.image_ids[even]},
            {"images": truth.image_ids[rows], "where": "label = 'even'"},
        ):
            found = head.textspan("words", 6, normalize=normalize, **options)  # type: ignore[arg-type]
            assert found["text"].tolist() == [MORE_TEXTS[pick] for pick in picks]
            np.testing.assert_allclose(found["explained_variance"], explained, rtol=1e-5)


def test_stored_and_computed_textspan_agree(
    head: HeadView, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = head.textspan(m=STORED_TEXTS)
    longer = head.textspan(m=STORED_TEXTS + 1)
    assert stored.rows() == longer[:STORED_TEXTS].rows()
    monkeypatch.setattr(type(head._run), "moment", lambda *_: pytest.fail("not looked up"))
    assert head.textspan(m=2).rows() == stored[:2].rows()


def test_a_list_of_texts_is_a_pool(head: HeadView) -> None:
    assert head.textspan(list(TEXTS), 4).rows() == head.textspan("general", 4).rows()
    with pytest.raises(TextNotStored):
        head.textspan(["sand", "never seen"])


def test_textspan_stops_when_nothing_is_left_and_says_so(head: HeadView) -> None:
    found = head.textspan(m=20)
    assert len(found) == len(TEXTS) - 1  # one text is there twice
    assert found.note is not None
    assert found.note.startswith("6 of the 20 texts asked for")
    assert "6 of the 20" in str(found)
    words = head.textspan("words", m=20)
    assert len(words) == truth_rank(head)
    assert words["cumulative"][-1] == pytest.approx(1, abs=1e-9)


def truth_rank(head: HeadView) -> int:
    return int(np.linalg.matrix_rank(head._run.basis(head._head)))


def test_explained_score_is_greedy(head: HeadView) -> None:
    first = head.textspan("words", 1, score="explained")["explained_variance"][0]
    usual = head.textspan("words", 1)["explained_variance"][0]
    assert first >= usual


def test_textspan_refuses_what_makes_no_sense(head: HeadView) -> None:
    for options in ({"m": 0}, {"m": -3}, {"score": "best"}):
        with pytest.raises(BadQuestion):
            head.textspan(**options)  # type: ignore[arg-type]
    with pytest.raises(UnknownPool, match=r"general, words.*--name nouns` .*--words .*--random"):
        head.textspan("nouns")
    with pytest.raises(BadQuestion, match=r"lensbase pool add .* nouns\.txt --name NAME"):
        head.textspan(Path("nouns.txt"))  # type: ignore[arg-type]
    with pytest.raises(BadSelection, match="empty"):
        head.textspan(where="label = 'neither'")


# Retrieval


def test_top_images_are_a_sort_of_the_products(head: HeadView, truth: Truth) -> None:
    text = truth.pools["general"][2]
    for normalize in (False, True):
        scores = truth.contribution(2, 1) @ text
        if normalize:
            scores = scores / truth.arrays["scale"][:, 2]
        order = truth.rows_by_id[np.argsort(-scores[truth.rows_by_id], kind="stable")]
        found = head.top_images("sand", k=5, normalize=normalize)
        assert found["image_id"].tolist() == truth.image_ids[order[:5]].tolist()
        assert found["key"].tolist() == [truth.keys[row] for row in order[:5]]
        np.testing.assert_allclose(found["score"], scores[order[:5]], rtol=1e-5)
        odd = [row for row in order if row % 2]
        found = head.top_images(text="sand", k=4, where="label = 'odd'", normalize=normalize)
        assert found["image_id"].tolist() == truth.image_ids[odd[:4]].tolist()
        assert set(found["label"]) == {"odd"}
    assert len(head.top_images("sand", k=1000)) == len(truth.rows_by_id)
    assert len(head.top_images("sand", k=0)) == 0
    assert head.top_images("sand").pictures(2) is not None


def test_top_images_cross_blocks(
    head: HeadView, truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = head.top_images("sand", k=9).rows()
    monkeypatch.setattr("lensbase.api.ranking._BLOCK", 4)
    assert head.top_images("sand", k=9).rows() == whole


def test_ranked_texts_come_from_textspan(head: HeadView) -> None:
    for rank in (1, 2, 5):
        text = head.textspan(m=rank)["text"][-1]
        by_rank, by_text = head.top_images(rank=rank), head.top_images(text)
        assert by_rank.rows() == by_text.rows()
        assert repr(text) in str(by_rank.note)


def test_nearest_images_are_a_sort_of_the_products(head: HeadView, truth: Truth) -> None:
    C, row = truth.contribution(2, 1), 17
    for normalize in (False, True):
        scale = truth.arrays["scale"][:, 2:3] if normalize else 1
        scores = (C / scale) @ (C / scale)[row]
        order = truth.rows_by_id[np.argsort(-scores[truth.rows_by_id], kind="stable")]
        for to in (int(truth.image_ids[row]), truth.keys[row]):
            found = head.nearest_images(to, k=6, normalize=normalize)
            assert found["image_id"].tolist() == truth.image_ids[order[:6]].tolist()
            np.testing.assert_allclose(found["score"], scores[order[:6]], rtol=1e-5)


def test_retrieval_refuses_what_makes_no_sense(head: HeadView) -> None:
    for options in ({}, {"text": "sand", "rank": 1}, {"rank": 0}, {"rank": 99}, {"text": "sand",
                    "k": -1}):  # fmt: skip
        with pytest.raises(BadQuestion):
            head.top_images(**options)  # type: ignore[arg-type]
    with pytest.raises(BadSelection, match="name one"):
        head.nearest_images(to=[100, 101])


# Damage


def test_a_damaged_file_is_named_not_read(tmp_path: Path) -> None:
    truth = fabricate(tmp_path / "x.lens")
    arrays = Layout(tmp_path / "x.lens").arrays("world-demo")
    with open_store(tmp_path / "x.lens") as store:
        head = store.run().head("L2.H1")
        moment = arrays / "head_moment" / "c" / "1"
        (chunk,) = [path for path in moment.rglob("*") if path.is_file()]
        chunk.write_bytes(chunk.read_bytes()[:-8])
        with pytest.raises(StoreCorrupt, match=r"segment 1 .*head_moment.*lensbase verify"):
            head.textspan("words")
        (shard,) = [path for path in (arrays / "head_value/c/0").rglob("*") if path.is_file()]
        shard.unlink()
        with pytest.raises(StoreCorrupt, match=r"segment 0 .*head_value"):
            head.contribution(int(truth.image_ids[0]))
        basis = arrays / "head_basis" / "c/0/0/0/0"
        raw = bytearray(basis.read_bytes())
        raw[3] ^= 1
        basis.write_bytes(bytes(raw))
    with open_store(tmp_path / "x.lens") as store, pytest.raises(StoreCorrupt, match="head_basis"):
        store.run().head("L2.H1").contribution(int(truth.image_ids[60]))
