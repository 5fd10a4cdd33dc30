"""Writing a complete run's neurons in the second orientation, and their images of largest norm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.retrieval import top_k
from ..schema import durable, manifest
from ..schema.arrays import ArraySpec, RunShape, declare, run_arrays
from ..schema.by_neuron import (
    QUANTITIES,
    SHARD_NEURONS,
    ByNeuron,
    extent_arrays,
    extents,
    top_arrays,
)
from ..schema.catalog import publish_lock, whole_generations
from ..schema.layout import Layout
from ..schema.shards import RowArray, encode_shard, shard_path
from ..schema.snapshot import connect, read_static

_ROWS = 256  # transposed at a time: both sides stay in the cache


@dataclass
class Summary:
    """What the norms of all images say of each neuron, over all kept layers.

    `rows` and `norms` [neurons, k] of the largest, largest first (-1 and NaN past the end);
    `total` [neurons], the sum of all; `active` [neurons], images above the threshold.
    """

    rows: npt.NDArray[np.int32]
    norms: npt.NDArray[np.float32]
    total: npt.NDArray[np.float64]
    active: npt.NDArray[np.int64]

    def take_in(self, neuron: int, given: npt.NDArray[Any], *, first_row: int) -> None:
        """Merge a neuron's norms of further rows; equal norms by ascending row."""
        norms, most = given.astype(np.float32), self.rows.shape[1]
        self.total[neuron] += np.nansum(norms, dtype=np.float64)
        found, known = top_k(norms, most), self.rows[neuron] >= 0
        if known.any():
            rows = np.concatenate([self.rows[neuron][known], found.rows + first_row])
            scores = np.concatenate([self.norms[neuron][known], found.scores])
            found = top_k(scores, most, rows=rows)
        count = len(found.rows)
        self.rows[neuron, :count] = found.rows
        self.norms[neuron, :count] = found.scores


def write_by_neuron(
    layout: Layout, folder: str, shape: RunShape, *, label: int, version: str
) -> Summary:
    """Write a run's norms and coefficients neuron by neuron, and commit them under a label.

    One shard of neurons is in memory at a time, twice while it is encoded.
    """
    threshold = read_static(layout, folder, "neuron_threshold").reshape(-1)
    target = ByNeuron(layout, folder, shape, label)
    specs = run_arrays(shape)
    arrays = {
        name: RowArray(
            layout.arrays(folder) / f"neuron_{name}",
            specs[f"neuron_{name}"],
            shape.segment_rows,
            version,
        )
        for name in QUANTITIES
    }
    summary = _empty(shape)
    files: list[manifest.FileEntry] = []
    for extent, rows in enumerate(extents(shape)):
        group, columns = target.extent_path(extent), extent_arrays(shape, rows)
        files += _declared(layout, group, columns)
        for shard, neurons in enumerate(_shards(shape)):
            for name in QUANTITIES:
                block = _columns(arrays[name], neurons, rows)
                if name == "norm":
                    for place, neuron in enumerate(neurons):
                        summary.take_in(neuron, block[place], first_row=rows.start)
                    part = slice(neurons.start, neurons.stop)
                    above = block.astype(np.float32) > threshold[part, None]
                    summary.active[part] += above.sum(1)
                files.append(_written(layout, group / name, columns[name], shard, block))
    for name, spec in top_arrays(shape).items():
        if name == "row":
            files += _declared(layout, target.top_path, top_arrays(shape))
        values = summary.rows if name == "row" else summary.norms
        for shard, neurons in enumerate(_shards(shape)):
            block = values[neurons.start : neurons.stop]
            files.append(_written(layout, target.top_path / name, spec, shard, block))
    manifest.commit(layout, layout.by_neuron_manifest(folder, label), files=files)
    return summary


