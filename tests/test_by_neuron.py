"""Neuron by neuron: several extents, shards cut anywhere, ties, and rejected images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lensbase.ingest import by_neuron as writing
from lensbase.ingest.by_neuron import write_by_neuron
from lensbase.schema import by_neuron, durable
from lensbase.schema.arrays import RunShape, declare, run_arrays, write_static
from lensbase.schema.by_neuron import ByNeuron, extents
from lensbase.schema.layout import Layout
from lensbase.schema.manifest import damaged_files, read_manifest
from lensbase.schema.shards import encode_shard, shard_path

SHAPE = RunShape(
    images=150,
    segment_rows=32,
    layers=4,
    heads=2,
    head_width=4,
    embed_dim=8,
    patches=4,
    head_layers=(),
    tokens=False,
    head_token_layers=(),
    neuron_layers=(0, 2),
    neurons=21,
    width=8,
)
REJECTED = (0, 77, 149)
LABEL = 3


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, np.ndarray]:
    """Random norms of few values, so that many tie; extents of 64 rows, shards of 10 neurons."""
    monkeypatch.setattr(by_neuron, "EXTENT", 64)
    monkeypatch.setattr(by_neuron, "TOP", 9)
    for module in (by_neuron, writing):
        monkeypatch.setattr(module, "SHARD_NEURONS", 10)
    layout = Layout(tmp_path)
    group = layout.arrays("r")
    declare(group, run_arrays(SHAPE), segment_rows=SHAPE.segment_rows, attributes={})
    norms = np.random.default_rng(0).integers(0, 12, (150, 2, 21)).astype(np.float16)
    norms[list(REJECTED)] = np.nan
    for name, values in (("neuron_norm", norms), ("neuron_coefficient", -2 * norms)):
        spec = run_arrays(SHAPE)[name]
        for segment in range(SHAPE.segments):
            rows = SHAPE.rows_of(segment)
            parts = encode_shard(spec, values[rows.start : rows.stop], segment_rows=32)
            durable.write_parts(shard_path(group / name, spec, segment), parts)
    write_static(group / "neuron_threshold", np.full((2, 21), 5, np.float32))
    return layout, norms.reshape(150, 42)


def test_both_orientations_hold_the_same(written: tuple[Layout, np.ndarray]) -> None:
    layout, norms = written
    summary = write_by_neuron(layout, "r", SHAPE, label=LABEL, version="1")
    assert [len(rows) for rows in extents(SHAPE)] == [64, 64, 22]
    reader = ByNeuron(layout, "r", SHAPE, LABEL)
    for neuron in range(42):
        column = norms[:, neuron]
        assert np.array_equal(reader.column("norm", neuron), column, equal_nan=True)
        assert np.array_equal(reader.column("coefficient", neuron), -2 * column, equal_nan=True)
        rows, largest = reader.top(neuron)
        # NaN sorts last; equal norms by ascending row, across extents too.
        wanted = np.argsort(-column.astype(np.float64), kind="stable")[:9]
        assert rows.tolist() == wanted.tolist()
        assert largest.tolist() == column[wanted].tolist()
    finite = np.nan_to_num(norms.astype(np.float64))
    assert np.array_equal(summary.total, finite.sum(0))
    assert np.array_equal(summary.active, (finite > 5).sum(0))
    manifest = read_manifest(layout.by_neuron_manifest("r", LABEL))
    assert list(damaged_files(layout, manifest, hashes=True)) == []


def test_zarr_reads_what_was_written(written: tuple[Layout, np.ndarray]) -> None:
    import zarr

    layout, norms = written
    write_by_neuron(layout, "r", SHAPE, label=LABEL, version="1")
    again = zarr.open_array(layout.by_neuron("r") / f"1-{LABEL}" / "norm", mode="r")[...]
    assert np.array_equal(again, norms[64:128].T, equal_nan=True)


def test_half_written_files_are_written_over(written: tuple[Layout, np.ndarray]) -> None:
    layout, norms = written
    left = layout.by_neuron("r") / f"0-{LABEL}" / "norm" / "c" / "0"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"half")
    write_by_neuron(layout, "r", SHAPE, label=LABEL, version="1")
    column = ByNeuron(layout, "r", SHAPE, LABEL).column("norm", 0)
    assert np.array_equal(column, norms[:, 0], equal_nan=True)
