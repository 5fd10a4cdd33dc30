"""Directions, thresholds and projections of neurons against effects formed in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from driven_tower import drive, formed, formed_component, tiny
from vision_reference import images_for, off

from lensbase.ingest.neuron_fit import FittedNeurons, NeuronFit
from lensbase.ingest.neuron_layers import fit_bytes
from lensbase.ingest.neuron_projection import Projection
from lensbase.ingest.second_order import SecondOrder
from lensbase.queries.second_order import rank_one
from lensbase.schema.errors import BadSelection

LAYERS = (0, 2)


def fit(
    visual: Any, images: torch.Tensor, *, count: int, batch: int
) -> tuple[SecondOrder, dict[int, FittedNeurons]]:
    second_order = SecondOrder(visual, LAYERS)
    found = NeuronFit(second_order, count=count)
    everything = torch.arange(len(images))
    for first in (True, False):
        for rows in everything.split(batch):
            trace = drive(visual, images[rows], second_order)
            if first:
                found.observe(trace)
            else:
                found.select(trace, rows)
    return second_order, {layer: found.fitted(layer) for layer in LAYERS}


@pytest.mark.parametrize(("count", "batch"), [(12, 7), (30, 20), (100, 50)])
def test_a_streamed_fit_is_that_of_all_formed_effects_at_once(count: int, batch: int) -> None:
    visual = tiny()
    images = images_for(visual, 50)
    second_order, fitted = fit(visual, images, count=count, batch=batch)
    trace = drive(visual, images, second_order)
    for layer, found in fitted.items():
        effects = formed(trace, layer)
        lengths = np.linalg.norm(effects, axis=2)
        assert off(found.mean, effects.mean(0)) < 1e-5
        assert off(found.threshold, np.percentile(lengths, 98, axis=0)) < 1e-5
        whole = rank_one(
            trace.factors(layer).numpy(), second_order.root(layer).numpy(), count=count
        )
        assert found.rows.shape == whole.rows.shape
        for n in range(len(found.rows)):
            apart = effects[:, n] - effects[:, n].mean(0)
            sizes = np.linalg.norm(apart, axis=1)
            assert len(set(found.rows[n])) == min(count, 50)
            wanted = np.sort(sizes)[::-1][:count]
            assert np.allclose(sizes[found.rows[n]], wanted, rtol=1e-4)
            r, explained = formed_component(apart[found.rows[n]])
            r = (
                r
                if np.sign(apart[found.rows[n]] @ r).sum()
                else r * np.sign(r @ found.direction[n])
            )
            assert abs(found.explained[n] - explained) < 1e-4
            error = off(found.direction[n], r)
            assert error < 1e-3, f"layer {layer}, neuron {n}: {error:.1e}"


def test_projected_numbers_are_those_of_formed_effects() -> None:
    visual = tiny(vision={"ls_init_value": 0.1})
    images = images_for(visual, 40)
    second_order, fitted = fit(visual, images[:30], count=20, batch=16)
    trace = drive(visual, images[20:], second_order)
    found = Projection(second_order, fitted)(trace)
    for i, layer in enumerate(LAYERS):
        effects, neurons = formed(trace, layer), fitted[layer]
        lengths = np.linalg.norm(effects, axis=2)
        large = lengths > neurons.threshold
        assert 0 < large.sum() < large.size / 4
        clear = np.abs(lengths - neurons.threshold) > 1e-5 * lengths
        assert np.array_equal(found.large[:, i].numpy()[clear], large[clear])
        kept = found.large[:, i].numpy()[..., None]
        x = np.einsum("kne,ne->kn", effects - neurons.mean, neurons.direction)
        errors = {
            "norm": off(found.norm[:, i], lengths),
            "coefficient": off(found.coefficient[:, i], x),
            "total": off(found.total[:, i], effects.sum(1)),
            "large total": off(found.large_total[:, i], (effects * kept).sum(1)),
            "bias": off(found.bias[:, i], trace.bias(layer)),
        }
        for name, error in errors.items():
            assert error < 1e-4, f"layer {layer}, {name}: {error:.1e}"


def test_a_fit_without_images_is_refused() -> None:
    visual = tiny()
    second_order = SecondOrder(visual, LAYERS)
    empty = NeuronFit(second_order)
    with pytest.raises(BadSelection, match="no reference image"):
        empty.fitted(0)
    trace = drive(visual, images_for(visual, 2), second_order)
    with pytest.raises(BadSelection, match="no reference image"):
        empty.select(trace, torch.arange(2))


def test_what_a_fit_keeps_is_what_it_says() -> None:
    visual = tiny()
    # 128 neurons: a float64 mean and 30 rows of factors, norms and row numbers; 50 norms.
    for layer, paths in ((0, 12), (2, 4)):
        wanted = 128 * (8 * paths + 4 * 50 + 30 * (4 * paths + 4 + 8))
        assert fit_bytes(visual, layer, images=50, count=30) == wanted
    images, second_order = images_for(visual, 50), SecondOrder(visual, LAYERS)
    kept, trace = NeuronFit(second_order, count=30), drive(visual, images, second_order)
    kept.observe(trace)
    kept.select(trace, torch.arange(50))
    sizes = [fit_bytes(visual, layer, images=50, count=30) for layer in LAYERS]
    state = kept.state()
    assert sum(state[name].nbytes for name in state if name != "images") == sum(sizes)
