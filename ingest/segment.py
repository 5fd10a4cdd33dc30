"""One segment on its way to disk: filled batch by batch, written whole, then committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_factors, head_norms, head_share
from ..schema import durable, manifest
from ..schema.arrays import ArraySpec, RunShape, run_arrays
from ..schema.layout import Layout
from ..schema.shards import encode_chunk, encode_shard, shard_path

if TYPE_CHECKING:
    from .images import ImageRecord


@dataclass
class RunFiles:
    """Where a run's segments go, and what turns factors into effects."""

    layout: Layout
    folder: str
    shape: RunShape
    head_basis: npt.NDArray[np.float32]
    neuron_threshold: npt.NDArray[np.float32] | None = None  # [Ln, N]


def clear_partial(run: RunFiles, segment: int) -> None:
    """Remove what a killed process left half-written of a segment."""
    layout, folder = run.layout, run.folder
    shards = [
        shard_path(layout.arrays(folder) / name, spec, segment)
        for name, spec in run_arrays(run.shape).items()
    ]
    rows = (
        layout.manifest(folder, segment),
        layout.image_rows(folder, segment),
        layout.effect_rows(folder, segment),
        layout.peak_rows(folder, segment),
    )
    for path in (*shards, *rows, layout.thumbnails(folder, segment)):
        for left in path.parent.glob(f"{path.name}.*{durable.PARTIAL}"):
            left.unlink(missing_ok=True)


