"""A run's neurons in the second orientation: all images of one neuron, beside all neurons of one.

No chunking of an [images x neurons] array reads both a row and a column in milliseconds, so the
end of an ingest writes norms and coefficients once more, neuron by neuron, in immutable extents
of 65,536 rows, with each neuron's rows of largest norm. Neurons of all kept layers are one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .arrays import ArraySpec, RunShape
from .layout import Layout
from .shards import RowArray

Quantity = Literal["norm", "coefficient"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

EXTENT = 65_536  # rows
SHARD_NEURONS = 512
TOP = 256


def extents(shape: RunShape) -> list[range]:
    """The rows of each extent."""
    starts = range(0, shape.images, EXTENT)
    return [range(start, min(start + EXTENT, shape.images)) for start in starts]


def extent_arrays(shape: RunShape, rows: range) -> dict[str, ArraySpec]:
    """Declare the arrays of one extent: a neuron's numbers lie together."""
    neurons = len(shape.neuron_layers) * shape.neurons
    kept = np.dtype("<f4" if shape.storage == "float32" else "<f2")
    return {
        name: ArraySpec(name, ("neuron", "image"), (neurons, len(rows)), (1, len(rows)), kept)
        for name in QUANTITIES
    }


def top_arrays(shape: RunShape) -> dict[str, ArraySpec]:
    """Declare the rows of largest norm of each neuron: -1 and NaN where there are fewer."""
    neurons, most = len(shape.neuron_layers) * shape.neurons, min(TOP, shape.images)
    kinds = {"row": np.dtype("<i4"), "norm": np.dtype("<f4")}
    return {
        name: ArraySpec(name, ("neuron", "rank"), (neurons, most), (1, most), kind)
        for name, kind in kinds.items()
    }


@dataclass(frozen=True)
class ByNeuron:
    """What the end of an ingest wrote under one label, as a reader sees it.

    `neuron` counts over all kept layers: a layer's place times its neurons, plus the neuron.
    """

    layout: Layout
    folder: str
    shape: RunShape
    label: int

    def column(self, quantity: Quantity, neuron: int) -> npt.NDArray[Any]:
        """One neuron's number for each row of the run [K]; NaN for rejected images."""
        return np.concatenate([array.read([neuron])[0] for array in self._columns[quantity]])

    def top(self, neuron: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows of one neuron's largest norms, and the norms, largest first."""
        rows = self._top["row"].read([neuron])[0].astype(np.int64)
        norms = self._top["norm"].read([neuron])[0]
        return rows[rows >= 0], norms[rows >= 0]

    def extent_path(self, extent: int) -> Path:
        """The Zarr group of one extent."""
        return self.layout.by_neuron(self.folder) / f"{extent}-{self.label}"

    @property
    def top_path(self) -> Path:
        """The Zarr group of the rows of largest norm."""
        return self.layout.by_neuron(self.folder) / f"top-{self.label}"

    @cached_property
    def _columns(self) -> dict[Quantity, list[RowArray]]:
        found: dict[Quantity, list[RowArray]] = {name: [] for name in QUANTITIES}
        for extent, rows in enumerate(extents(self.shape)):
            specs = extent_arrays(self.shape, rows)
            for name in QUANTITIES:
                path = self.extent_path(extent) / name
                found[name].append(RowArray(path, specs[name], SHARD_NEURONS))
        return found

    @cached_property
    def _top(self) -> dict[str, RowArray]:
        specs = top_arrays(self.shape)
        return {
            name: RowArray(self.top_path / name, spec, SHARD_NEURONS)
            for name, spec in specs.items()
        }
