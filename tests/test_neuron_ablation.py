"""Layer experiments from sums against effects [K, N, E] formed one by one in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.queries import neuron_ablation as module
from lensbase.queries.neuron_ablation import (
    Ablated,
    LayerSums,
    Pairs,
    along_directions,
    mean_ablated,
    pairs_ablated,
)

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Layer(NamedTuple):
    """Effects phi [K, N, E] of a layer, in representations [K, E], and what is stored of them."""

    phi: F64
    representations: F64
    mean: F64  # b_n [N, E]
    directions: F64  # r_n [N, E]
    coefficients: F64  # x [K, N]
    large: Flags  # [K, N]
    sums: LayerSums


def make(seed: int = 0, *, exact: bool = False) -> Layer:
    """A random layer; `exact` effects are x_n r_n + b_n without anything else."""
    rng = np.random.default_rng(seed)
    images, neurons, width = 30, 20, 8
    directions = rng.normal(size=(neurons, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mean = rng.normal(size=(neurons, width)) / 5
    coefficients = rng.normal(size=(images, neurons)) * rng.choice([0.1, 2], (images, neurons))
    phi = coefficients[..., None] * directions + mean
    if not exact:
        phi = phi + rng.normal(size=phi.shape) / 10
        coefficients = np.einsum("kne,ne->kn", phi - mean, directions)
    large = np.linalg.norm(phi, axis=2) > 1
    sums = LayerSums(
        phi.sum(1),
        (phi * large[..., None]).sum(1),
        (mean * large[..., None]).sum(1),
        mean.sum(0),
    )
    representations = phi.sum(1) + rng.normal(size=(images, width))
    return Layer(phi, representations, mean, directions, coefficients, large, sums)


def replaced(layer: Layer, effects: F64, where: Flags | None = None) -> F64:
    """Representations with phi replaced by `effects` [K, N, E], where so marked [K, N]."""
    out = layer.representations.copy()
    for image, neuron in np.ndindex(*layer.phi.shape[:2]):
        if where is None or where[image, neuron]:
            out[image] += effects[image, neuron] - layer.phi[image, neuron]
    return out


@given(seed=st.integers(0, 10**6), ablated=st.sampled_from(["all", "large", "small"]))
def test_mean_ablation_replaces_effects_by_their_means(seed: int, ablated: Ablated) -> None:
    layer = make(seed)
    where = {"all": None, "large": layer.large, "small": ~layer.large}[ablated]
    wanted = replaced(layer, np.broadcast_to(layer.mean, layer.phi.shape), where)
    before = layer.representations.copy()
    found = mean_ablated(layer.representations, layer.sums, ablated)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-5
    assert np.array_equal(layer.representations, before)


def test_half_precision_sums_are_added_up_in_single() -> None:
    layer = make(1)
    halves = LayerSums(*(numbers.astype(np.float16) for numbers in layer.sums))
    exact = LayerSums(*(numbers.astype(np.float64) for numbers in halves))
    stored = layer.representations.astype(np.float16)
    for ablated in ("all", "large", "small"):
        found = mean_ablated(stored, halves, ablated)
        wanted = mean_ablated(stored.astype(np.float64), exact, ablated)
        assert np.abs(found - wanted).max() < 1e-5


@pytest.mark.parametrize("block", [1, 7, 2048])
def test_one_direction_stands_in_for_every_effect(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    layer = make(2)
    shuffled = layer.directions[np.random.default_rng(3).permutation(20)]
    for directions in (layer.directions, shuffled):
        effects = layer.coefficients[..., None] * directions + layer.mean
        found = along_directions(
            layer.representations, layer.sums, layer.coefficients, directions=directions
        )
        assert np.abs(found - replaced(layer, effects)).max() < 1e-5
    kept = make(4, exact=True)
    same = along_directions(
        kept.representations, kept.sums, kept.coefficients, directions=kept.directions
    )
    assert np.abs(same - kept.representations).max() < 1e-5


def pairs_of(layer: Layer, where: Flags) -> Pairs:
    images, neurons = np.nonzero(where)
    order = np.random.default_rng(5).permutation(len(images))
    images, neurons = images[order], neurons[order]
    return Pairs(neurons, images, layer.coefficients[images, neurons])


@pytest.mark.parametrize("exact", [True, False], ids=["rank one", "with a rest"])
def test_top_images_of_neurons_are_taken_along_their_directions(exact: bool) -> None:
    layer = make(6, exact=exact)
    top = np.zeros_like(layer.large)
    for neuron in range(20):
        top[np.argsort(-np.abs(layer.coefficients[:, neuron]))[:4], neuron] = True
    pairs = pairs_of(layer, top)
    approximate = layer.coefficients[..., None] * layer.directions + layer.mean
    estimated = layer.phi.copy()
    estimated[top] = approximate[top]
    mean = np.broadcast_to(layer.mean, layer.phi.shape)
    # "large" takes the estimate away where it stands for phi; "small" keeps the estimate alone.
    wanted = {
        "large": layer.representations + ((mean - estimated) * top[..., None]).sum(1),
        "small": replaced(layer, np.where(top[..., None], estimated, mean)),
    }
    names: tuple[Ablated, ...] = ("large", "small")
    for name in names:
        assert name != "all"
        found = pairs_ablated(
            layer.representations, layer.sums, pairs, directions=layer.directions, ablated=name
        )
        assert np.abs(found - wanted[name]).max() < 1e-5
        truth = replaced(layer, mean, top if name == "large" else ~top)
        # Exact where effects have one direction; elsewhere it is the estimate that it says it is.
        assert (np.abs(found - truth).max() < 1e-5) == exact


def test_all_pairs_are_the_whole_and_none_is_nothing() -> None:
    layer = make(7, exact=True)
    every = pairs_of(layer, np.ones_like(layer.large))
    none = pairs_of(layer, np.zeros_like(layer.large))
    whole = mean_ablated(layer.representations, layer.sums, "all")
    for pairs, large, small in (
        (every, whole, layer.representations),
        (none, layer.representations, whole),
    ):
        found = pairs_ablated(
            layer.representations, layer.sums, pairs, directions=layer.directions, ablated="large"
        )
        assert np.abs(found - large).max() < 1e-5
        found = pairs_ablated(
            layer.representations, layer.sums, pairs, directions=layer.directions, ablated="small"
        )
        assert np.abs(found - small).max() < 1e-5


def test_what_cannot_be_is_refused() -> None:
    layer = make(8)
    with pytest.raises(ValueError, match="'huge' names no effects of a neuron"):
        mean_ablated(layer.representations, layer.sums, "huge")  # pyright: ignore[reportArgumentType]
    pairs = pairs_of(layer, layer.large)
    with pytest.raises(ValueError, match="'all' names no effects of pairs"):
        pairs_ablated(
            layer.representations,
            layer.sums,
            pairs,
            directions=layer.directions,
            ablated="all",  # pyright: ignore[reportArgumentType]
        )
    for beyond in (30, -1):
        wrong = pairs._replace(images=np.full_like(pairs.images, beyond))
        with pytest.raises(ValueError, match="axis 0 index"):
            pairs_ablated(
                layer.representations,
                layer.sums,
                wrong,
                directions=layer.directions,
                ablated="large",
            )
