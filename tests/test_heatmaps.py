"""Token maps by definition, laid out, enlarged and scaled for display."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from tower import Tower

from lensbase.queries.heatmaps import (
    head_token_map,
    map_direction,
    patch_grid,
    token_map,
    unit_range,
    upsample,
)


@pytest.fixture(scope="module")
def tower() -> Tower:
    return Tower(images=5, patches=12)


@pytest.fixture(scope="module")
def texts(tower: Tower) -> npt.NDArray[np.float64]:
    texts = np.random.default_rng(1).normal(size=(30, tower.joint)) + 1
    return texts / np.linalg.norm(texts, axis=1, keepdims=True)


def worst(found: npt.NDArray[np.floating], wanted: npt.NDArray[np.floating]) -> float:
    return float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))


def test_a_map_is_every_patchs_product_with_the_text(
    tower: Tower, texts: npt.NDArray[np.float64]
) -> None:
    token = tower.pair.sum((1, 2))[:, 1:]
    found = token_map(token, map_direction(texts[0]))
    assert found.shape == (5, 12)
    assert worst(found, token @ texts[0]) < 1e-6
    stored = token_map(token[3].astype(np.float16), map_direction(texts[0]))
    assert worst(stored, token[3] @ texts[0]) < 2e-3


def test_differences_and_debiasing_are_those_of_maps(
    tower: Tower, texts: npt.NDArray[np.float64]
) -> None:
    token = tower.pair.sum((1, 2))[:, 1:]
    maps = token @ texts.T
    mean = texts.mean(0)
    relative = token_map(token, map_direction(texts[0], relative_to=texts[1]))
    assert worst(relative, maps[..., 0] - maps[..., 1]) < 1e-6
    debiased = token_map(token, map_direction(texts[0], mean_text=mean))
    assert worst(debiased, maps[..., 0] - maps.mean(-1)) < 1e-6
    both = map_direction(texts[0], relative_to=texts[1], mean_text=mean)
    assert np.allclose(both, (texts[0] - mean) - (texts[1] - mean))


def test_one_heads_map_is_that_of_its_pairs(tower: Tower, texts: npt.NDArray[np.float64]) -> None:
    total = 0.0
    for layer, head in np.ndindex(3, 4):
        found = head_token_map(
            tower.weight[:, layer, head],
            tower.value[:, layer, :, head],
            tower.scale,
            basis=tower.basis[layer, head],
            direction=texts[0],
        )
        assert worst(found, tower.pair[:, layer, head, 1:] @ texts[0]) < 1e-6
        total = total + np.float64(found)
    # All heads together make the whole map.
    whole = token_map(tower.pair.sum((1, 2))[:, 1:], texts[0])
    assert worst(np.asarray(total), whole) < 1e-6


def test_patches_are_laid_out_row_by_row() -> None:
    scores = np.arange(24.0).reshape(2, 12)
    grid = patch_grid(scores, (3, 4))
    assert grid.shape == (2, 3, 4)
    assert grid[1, 2, 1] == scores[1, 2 * 4 + 1]
    assert patch_grid(np.arange(49.0)).shape == (7, 7)
    with pytest.raises(ValueError, match="12 patches do not make a grid of 3 x 3"):
        patch_grid(scores)


@pytest.mark.parametrize("size", [(7, 7), (224, 224), (100, 33), (5, 9), (1, 1), (3, 200)])
@pytest.mark.parametrize("grid", [(7, 7), (3, 5), (1, 4), (1, 1)])
def test_upsampling_is_torchs_bilinear_interpolation(
    grid: tuple[int, int], size: tuple[int, int]
) -> None:
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(2).normal(size=(2, *grid))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(maps)[:, None], size=size, mode="bilinear", align_corners=False
    )[:, 0].numpy()
    found = upsample(maps, size)
    assert found.dtype == np.float64
    assert np.allclose(found, wanted, rtol=0, atol=1e-12)
    assert np.allclose(upsample(maps.astype(np.float32), size), wanted, rtol=0, atol=1e-5)


def test_upsampling_keeps_constants_and_centers() -> None:
    assert np.allclose(upsample(np.full((3, 5), 2.5), (64, 48)), 2.5)
    ramp = upsample(np.array([[0.0, 1.0]]), (1, 8))
    # Centers of the two cells lie at pixels 1.5 and 5.5; outside them the border holds.
    assert np.allclose(ramp, [[0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1]])


def test_display_range_is_per_map() -> None:
    maps = np.array([[[-2.0, 0.0], [2.0, 6.0]], [[3.0, 3.0], [3.0, 3.0]]])
    assert np.allclose(unit_range(maps)[0], [[0, 0.25], [0.5, 1]])
    assert np.allclose(unit_range(maps)[1], 0)
    assert np.allclose(unit_range(maps, positive=True)[0], [[0, 0], [1 / 3, 1]])
    assert np.allclose(unit_range(-np.abs(maps), positive=True), 0)
