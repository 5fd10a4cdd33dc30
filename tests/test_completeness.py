"""All terms add up, and a missing or wrong one shows with its size."""

from __future__ import annotations

import numpy as np
import pytest
from tower import Tower

from lensbase.queries.completeness import head_residual, layer_residual, token_residual
from lensbase.queries.factors import head_factors
from lensbase.schema.components import layer_terms


@pytest.fixture(scope="module")
def tower() -> Tower:
    return Tower(images=20, joint=32)


def tokens(tower: Tower, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    every = tower.pair.sum((1, 2))
    return every[:, 1:].astype(dtype), every[:, 0].astype(dtype)


# What rounding each number once leaves: half a unit in the last place, times a few for the sum.
@pytest.mark.parametrize(("dtype", "limit"), [("f8", 1e-14), ("f4", 1e-6), ("f2", 2e-3)])
def test_layers_tokens_and_heads_add_up_from_stored_arrays(
    tower: Tower, dtype: str, limit: float
) -> None:
    kind = np.dtype(dtype).type
    whole = tower.representation.astype(np.float32 if dtype != "f8" else np.float64)
    layer = tower.layer.astype(kind)
    token, cls_token = tokens(tower, kind)
    factors = head_factors(tower.u.astype(kind), tower.scale)
    residuals = {
        "layers": layer_residual(layer, whole),
        "tokens": token_residual(token, cls_token, layer, representation=whole),
        "heads": head_residual(factors, tower.basis, layer[:, 1::2], representation=whole),
    }
    for name, residual in residuals.items():
        assert residual.shape[0] == tower.images
        assert residual.max() < limit, f"{name}: {residual.max():.1e} in {dtype}"


def test_a_missing_term_is_the_residual(tower: Tower) -> None:
    norm = np.linalg.norm(tower.representation, axis=-1)
    for index, name in enumerate(layer_terms(tower.layers)):
        layer = tower.layer.copy()
        layer[:, index] = 0
        wanted = np.linalg.norm(tower.layer[:, index], axis=-1) / norm
        assert np.allclose(layer_residual(layer, tower.representation), wanted), name
        token, cls_token = tokens(tower, np.float64)
        found = token_residual(token, cls_token, layer, representation=tower.representation)
        wanted = np.zeros(tower.images) if name.endswith("ATTN") else wanted
        assert np.allclose(found, wanted, atol=1e-12), name


def test_a_wrong_head_shows_in_its_layer_alone(tower: Tower) -> None:
    u = tower.u.copy()
    u[:, 2, 1] *= 1.5
    factors = head_factors(u, tower.scale)
    found = head_residual(
        factors, tower.basis, tower.layer[:, 1::2], representation=tower.representation
    )
    assert found[:, :2].max() < 1e-12
    assert found[:, 2].min() > 1e-3
    one = head_residual(
        factors[:, 2], tower.basis[2], tower.layer[:, 5], representation=tower.representation
    )
    assert np.allclose(one, found[:, 2])


def test_sums_are_accumulated_in_float64() -> None:
    # 20,000 float16 terms of 0.1: a float16 sum stops growing at 256.
    token = np.full((1, 20_000, 2), 0.1, np.float16)
    none, layer = np.zeros((1, 2), np.float16), np.zeros((1, 3, 2), np.float16)
    whole = np.full((1, 2), 20_000 * float(np.float16(0.1)), np.float32)
    assert token_residual(token, none, layer, representation=whole)[0] < 1e-7


def test_rejected_images_have_no_residual(tower: Tower) -> None:
    layer, whole = tower.layer.copy(), tower.representation.copy()
    layer[4], whole[4] = np.nan, np.nan
    found = layer_residual(layer, whole)
    assert np.flatnonzero(np.isnan(found)).tolist() == [4]