def remove_earlier(layout: Layout, folder: str, *, written: int) -> None:
    """Remove what finalizing wrote under labels that no kept generation names.

    That just `written` stays in any case, and so does everything where a kept catalogue cannot be
    read: `lensbase rollback` may be under way.
    """
    # Nobody publishes or removes a generation meanwhile.
    with publish_lock(layout):
        named = _named_labels(layout, folder)
        for left in layout.segment_dir(folder).glob(f"by_neuron-*{durable.PARTIAL}"):
            left.unlink(missing_ok=True)
        if named is None:
            return
        found = layout.by_neuron(folder).glob("*-*")
        for label in {int(path.name.rsplit("-", 1)[1]) for path in found} - named - {written}:
            layout.by_neuron_manifest(folder, label).unlink(missing_ok=True)
            for path in layout.by_neuron(folder).glob(f"*-{label}"):
                shutil.rmtree(path, ignore_errors=True)


def _named_labels(layout: Layout, folder: str) -> set[int] | None:
    """The labels of a run that kept catalogues name; None where one cannot be read."""
    import duckdb

    named: set[int] = set()
    for generation in whole_generations(layout):
        try:
            with connect(layout.catalog(generation)) as connection:
                has_labels = connection.execute(
                    "SELECT 1 FROM duckdb_columns() "
                    "WHERE table_name = 'run' AND column_name = 'by_neuron'"
                ).fetchone()
                if has_labels is None:  # written before runs had neurons
                    continue
                rows = connection.execute(
                    "SELECT by_neuron FROM run WHERE folder = ? AND by_neuron IS NOT NULL",
                    [folder],
                ).fetchall()
        except duckdb.Error:
            return None
        named |= {label for (label,) in rows}
    return named


def _shards(shape: RunShape) -> list[range]:
    neurons = len(shape.neuron_layers) * shape.neurons
    starts = range(0, neurons, SHARD_NEURONS)
    return [range(start, min(start + SHARD_NEURONS, neurons)) for start in starts]


def _empty(shape: RunShape) -> Summary:
    row, norm = top_arrays(shape)["row"], top_arrays(shape)["norm"]
    return Summary(
        np.full(row.shape, -1, row.dtype),
        np.full(norm.shape, np.nan, norm.dtype),
        np.zeros(len(shape.neuron_layers) * shape.neurons),
        np.zeros(len(shape.neuron_layers) * shape.neurons, np.int64),
    )


def _columns(array: RowArray, neurons: range, rows: range) -> npt.NDArray[Any]:
    """Transpose some neurons' numbers of some rows: [neurons, rows]."""
    out = np.empty((len(neurons), len(rows)), array.spec.dtype)
    for start, block in _row_blocks(array, rows):
        part = block[:, neurons.start : neurons.stop]
        out[:, start - rows.start : start - rows.start + len(block)] = part.T
    return out


def _row_blocks(array: RowArray, rows: range) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Some rows at a time [n, layers * neurons], in place: a chunk is one row of them all."""
    for segment in range(rows.start // array.segment_rows, -(-rows.stop // array.segment_rows)):
        first = segment * array.segment_rows
        mapped = array.map(segment)
        flat = mapped.reshape(len(mapped), -1)
        low, high = max(rows.start, first), min(rows.stop, first + len(flat))
        for start in range(low, high, _ROWS):
            yield start, flat[start - first : min(start + _ROWS, high) - first]


def _declared(layout: Layout, group: Path, specs: dict[str, ArraySpec]) -> list[manifest.FileEntry]:
    # A finalize that was killed leaves a group that nothing refers to.
    shutil.rmtree(group, ignore_errors=True)
    attributes = {"encoding-type": "lensbase-by-neuron"}
    declare(group, specs, segment_rows=SHARD_NEURONS, attributes=attributes)
    files = [path for path in group.rglob("*") if path.is_file()]
    for path in files:
        durable.sync_file(path)
    return [manifest.entry(layout.root, path) for path in files]


def _written(
    layout: Layout, array: Path, spec: ArraySpec, shard: int, block: npt.NDArray[Any]
) -> manifest.FileEntry:
    path = shard_path(array, spec, shard)
    parts = encode_shard(spec, block, segment_rows=SHARD_NEURONS)
    return manifest.entry(layout.root, path, sha256=durable.write_parts(path, parts))
