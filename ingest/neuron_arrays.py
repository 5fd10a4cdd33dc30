"""What a run's arrays call the numbers of its neurons: written by those names and read by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..schema.shards import read_whole
from .neuron_projection import Projection
from .second_order import SecondOrder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import nn

    from ..schema.arrays import RunShape
    from .neuron_fit import FittedNeurons
    from .neuron_projection import NeuronEffects

    F32 = npt.NDArray[np.float32]

# Of a batch's numbers, and of what a fit found.
EFFECTS = {
    "neuron_norm": "norm",
    "neuron_coefficient": "coefficient",
    "neuron_sum": "total",
    "neuron_sum_large": "large_total",
    "neuron_mean_large": "large_mean",
    "neuron_bias": "bias",
}
_FITTED = {
    "neuron_mean": "mean",
    "neuron_direction": "direction",
    "neuron_explained": "explained",
    "neuron_threshold": "threshold",
    "neuron_reference_top": "rows",
}


class StoredDirections(NamedTuple):
    """What a projection needs of one layer's neurons, as a run keeps it."""

    mean: F32
    direction: F32
    threshold: F32


def effect_arrays(effects: NeuronEffects) -> dict[str, F32]:
    """A batch's numbers by the names of the run's arrays, on the CPU."""
    return {name: getattr(effects, field).cpu().numpy() for name, field in EFFECTS.items()}


def fitted_arrays(
    found: Mapping[int, FittedNeurons], layers: Sequence[int], *, reference: Sequence[int]
) -> dict[str, npt.NDArray[np.float32 | np.int64]]:
    """What a fit found, by the names of the run's arrays; `reference` are the rows fitted to."""
    arrays: dict[str, npt.NDArray[np.float32 | np.int64]] = {
        name: np.stack([getattr(found[layer], field) for layer in layers])
        for name, field in _FITTED.items()
    }
    return arrays | {"neuron_reference": np.array(reference, np.int64)}


def stored_projection(
    group: Path, shape: RunShape, *, visual: nn.Module, layers: Sequence[int]
) -> Projection:
    """The projection of some layers' neurons on what a run's fit found.

    `group` is the Zarr group of the run's arrays, `shape` their shape.
    """
    arrays = [read_whole(group / f"neuron_{field}") for field in StoredDirections._fields]
    places = {layer: shape.neuron_layers.index(layer) for layer in layers}
    fitted = {
        layer: StoredDirections(*(array[place] for array in arrays))
        for layer, place in places.items()
    }
    stored = torch.float32 if shape.storage == "float32" else torch.float16
    return Projection(SecondOrder(visual, layers), fitted, stored=stored)
