"""What a run keeps of its neurons, beside the effects that it never forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lensbase.schema.arrays import RunShape, Storage, run_arrays
from lensbase.schema.by_neuron import extent_arrays, extents, top_arrays

# ViT-B-32's MLPs and joint space, over the images of a large run.
NEURONS, JOINT, IMAGES = 3072, 512, 50_000
FORMED = NEURONS * JOINT * 4  # bytes of all phi_n of an image and layer in float32
MAPS = "neuron_input"  # what activation maps are made of, asked for apart


def shape(layers: tuple[int, ...], *, storage: Storage = "float16") -> RunShape:
    return RunShape(
        images=IMAGES,
        segment_rows=256,
        layers=12,
        heads=12,
        head_width=64,
        embed_dim=JOINT,
        patches=49,
        head_layers=(),
        tokens=False,
        head_token_layers=(),
        storage=storage,
        neuron_layers=layers,
        neurons=NEURONS,
        width=768,
        neuron_input=True,
    )


def by_image(run: RunShape) -> float:
    """Bytes an image and layer in the orientation of an ingest: the row arrays."""
    names = run_arrays(replace(run, neuron_layers=(), neuron_input=False))
    row = sum(
        spec.row_bytes
        for name, spec in run_arrays(run).items()
        if name not in names and name != MAPS
    )
    return row / len(run.neuron_layers)


def by_neuron(run: RunShape) -> float:
    """Bytes an image and layer in the other one: columns, and the rows of largest norm."""
    specs = [spec for rows in extents(run) for spec in extent_arrays(run, rows).values()]
    specs += top_arrays(run).values()
    whole = sum(int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize for spec in specs)
    return whole / run.images / len(run.neuron_layers)


@pytest.mark.parametrize("layers", [(9,), (8, 9, 10)])
def test_at_most_a_hundredth_of_the_formed_effects_in_each_orientation(
    layers: tuple[int, ...],
) -> None:
    """By image 16,384 bytes, 1/384 of 6,291,456; by neuron 12,414, 1/507."""
    run = shape(layers)
    assert by_image(run) == 2 * (2 * NEURONS + 4 * JOINT) == 16_384
    assert by_neuron(run) == pytest.approx(12_413.8, abs=0.1)
    assert by_image(run) == FORMED / 384
    assert max(by_image(run), by_neuron(run)) <= FORMED / 100


def test_float32_stays_under_it_too() -> None:
    """By image 1/192, by neuron 1/255."""
    run = shape((8, 9, 10), storage="float32")
    assert FORMED / by_image(run) == 192
    assert FORMED / by_neuron(run) == pytest.approx(254.7, abs=0.1)


def test_maps_are_apart() -> None:
    """What neurons read at 49 patches takes 75,264 bytes: 1/84 alone, so it is asked for."""
    assert run_arrays(shape((9,)))[MAPS].row_bytes == 49 * 768 * 2
    assert MAPS not in run_arrays(replace(shape((9,)), neuron_input=False))
