"""What a store holds of a run's neurons, read with Zarr and as float64: for literal references."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import zarr

from lensbase.api import open_store
from lensbase.schema.layout import Layout

F64 = npt.NDArray[np.float64]


class StoredNeurons:
    """The arrays of run `r`: norms and coefficients [K, Ln, N], directions [Ln, N, E] and so on."""

    def __init__(self, path: Path) -> None:
        self.layout = Layout(path)
        with open_store(path) as store:
            (self.run,) = store.sql("SELECT * FROM run WHERE name = 'r'").rows()
            (model,) = store.sql("SELECT weights_sha256 FROM model").rows()
            found = store.sql('SELECT image_id, label FROM images ORDER BY "row"')
            self.texts: list[str] = store.sql(
                "SELECT text FROM texts WHERE pool = 'scenes' ORDER BY position"
            )["text"].tolist()
        self.image_ids: npt.NDArray[np.int64] = found["image_id"]
        self.labels: list[str] = found["label"].tolist()
        self._pool = self.layout.pool_vectors("scenes", model["weights_sha256"])

    def array(self, name: str) -> F64:
        """One array of the run, whole."""
        return _read(self.layout.arrays(self.run["folder"]) / name)

    @cached_property
    def norm(self) -> F64:
        return self.array("neuron_norm")

    @cached_property
    def coefficient(self) -> F64:
        return self.array("neuron_coefficient")

    @cached_property
    def direction(self) -> F64:
        return self.array("neuron_direction")

    @cached_property
    def mean(self) -> F64:
        return self.array("neuron_mean")

    @cached_property
    def threshold(self) -> F64:
        return self.array("neuron_threshold")

    @cached_property
    def pool(self) -> F64:
        """The vectors of the pool `scenes` [M, E]."""
        return _read(self._pool)

    @cached_property
    def centered(self) -> F64:
        """The same less their mean, of unit length."""
        moved = self.pool - self.pool.mean(0)
        return moved / np.linalg.norm(moved, axis=1, keepdims=True)

    def activation_maps(self, row: int, place: int) -> F64:
        """p_i^n = gelu(<w_n, x_i> + b_n) of a layer's neurons at an image's patches: [N, T]."""
        from math import erf

        inputs = cast("Any", zarr.open_array(self._path("neuron_input"), mode="r"))[row, place]
        weights, bias = self.array("neuron_in")[place], self.array("neuron_in_bias")[place]
        before = weights @ inputs.astype(np.float64).T + bias[:, None]
        return before * (1 + np.vectorize(erf)(before / np.sqrt(2))) / 2

    def _path(self, name: str) -> Path:
        return self.layout.arrays(self.run["folder"]) / name


def _read(path: Path) -> F64:
    return np.asarray(cast("Any", zarr.open_array(path, mode="r"))[...], np.float64)
