"""What a reader sees: one published generation, and nothing that came after it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import durable
from .arrays import RunShape, run_arrays
from .errors import StoreCorrupt
from .format import check_catalog, check_format
from .layout import Layout
from .shards import RowArray, SegmentArray, read_whole

if TYPE_CHECKING:
    import duckdb


# What queries of one process may hold of a store at once, in bytes.
QUERY_MEMORY = min(2 << 30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)

# A console that reads the store must not reach anything else, nor fill memory and disk; and every
# connection of a process to one file must be configured alike.
READ_ONLY_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
    "memory_limit": f"{QUERY_MEMORY}B",
    "max_temp_directory_size": "0KB",
    "threads": min(8, os.cpu_count() or 1),
    "lock_configuration": True,
}

# Columns of runs and models that hold JSON.
JSON_COLUMNS = (
    "head_layers",
    "head_token_layers",
    "neuron_layers",
    "neuron_passes",
    "versions",
    "preprocessing",
)


@dataclass(frozen=True)
class Snapshot:
    """One generation, opened read-only."""

    layout: Layout
    generation: int
    connection: duckdb.DuckDBPyConnection

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run a query of ours on a cursor of its own; rows as dicts."""
        cursor = self.connection.cursor()
        result = cursor.execute(query, list(parameters))
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def run_rows(self) -> list[dict[str, Any]]:
        """Every run with its model's and data set's columns; lists and JSON decoded.

        A run's own `name`, `source` and the like keep their names; the model's and the data
        set's are prefixed: `model_name`, `model_source`, `dataset_name`, `dataset_root`.
        """
        rows = self.rows(
            """SELECT r.*, m.name AS model_name, m.source AS model_source, m.pretrained,
                      m.weights_sha256, m.layers, m.heads, m.head_width, m.width, m.embed_dim,
                      m.patches, m.grid_height, m.grid_width, m.patch_size, m.image_size,
                      m.activation, m.preprocessing, d.name AS dataset_name,
                      d.kind AS dataset_kind, d.root AS dataset_root
               FROM run r JOIN model m USING (model_id) JOIN dataset d USING (dataset_id)
               ORDER BY r.run_id"""
        )
        for row in rows:
            for name in JSON_COLUMNS:
                row[name] = json.loads(row[name])
        return rows

    def segment_array(self, run: Mapping[str, Any], name: str) -> SegmentArray:
        """An array of a run (one of `run_rows`) that holds one entry for each segment."""
        spec = run_arrays(run_shape(run))[name]
        return SegmentArray(self.layout.arrays(run["folder"]) / name, spec)

    def row_arrays(self, run: dict[str, Any]) -> dict[str, RowArray]:
        """The row arrays of a run (one of `run_rows`), which read committed rows in place."""
        shape = run_shape(run)
        return {
            name: RowArray(
                self.layout.arrays(run["folder"]) / name,
                spec,
                shape.segment_rows,
                str(run["run_id"]),
            )
            for name, spec in run_arrays(shape).items()
            if spec.kind == "row"
        }


def run_shape(run: Mapping[str, Any]) -> RunShape:
    """The shape of a run's arrays, from one of `run_rows`."""
    return RunShape(
        images=run["images"],
        segment_rows=run["segment_rows"],
        layers=run["layers"],
        heads=run["heads"],
        head_width=run["head_width"],
        embed_dim=run["embed_dim"],
        patches=run["patches"],
        head_layers=tuple(run["head_layers"]),
        tokens=run["tokens"],
        head_token_layers=tuple(run["head_token_layers"]),
        storage=run["storage"],
        layer_sums=run["layer_sums"],
        neuron_layers=tuple(run["neuron_layers"]),
        neurons=run["neurons"],
        width=run["width"],
        neuron_input=run["neuron_input"],
    )


def connect(path: Path) -> duckdb.DuckDBPyConnection:
    """Open a published catalogue read-only; it can reach nothing else."""
    import duckdb

    return duckdb.connect(str(path), read_only=True, config=READ_ONLY_CONFIG)


def published_generation(layout: Layout) -> int:
    """The number of the generation that readers are to open; raises FileNotFoundError."""
    return int(durable.read_json(layout.current)["generation"])


def open_snapshot(root: Path) -> Snapshot:
    """Open the published generation of a store, read-only; many readers may at once.

    Raises `StoreNotFound`, `NotAStore`, `FormatTooNew`, `FormatTooOld` or `StoreCorrupt`.
    """
    import duckdb

    layout = Layout(root)
    check_format(layout)
    for attempt in range(10):
        try:
            generation = published_generation(layout)
            path = layout.catalog(generation)
            connection = connect(path)
            check_catalog(root, connection)
            return Snapshot(layout, generation, connection)
        except (FileNotFoundError, duckdb.IOException) as error:
            # Two generations later the one that CURRENT named is gone: read it again.
            if attempt == 9:
                way = f"`lensbase rollback {root}` goes back to the one before"
                if not layout.current.exists():
                    way = "it was stopped while it began: the same `lensbase ingest` goes on"
                msg = f"{root} has no readable catalogue ({error}); {way}."
                raise StoreCorrupt(msg) from error
    raise AssertionError


def read_static(layout: Layout, folder: str, name: str) -> npt.NDArray[Any]:
    """Read an array that a run wrote once: `head_basis`, `projection`, ..."""
    return _read(layout.arrays(folder) / name)


def read_pool_vectors(layout: Layout, pool: str, weights_sha256: str) -> npt.NDArray[np.float32]:
    """Read a pool's unit-length embeddings [texts, d'] by one model."""
    return _read(layout.pool_vectors(pool, weights_sha256))


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        return read_whole(path)
    except FileNotFoundError as error:
        msg = f"{path.name} is missing from {path.parent}; `lensbase verify` says what else is."
        raise StoreCorrupt(msg) from error
