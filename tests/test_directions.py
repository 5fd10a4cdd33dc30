"""The first component of formed effects is that of a singular value decomposition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from driven_tower import gram_root
from hypothesis import given
from hypothesis import strategies as st

from lensbase.queries.directions import effect_direction
from lensbase.queries.second_order import LARGEST, rank_one
from lensbase.schema.errors import BadSelection

F64 = npt.NDArray[np.float64]


def literal(effects: F64, count: int) -> tuple[F64, float, list[int]]:
    """Direction, share explained and rows, by `numpy.linalg.svd` of the largest effects."""
    rest = effects - effects.mean(0)
    rows = sorted(range(len(rest)), key=lambda row: -float(np.sqrt((rest[row] ** 2).sum())))[:count]
    _, values, right = np.linalg.svd(rest[rows], full_matrices=False)
    direction = right[0]
    if np.sign(rest[rows] @ direction).sum() < 0:
        direction = -direction
    return direction, float(values[0] ** 2 / (values**2).sum()), rows


@given(seed=st.integers(0, 10**6), images=st.integers(3, 40), count=st.integers(2, 45))
def test_the_direction_is_the_first_singular_vector(seed: int, images: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    effects = np.outer(rng.normal(size=images) ** 3, rng.normal(size=6)) + rng.normal(
        size=(images, 6)
    )
    direction, explained, rows = literal(effects, count)
    found = effect_direction(effects, count=count)
    assert np.allclose(found.mean, effects.mean(0), rtol=0, atol=1e-12)
    assert abs(found.explained - explained) < 1e-9
    assert found.rows.tolist() == rows
    balanced = np.sign((effects[rows] - found.mean) @ direction).sum() == 0
    cosine = float(found.direction @ direction)
    gap = np.linalg.svd((effects - effects.mean(0))[rows], compute_uv=False)
    if gap[1] < 0.99 * gap[0]:
        assert abs(abs(cosine) - 1) < 1e-9
        assert balanced or cosine > 0


def test_the_largest_hundred_are_taken_by_default() -> None:
    effects = np.random.default_rng(1).normal(size=(300, 12))
    direction, explained, rows = literal(effects, LARGEST)
    found = effect_direction(effects)
    assert len(found.rows) == LARGEST == 100
    assert found.rows.tolist() == rows
    assert abs(found.explained - explained) < 1e-12
    assert abs(float(found.direction @ direction)) > 1 - 1e-9


def test_formed_second_order_effects_give_what_their_factors_give() -> None:
    rng = np.random.default_rng(2)
    factors, matrix = rng.normal(size=(60, 3, 5)), rng.normal(size=(3, 5, 16))
    by_factors = rank_one(factors, gram_root(matrix @ np.swapaxes(matrix, 1, 2)), count=20)
    for neuron in range(3):
        found = effect_direction(factors[:, neuron] @ matrix[neuron], count=20)
        wanted = by_factors.coefficients[neuron] @ matrix[neuron]
        assert abs(found.explained - by_factors.explained[neuron]) < 1e-10
        assert np.array_equal(found.rows, by_factors.rows[neuron])
        assert abs(abs(float(found.direction @ wanted)) - 1) < 1e-10


def test_effects_along_one_direction_are_explained_whole() -> None:
    direction = np.array([0.6, 0.0, -0.8])
    coefficients = np.array([-1.0, -1.0, 3.0, 1.5, 0.5, -0.25])
    found = effect_direction(np.outer(coefficients, direction) + 4)
    assert abs(found.explained - 1) < 1e-12
    assert abs(abs(float(found.direction @ direction)) - 1) < 1e-12
    # Isotropic ones in E dimensions: a share near 1/E.
    flat = effect_direction(np.concatenate([np.eye(8), -np.eye(8)]))
    assert abs(flat.explained - 1 / 8) < 1e-12


def test_nothing_is_explained_of_nothing() -> None:
    found = effect_direction(np.zeros((10, 4)))
    assert found.explained == 0
    assert not found.direction.any()


def test_rows_without_numbers_are_skipped_and_none_left_is_refused() -> None:
    effects = np.random.default_rng(3).normal(size=(20, 5))
    holed = effects.copy()
    holed[[4, 9]] = np.nan
    kept = np.delete(np.arange(20), [4, 9])
    found, wanted = effect_direction(holed, count=6), effect_direction(effects[kept], count=6)
    assert found.explained == wanted.explained
    assert np.array_equal(found.rows, kept[wanted.rows])
    with pytest.raises(BadSelection, match="0 usable images"):
        effect_direction(np.full((3, 5), np.nan))
