"""Activations over patches by their formulas, one neuron and one patch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.queries import neuron_maps as module
from lensbase.queries.heatmaps import patch_grid, unit_range
from lensbase.queries.neuron_maps import (
    ACTIVATIONS,
    InputWeights,
    activate,
    mean_neuron_map,
    neuron_maps,
)

F64 = npt.NDArray[np.float64]

FORMULAS: dict[str, Callable[[float], float]] = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quickgelu": lambda x: x / (1 + math.exp(-1.702 * x)),
}


def make(activation: str, *, seed: int = 0, neurons: int = 7) -> tuple[F64, InputWeights]:
    rng = np.random.default_rng(seed)
    weights = InputWeights(
        rng.normal(size=(neurons, 16)) / 4, rng.normal(size=neurons) / 4, activation
    )
    return rng.normal(size=(5, 12, 16)), weights


def literal(inputs: F64, weights: InputWeights) -> F64:
    """The activations [K, n, T]."""
    out = np.zeros((len(inputs), len(weights.matrix), inputs.shape[1]))
    for image, neuron, patch in np.ndindex(*out.shape):
        before = float(inputs[image, patch] @ weights.matrix[neuron] + weights.bias[neuron])
        out[image, neuron, patch] = FORMULAS[weights.activation](before)
    return out


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(x=st.floats(-30, 30, width=32))
def test_activations_are_their_formulas(activation: str, x: float) -> None:
    found = activate(np.array([x], np.float32), activation)
    assert found.dtype == np.float32
    assert abs(float(found[0]) - FORMULAS[activation](x)) <= 2e-6 * max(1, abs(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_torchs(activation: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.linspace(-12, 12, 4001)
    wanted = {
        "gelu": lambda: torch.nn.functional.gelu(x),
        "gelu_tanh": lambda: torch.nn.functional.gelu(x, approximate="tanh"),
        "quickgelu": lambda: x * torch.sigmoid(1.702 * x),
    }[activation]()
    assert np.abs(activate(x.numpy(), activation) - wanted.numpy()).max() < 2e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_maps_are_every_neuron_at_every_patch(activation: str) -> None:
    inputs, weights = make(activation)
    wanted = literal(inputs, weights)
    found = neuron_maps(inputs, weights)
    assert found.shape == (5, 7, 12)
    assert np.abs(found - wanted).max() < 2e-6
    assert np.abs(neuron_maps(inputs[2], weights) - wanted[2]).max() < 2e-6
    halves = inputs.astype(np.float16)
    exact = literal(halves.astype(np.float64), weights)
    assert np.abs(neuron_maps(halves, weights) - exact).max() < 2e-6


@pytest.mark.parametrize("block", [1, 2**13, 2**25])
def test_the_mean_map_is_the_mean_of_maps(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", block)
    inputs, weights = make("gelu", neurons=40)
    wanted = literal(inputs, weights)
    found = mean_neuron_map(inputs, weights)
    assert found.shape == (5, 12)
    assert np.abs(found - wanted.mean(1)).max() < 1e-6
    assert np.abs(mean_neuron_map(inputs[3], weights) - wanted[3].mean(0)).max() < 1e-6
    products = np.random.default_rng(2).normal(size=40)
    products[5] = 0
    flipped = mean_neuron_map(inputs, weights, signs=products)
    signed = (np.sign(products)[:, None] * wanted).mean(1)
    assert np.abs(flipped - signed).max() < 1e-6


def test_only_some_images_maps_are_formed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watched(inputs: F64, weights: InputWeights) -> npt.NDArray[np.float32]:
        nonlocal largest
        maps = neuron_maps(inputs, weights)
        largest = max(largest, maps.nbytes)
        return maps

    monkeypatch.setattr(module, "_BLOCK_BYTES", 2 * 4 * 12 * 40)
    monkeypatch.setattr(module, "neuron_maps", watched)
    inputs, weights = make("gelu", neurons=40)
    mean_neuron_map(inputs, weights)
    assert largest == 2 * 4 * 12 * 40


def test_a_mean_map_is_scaled_for_display_and_a_constant_one_is_zero() -> None:
    inputs, weights = make("quickgelu")
    scaled = unit_range(patch_grid(mean_neuron_map(inputs, weights), (3, 4)))
    assert scaled.min(axis=(1, 2)).tolist() == [0] * 5
    assert scaled.max(axis=(1, 2)).tolist() == [1] * 5
    blind = weights._replace(matrix=np.zeros_like(weights.matrix))
    assert not unit_range(patch_grid(mean_neuron_map(inputs, blind), (3, 4))).any()


def test_what_cannot_be_computed_is_refused() -> None:
    inputs, weights = make("relu")
    with pytest.raises(ValueError, match="No activation is called 'relu'; there are gelu"):
        neuron_maps(inputs, weights)
    empty = InputWeights(weights.matrix[:0], weights.bias[:0], "gelu")
    with pytest.raises(ValueError, match="No neurons were given"):
        mean_neuron_map(inputs, empty)
