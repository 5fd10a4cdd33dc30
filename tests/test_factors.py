"""Heads as factors times a matrix, against contributions written out from the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from tower import Tower

from lensbase.queries import factors
from lensbase.schema.errors import BadSelection

EXACT = 1e-12


@pytest.fixture(scope="module")
def tower() -> Tower:
    return Tower()


def worst(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


def test_factors_times_basis_are_the_heads_contributions(tower: Tower) -> None:
    f = factors.head_factors(tower.u, tower.scale)
    c = factors.head_contribution(f, tower.basis)
    assert worst(c, tower.pair.sum(3)) < EXACT
    one = factors.head_contribution(f[:, 2, 1], tower.basis[2, 1])
    assert worst(one, tower.pair[:, 2, 1].sum(1)) < EXACT


def test_normalized_contributions_are_divided_by_the_images_norm(tower: Tower) -> None:
    f = factors.head_factors(tower.u, tower.scale)
    norms = np.linalg.norm(tower.representation, axis=1)
    c = factors.head_contribution(f, tower.basis, norms)
    assert worst(c, tower.pair.sum(3) / norms[:, None, None, None]) < EXACT


def test_head_tokens_are_the_pairs_of_token_and_head(tower: Tower) -> None:
    arguments = tower.weight[:, 1, 3], tower.value[:, 1, :, 3], tower.scale
    c = factors.head_token_contribution(*arguments, basis=tower.basis[1, 3])
    assert worst(c, tower.pair[:, 1, 3]) < EXACT
    f = factors.head_token_factors(*arguments)
    assert worst(f.sum(1), factors.head_factors(tower.u[:, 1, 3], tower.scale)) < EXACT


def test_norms_are_those_of_the_contributions(tower: Tower) -> None:
    f = factors.head_factors(tower.u, tower.scale)
    wanted = np.linalg.norm(tower.pair.sum(3), axis=-1)
    assert worst(factors.head_norms(f, tower.basis), wanted) < EXACT


def test_norms_survive_cancellation_that_a_gram_matrix_does_not() -> None:
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(8, 32))
    basis[1] = -basis[0] + 1e-9 * rng.normal(size=32)
    f = np.zeros((5, 8))
    f[:, :2] = rng.normal(size=(5, 1))
    wanted = np.linalg.norm(np.abs(f[:, :1]) * (basis[0] + basis[1]), axis=1)
    found = factors.head_norms(f, basis)
    gram = np.einsum("kf,fg,kg->k", f, basis @ basis.T, f)
    error = worst(found, wanted)
    assert error < 1e-5, f"relative error {error:.1e}"
    assert worst(np.sqrt(np.abs(gram)), wanted) > 1e-2


def test_norms_of_a_joint_space_narrower_than_the_head() -> None:
    small = Tower(head_width=9, joint=6)
    f = factors.head_factors(small.u, small.scale)
    wanted = np.linalg.norm(small.pair.sum(3), axis=-1)
    assert worst(factors.head_norms(f, small.basis), wanted) < EXACT


def test_shares_of_all_terms_add_up_to_one(tower: Tower) -> None:
    f = factors.head_factors(tower.u, tower.scale)
    share = factors.head_share(f, tower.basis, tower.representation)
    squared = (tower.representation**2).sum(-1)
    wanted = np.einsum("klhte,ke->klh", tower.pair, tower.representation)
    assert worst(share, wanted / squared[:, None, None]) < EXACT
    rest = np.einsum("kne,ke->k", tower.layer[:, 0::2], tower.representation) / squared
    assert np.allclose(share.sum((1, 2)) + rest, 1, rtol=0, atol=EXACT)


def test_float16_values_are_converted_once_and_then_exact(tower: Tower) -> None:
    stored = tower.u.astype(np.float16)
    found = factors.head_contribution(factors.head_factors(stored, tower.scale), tower.basis)
    again = factors.head_factors(stored.astype(np.float64), tower.scale)
    assert np.array_equal(found, factors.head_contribution(again, tower.basis))
    short = factors.head_factors(stored, tower.scale, dtype=np.float32)
    assert short.dtype == np.float32
    assert worst(short, again) < 1e-7


def test_rejected_images_stay_nan(tower: Tower) -> None:
    u, scale = tower.u.copy(), tower.scale.copy()
    u[3], scale[3] = np.nan, np.nan
    f = factors.head_factors(u, scale)
    assert np.isnan(f[3]).all()
    c = factors.head_contribution(f, tower.basis)
    assert np.isnan(c[3]).all()
    assert np.isfinite(np.delete(c, 3, axis=0)).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_moments_give_mean_and_covariance_of_the_factors(normalize: bool) -> None:
    tower = Tower(images=300)
    f = factors.head_factors(tower.u, tower.scale)
    norms = tower.scale[:, 2]
    found = factors.covariance(factors.moments(f, norms), normalize=normalize)
    assert found.images == 300
    weighted = f / norms[:, None, None, None] if normalize else f
    for layer, head in np.ndindex(3, 4):
        rows = weighted[:, layer, head]
        assert np.allclose(found.mean[layer, head], rows.mean(0), rtol=0, atol=EXACT)
        wanted = np.cov(rows.T, bias=True)
        assert np.allclose(found.covariance[layer, head], wanted, rtol=0, atol=EXACT)


def test_moments_of_parts_add_up_and_skip_rejected_images() -> None:
    tower = Tower(images=9000, layers=1, heads=2, head_width=3, joint=8)  # several blocks
    f = factors.head_factors(tower.u[:, 0, 1], tower.scale)
    norms = tower.scale[:, 2]
    whole = factors.moments(f, norms)
    parts = factors.moments(f[:4000], norms[:4000]) + factors.moments(f[4000:], norms[4000:])
    assert worst(parts, whole) < EXACT
    holes = np.insert(f, [0, 17, 9000], np.nan, axis=0)
    more = factors.moments(holes, np.insert(norms, [0, 17, 9000], np.nan))
    assert worst(more, whole) < EXACT
    assert more[0, -1, -1] == more[1, -1, -1] == 9000


def test_moments_of_no_image_are_refused_by_name() -> None:
    nothing = factors.moments(np.full((4, 7), np.nan), np.full(4, np.nan))
    with pytest.raises(BadSelection, match="No image"):
        factors.covariance(nothing)