@dataclass
class SegmentBuffer:
    """The rows of one segment in memory, in the types of the store."""

    run: RunFiles
    segment: int
    values: dict[str, npt.NDArray[Any]] = field(default_factory=dict[str, npt.NDArray[Any]])
    records: dict[int, ImageRecord] = field(default_factory=dict)
    thumbnails: dict[int, bytes | None] = field(default_factory=dict[int, bytes | None])
    totals: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Allocate every row array as NaN: what a rejected image's row stays."""
        for name, spec in run_arrays(self.run.shape).items():
            if spec.kind == "row":
                shape = (len(self.rows), *spec.shape[1:])
                self.values[name] = np.full(shape, np.nan, spec.dtype)

    @property
    def rows(self) -> range:
        """The run's rows that it holds."""
        return self.run.shape.rows_of(self.segment)

    def put(
        self,
        rows: npt.NDArray[np.int64],
        records: Sequence[ImageRecord],
        *,
        thumbnails: Sequence[bytes | None],
        values: Mapping[str, npt.NDArray[Any]],
        totals: Mapping[str, npt.NDArray[np.float64]],
    ) -> None:
        """Take a batch: `values` [k, ...] and `totals` are of its k readable images, in order.

        The totals come from values before rounding: whole-run TEXTSPAN rests on them.
        """
        for row, record, thumbnail in zip(rows.tolist(), records, thumbnails, strict=True):
            self.records[row] = record
            self.thumbnails[row] = thumbnail
        ok = np.array([record.reason is None for record in records], np.bool_)
        readable = rows[ok] - self.rows.start
        if len(readable):
            for name, buffer in self.values.items():
                buffer[readable] = values[name]
        for name, total in totals.items():
            self.totals[name] = self.totals[name] + total if name in self.totals else total

    def write(self) -> manifest.Manifest:
        """Write every file of the segment and commit it."""
        root = self.run.layout.root
        files = [
            manifest.entry(root, path, sha256=durable.write_parts(path, parts))
            for path, parts in self._encoded()
        ]
        scale = self.values["scale"]
        residual = scale[:, 3][np.isfinite(scale[:, 3])]
        facts = {
            "segment": self.segment,
            "first_row": self.rows.start,
            "rows": len(self.rows),
            "rejected": sum(record.reason is not None for record in self.records.values()),
            "max_residual": float(residual.max()) if residual.size else None,
        }
        layout, folder = self.run.layout, self.run.folder
        written = manifest.commit(
            layout, layout.manifest(folder, self.segment), files=files, facts=facts
        )
        # It holds their numbers now.
        manifest.forget_passes(layout, folder, self.segment)
        return written

    def _encoded(self) -> Iterator[tuple[Path, list[memoryview]]]:
        """Encode one file after the other, so that only one is in memory twice."""
        layout, folder, shape = self.run.layout, self.run.folder, self.run.shape
        arrays = layout.arrays(folder)
        for name, spec in run_arrays(shape).items():
            path = shard_path(arrays / name, spec, self.segment)
            if spec.kind == "row":
                values = self.values[name]
                yield path, encode_shard(spec, values, segment_rows=shape.segment_rows)
            else:
                yield path, encode_chunk(spec, self._total(spec))
        yield layout.image_rows(folder, self.segment), _parquet(self._image_rows())
        if shape.neuron_layers:
            yield layout.peak_rows(folder, self.segment), _parquet(self._peak_rows())
        if shape.head_layers:
            yield layout.effect_rows(folder, self.segment), _parquet(self._effect_rows())
        if any(webp is not None for webp in self.thumbnails.values()):
            yield layout.thumbnails(folder, self.segment), self._thumbnail_file()

    def _total(self, spec: ArraySpec) -> npt.NDArray[np.float64]:
        # A segment of rejected images only has none.
        return self.totals.get(spec.name, np.zeros(spec.shape[1:]))

    def _image_rows(self) -> Any:
        import pyarrow as pa

        records = [self.records[row] for row in self.rows]
        return pa.table(
            {
                "row": pa.array(self.rows, pa.int64()),
                "status": ["ok" if one.reason is None else "rejected" for one in records],
                "reason": pa.array([one.reason for one in records], pa.string()),
                "sha256": pa.array([one.sha256 for one in records], pa.string()),
                "width": pa.array([one.width for one in records], pa.int32()),
                "height": pa.array([one.height for one in records], pa.int32()),
            }
        )

    def _effect_rows(self) -> Any:
        """Image x head facts, from the values as stored, so that they can be recomputed."""
        import pyarrow as pa

        scale, values = self.values["scale"], self.values["head_value"]
        readable = np.flatnonzero(np.isfinite(scale[:, 0]))
        factors = head_factors(values[readable], scale[readable])
        norm = head_norms(factors, self.run.head_basis)
        share = head_share(factors, self.run.head_basis, self.values["representation"][readable])
        rows, layers, heads = norm.shape
        per_image = layers * heads
        layer = np.repeat(np.asarray(self.run.shape.head_layers, np.int32), heads)
        return pa.table(
            {
                "row": np.repeat(readable.astype(np.int64) + self.rows.start, per_image),
                "layer": np.tile(layer, rows),
                "head": np.tile(np.arange(heads, dtype=np.int32), rows * layers),
                "norm": norm.astype(np.float32).reshape(-1),
                "share": share.astype(np.float32).reshape(-1),
            }
        )

    def _peak_rows(self) -> Any:
        """Image x neuron facts where the norm, as stored, is above the neuron's threshold."""
        import pyarrow as pa

        threshold = self.run.neuron_threshold
        assert threshold is not None
        norm, coefficient = self.values["neuron_norm"], self.values["neuron_coefficient"]
        with np.errstate(invalid="ignore"):
            peak = norm.astype(np.float32) > threshold
        row, place, neuron = np.nonzero(peak)
        layers = np.asarray(self.run.shape.neuron_layers, np.int32)
        return pa.table(
            {
                "row": row + self.rows.start,
                "layer": layers[place],
                "neuron": neuron.astype(np.int32),
                "norm": norm[peak].astype(np.float32),
                "coefficient": coefficient[peak].astype(np.float32),
            }
        )

    def _thumbnail_file(self) -> list[memoryview]:
        """An Arrow file: readers map it and take one picture without reading the others."""
        import pyarrow as pa

        table = pa.table(
            {
                "row": pa.array(self.rows, pa.int64()),
                "webp": pa.array([self.thumbnails[row] for row in self.rows], pa.binary()),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return [memoryview(sink.getvalue())]


def _parquet(table: Any) -> list[memoryview]:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return [memoryview(sink.getvalue())]
