"""Top images by a head: the scores by definition, and the order a full stable sort gives."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tower import Tower

from lensbase.queries.factors import head_contribution, head_factors
from lensbase.queries.retrieval import direction_scores, fold, head_scores, top_k


def full_sort(scores: npt.NDArray[np.floating], k: int, *, largest: bool) -> list[int]:
    """The rows that a stable sort of everything would put first, NaN left out."""
    known = [row for row in range(len(scores)) if not np.isnan(scores[row])]
    known.sort(key=lambda row: -scores[row] if largest else scores[row])
    return known[:k]


def any_scores(dtype: type[np.floating]) -> st.SearchStrategy[npt.NDArray[np.floating]]:
    few = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 1.0, np.nan, np.inf, -np.inf])
    some = st.one_of(few, st.floats(width=16))
    return hnp.arrays(dtype, st.integers(0, 60), elements=some)


@given(
    scores=st.one_of(any_scores(np.float32), any_scores(np.float64)),
    k=st.integers(0, 80),
    largest=st.booleans(),
)
def test_top_k_is_the_head_of_a_full_stable_sort(
    scores: npt.NDArray[np.floating], k: int, largest: bool
) -> None:
    found = top_k(scores, k, largest=largest)
    wanted = full_sort(scores, k, largest=largest)
    assert found.rows.tolist() == wanted
    assert found.rows.dtype == np.int64
    assert np.array_equal(found.scores, scores[wanted])


@given(
    scores=any_scores(np.float32),
    k=st.integers(0, 20),
    largest=st.booleans(),
    data=st.data(),
)
def test_the_top_of_tops_of_parts_is_the_top_of_all(
    scores: npt.NDArray[np.floating], k: int, largest: bool, data: st.DataObject
) -> None:
    rows = np.array(data.draw(st.permutations(range(len(scores)))), dtype=np.int64)
    cut = data.draw(st.integers(0, len(scores)))
    parts = [
        top_k(scores[part], k, rows=part, largest=largest) for part in (rows[:cut], rows[cut:])
    ]
    merged = top_k(
        np.concatenate([part.scores for part in parts]),
        k,
        rows=np.concatenate([part.rows for part in parts]),
        largest=largest,
    )
    assert merged.rows.tolist() == top_k(scores, k, largest=largest).rows.tolist()


def test_negative_scores_alone_are_ranked_too() -> None:
    found = top_k(np.array([-5.0, -1.0, np.nan, -3.0]), 10)
    assert found.rows.tolist() == [1, 3, 0]
    assert found.scores.tolist() == [-1, -3, -5]


def test_a_negative_k_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        top_k(np.zeros(3), -1)


@pytest.fixture(scope="module")
def tower() -> Tower:
    return Tower(images=400)


def worst(found: npt.NDArray[np.floating], wanted: npt.NDArray[np.floating]) -> float:
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


def test_scores_against_texts_are_products_with_contributions(tower: Tower) -> None:
    texts = np.random.default_rng(2).normal(size=(7, tower.joint)).astype(np.float32)
    basis, u = tower.basis[1, 2], tower.u[:, 1, 2]
    wanted = tower.pair[:, 1, 2].sum(1) @ np.float64(texts.T)
    found = head_scores(u, tower.scale, fold(basis, texts))
    assert found.shape == (400, 7)
    assert found.dtype == np.float32
    assert worst(found, wanted) < 1e-7
    one = head_scores(u, tower.scale, fold(basis, texts[3]))
    assert one.shape == (400,)
    assert worst(one, wanted[:, 3]) < 1e-7
    normalized = head_scores(u, tower.scale, fold(basis, texts), normalize=True)
    norms = np.linalg.norm(tower.representation, axis=1)
    assert worst(normalized, wanted / norms[:, None]) < 1e-7


def test_nearest_images_by_a_head_are_products_of_contributions(tower: Tower) -> None:
    basis, u = tower.basis[2, 0], tower.u[:, 2, 0]
    c = tower.pair[:, 2, 0].sum(1)
    own = head_contribution(head_factors(u[17:18], tower.scale[17:18]), basis)[0]
    found = head_scores(u, tower.scale, fold(basis, own))
    assert worst(found, c @ c[17]) < 1e-7
    assert top_k(found, 10).rows.tolist() == full_sort(c @ c[17], 10, largest=True)


def test_stored_float16_values_rank_as_contributions_made_of_them(tower: Tower) -> None:
    text = np.random.default_rng(3).normal(size=tower.joint)
    basis, stored = tower.basis[0, 1], tower.u[:, 0, 1].astype(np.float16)
    c = head_contribution(head_factors(stored, tower.scale), basis)
    found = top_k(head_scores(stored, tower.scale, fold(basis, text)), 400)
    assert found.rows.tolist() == full_sort((c @ text).astype(np.float32), 400, largest=True)


def test_equal_images_tie_however_rows_are_cut(tower: Tower) -> None:
    u = np.tile(tower.u[:37, 0, 0].astype(np.float16), (9, 1))
    scale = np.tile(tower.scale[:37].astype(np.float32), (9, 1))
    query = fold(tower.basis[0, 0], np.random.default_rng(4).normal(size=tower.joint))
    whole = head_scores(u, scale, query)
    assert np.array_equal(whole, np.tile(whole[:37], 9))
    for size in (1, 5, 64):
        cut = [
            head_scores(u[i : i + size], scale[i : i + size], query) for i in range(0, 333, size)
        ]
        assert np.array_equal(whole, np.concatenate(cut))
    best = int(np.argmax(whole[:37]))
    assert top_k(whole, 9).rows.tolist() == list(range(best, 333, 37))


def test_rejected_images_are_never_returned(tower: Tower) -> None:
    u, scale = tower.u[:, 0, 0].copy(), tower.scale.copy()
    u[::3], scale[::3] = np.nan, np.nan
    query = fold(tower.basis[0, 0], np.ones(tower.joint))
    found = top_k(head_scores(u, scale, query), 400)
    assert len(found.rows) == 400 - 134
    assert not np.any(found.rows % 3 == 0)
    assert np.isfinite(found.scores).all()


def test_whole_representations_are_scored_the_same_way(tower: Tower) -> None:
    direction = np.random.default_rng(5).normal(size=(2, tower.joint))
    found = direction_scores(tower.representation.astype(np.float32), direction)
    assert worst(found, tower.representation @ direction.T) < 1e-6
    assert direction_scores(tower.representation, direction[0]).shape == (400,)
