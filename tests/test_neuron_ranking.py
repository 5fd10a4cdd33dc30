"""Neurons are ranked by products with a text as a literal sort of them all would."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lensbase.queries.neuron_ranking import cosines, direction_products, rank_neurons

F64 = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def directions() -> F64:
    rows = np.random.default_rng(0).normal(size=(3, 40, 16))
    return rows / np.linalg.norm(rows, axis=2, keepdims=True)


def literal(products: F64, k: int, *, signed: bool) -> list[tuple[int, int]]:
    """The neurons of largest product, by Python's stable sort of (score, layer, neuron)."""
    listed = [
        (-(value if signed else abs(value)), layer, neuron)
        for (layer, neuron), value in np.ndenumerate(products)
        if not np.isnan(value)
    ]
    return [(layer, neuron) for _, layer, neuron in sorted(listed)[:k]]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_products_are_those_of_every_direction(directions: F64, dtype: type[np.floating]) -> None:
    text = np.random.default_rng(1).normal(size=16)
    stored = directions.astype(dtype)
    found = direction_products(stored, text)
    assert found.shape == (3, 40)
    for layer, neuron in np.ndindex(3, 40):
        wanted = sum(float(stored[layer, neuron, e]) * text[e] for e in range(16))
        assert abs(found[layer, neuron] - wanted) < 1e-6


@given(
    products=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 9)),
        # Few values, so that there are ties, also of opposite signs.
        elements=st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, float("nan")]),
    ),
    k=st.integers(0, 40),
    signed=st.booleans(),
)
def test_a_ranking_is_a_stable_sort(
    products: npt.NDArray[np.float32], k: int, signed: bool
) -> None:
    ranking = rank_neurons(products, k, signed=signed)
    wanted = literal(products.astype(np.float64), k, signed=signed)
    assert list(zip(ranking.layers.tolist(), ranking.neurons.tolist(), strict=True)) == wanted
    assert ranking.scores.tolist() == [products[place] for place in wanted]


def test_scores_keep_their_sign_and_arrays_follow_the_ranking(directions: F64) -> None:
    text = -directions[1, 7]
    ranking = rank_neurons(direction_products(directions, text), 3)
    assert (ranking.layers[0], ranking.neurons[0]) == (1, 7)
    assert abs(ranking.scores[0] + 1) < 1e-6
    assert np.array_equal(ranking.of(directions)[0], directions[1, 7])
    assert np.allclose(ranking.of(directions) @ text, ranking.scores, atol=1e-6)
    against = rank_neurons(direction_products(directions, text), 120, signed=True)
    assert (against.layers[-1], against.neurons[-1]) == (1, 7)


def test_a_negative_number_of_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match="k = -1 rows cannot be returned"):
        rank_neurons(np.ones((2, 3)), -1)


def test_cosines_are_those_of_every_pair(directions: F64) -> None:
    one, other = 3 * directions[0, :5], 0.1 * directions[1:, :6]
    found = cosines(one, other)
    assert found.shape == (5, 2, 6)
    for i, j, n in np.ndindex(5, 2, 6):
        a, b = one[i], other[j, n]
        wanted = sum(a * b) / (sum(a * a) * sum(b * b)) ** 0.5
        assert abs(found[i, j, n] - wanted) < 1e-6
    assert np.array_equal(cosines(one[2], other), found[2])
    assert np.abs(np.diag(cosines(one, one)) - 1).max() < 1e-7
    assert cosines(one, -one).min() >= -1


def test_a_neuron_without_effects_is_at_no_angle(directions: F64) -> None:
    rows = directions[0, :3].copy()
    rows[1] = 0
    found = cosines(rows[0], rows)
    assert np.isnan(found).tolist() == [False, True, False]
    assert rank_neurons(found[None], 3).neurons.tolist() == [0, 2]
