"""The neurons of one run: which are kept, and their directions, means and numbers by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries.neuron_maps import InputWeights
from ..queries.text_votes import TextCodes
from ..schema.arrays import RunShape
from ..schema.by_neuron import TOP, ByNeuron, Quantity
from ..schema.components import Neuron, parse_component, split_run
from ..schema.errors import (
    BadAddress,
    BadQuestion,
    NeuronInputNotStored,
    NeuronsNotStored,
    RunIncomplete,
    UnknownComponent,
    UnknownRun,
)
from ..schema.layout import Layout
from ..schema.shards import RowArray
from ..schema.snapshot import read_static
from .printing import keeping, layers_named

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

Layers: TypeAlias = int | Sequence[int] | None
"""A layer, several, or None for all whose neurons the run kept."""


@dataclass(frozen=True)
class KeptNeuron:
    """A neuron of a layer that the run kept; `place` is its layer's place in the arrays."""

    address: Neuron
    place: int


class RunNeurons:
    """What the views of one run share about its neurons, each read when needed."""

    def __init__(
        self,
        layout: Layout,
        row: Mapping[str, Any],
        shape: RunShape,
        arrays: Mapping[str, RowArray],
    ) -> None:
        self._layout = layout
        self._row = row
        self._shape = shape
        self._arrays = arrays
        self.codes: dict[tuple[int, str, int, bool], TextCodes] = {}

    @property
    def count(self) -> int:
        """N, the neurons of each layer."""
        return self._shape.neurons

    def find(self, address: str) -> KeptNeuron:
        """Find a neuron by its address, with or without the run's name.

        Raises `BadAddress`, `UnknownRun`, `UnknownComponent` or `NeuronsNotStored`.
        """
        run, component = split_run(address)
        if run is not None and run != self._row["name"]:
            own = self._row["name"]
            msg = (
                f"{address!r} is of another run than {own!r}; ask store.run({run!r}) (--run {run})."
            )
            raise UnknownRun(msg)
        found = parse_component(component)
        if not isinstance(found, Neuron):
            msg = f"{address!r} is not a neuron; write L9.N391 for neuron 391 of layer 9."
            raise BadAddress(msg)
        place = self.place(found.layer)
        if found.neuron >= self.count:
            msg = f"layer {found.layer} has no neuron {found}: it has 0 to {self.count - 1}."
            raise UnknownComponent(msg)
        return KeptNeuron(found, place)

    def place(self, layer: int) -> int:
        """A layer's place in the neuron arrays.

        Raises `UnknownComponent` for a layer that the model lacks, or `NeuronsNotStored`.
        """
        if layer >= self._shape.layers:
            msg = (
                f"the model of run {self._row['name']!r} has no layer {layer}: its layers are 0 to "
                f"{self._shape.layers - 1}."
            )
            raise UnknownComponent(msg)
        kept = self._shape.neuron_layers
        if layer in kept:
            return kept.index(layer)
        if not kept:
            raise self._none_kept()
        if layer == self._shape.layers - 1:
            msg = (
                f"layer {layer} is the last one: no attention reads its neurons, so they have no "
                f"second-order effect. Run {self._row['name']!r} kept {layers_named(kept)}."
            )
            raise NeuronsNotStored(msg)
        msg = (
            f"run {self._row['name']!r} kept no neurons of layer {layer}, only those of "
            f"{layers_named(kept)}. {keeping('--neurons', {*kept, layer})}"
        )
        raise NeuronsNotStored(msg)

    def layers(self, chosen: Layers = None) -> list[int]:
        """Layers by number, all kept ones for None, ascending.

        Raises `UnknownComponent`, `NeuronsNotStored`, or `BadQuestion` for what are no layers.
        """
        if chosen is None:
            if not self._shape.neuron_layers:
                raise self._none_kept()
            return list(self._shape.neuron_layers)
        given: list[Any] = list(chosen) if isinstance(chosen, Iterable) else [chosen]
        if isinstance(chosen, str) or not all(_is_layer(layer) for layer in given) or not given:
            msg = f"{chosen!r} names no layers; give a number or a list of numbers from 0."
            raise BadQuestion(msg)
        layers = sorted({int(layer) for layer in given})
        for layer in layers:
            self.place(layer)
        return layers

    def places(self, layers: Layers = None) -> list[int]:
        """The places of layers in the neuron arrays; raises as `layers` does."""
        return [self.place(layer) for layer in self.layers(layers)]

    @cached_property
    def direction(self) -> F32:
        """r_n [Ln, N, d'], of unit length (0 for a neuron that never varies)."""
        return self._static("neuron_direction")

    @cached_property
    def mean(self) -> F32:
        """b_n [Ln, N, d'], the mean effects over the reference set."""
        return self._static("neuron_mean")

    @cached_property
    def threshold(self) -> F32:
        """[Ln, N]: the 98th percentile of ||phi_n|| over the reference set."""
        return self._static("neuron_threshold")

    @cached_property
    def explained(self) -> F32:
        """[Ln, N]: the first component's share of each neuron's largest effects."""
        return self._static("neuron_explained")

    def array(self, name: str) -> RowArray:
        """A row array of the neurons; raises `NeuronsNotStored` where the run kept none."""
        self.layers()
        return self._arrays[name]

    def column(self, quantity: Quantity, neuron: KeptNeuron, rows: Rows) -> npt.NDArray[Any]:
        """One neuron's numbers at some rows of the run, in the stored type."""
        if self._by_neuron is None:
            # A run still being ingested has them image by image only.
            found = self._arrays[f"neuron_{quantity}"]
            return found.read(rows, neuron.place, neuron.address.neuron)
        return self._by_neuron.column(quantity, self._flat(neuron))[rows]

    def top(self, neuron: KeptNeuron) -> tuple[Rows, F32] | None:
        """Rows of one neuron's largest norms, and the norms; None until the run is complete."""
        return None if self._by_neuron is None else self._by_neuron.top(self._flat(neuron))

    def largest(self, neuron: KeptNeuron, k: int) -> tuple[Rows, F32] | None:
        """The first `k` of `top`, or all images if they are fewer; None for more than it lists."""
        listed = self.top(neuron)
        # A shorter list than the longest has all images.
        if listed is None or k > len(listed[0]) == TOP:
            return None
        return listed[0][:k], listed[1][:k]

    def need_input(self) -> RowArray:
        """What the neurons read at the patches; raises `NeuronInputNotStored`."""
        self.layers()
        if not self._shape.neuron_input:
            msg = (
                f"run {self._row['name']!r} kept nothing to make activation maps of. "
                f"{keeping('--neuron-input')}"
            )
            raise NeuronInputNotStored(msg)
        return self._arrays["neuron_input"]

    def input_weights(self, place: int, neurons: npt.ArrayLike) -> InputWeights:
        """How some neurons of a layer read: their rows of W_in, biases and the activation."""
        chosen = np.asarray(neurons, np.int64)
        return InputWeights(
            self._read_weights[0][place, chosen],
            self._read_weights[1][place, chosen],
            self._row["activation"],
        )

    @cached_property
    def _read_weights(self) -> tuple[F32, F32]:
        return self._static("neuron_in"), self._static("neuron_in_bias")

    @cached_property
    def _by_neuron(self) -> ByNeuron | None:
        label = self._row["by_neuron"]
        if label is None:
            return None
        return ByNeuron(self._layout, self._row["folder"], self._shape, label)

    def _none_kept(self) -> NeuronsNotStored:
        msg = f"run {self._row['name']!r} kept no neurons. {keeping('--neurons', 'default')}"
        return NeuronsNotStored(msg)

    def _flat(self, neuron: KeptNeuron) -> int:
        return neuron.place * self.count + neuron.address.neuron

    def _static(self, name: str) -> F32:
        self.layers()
        folder = self._row["folder"]
        if not self._layout.fitted_manifest(folder).exists():
            msg = (
                f"the neurons of run {self._row['name']!r} are not fitted to the reference set "
                "yet; the same `lensbase ingest` command again goes on."
            )
            raise RunIncomplete(msg)
        return read_static(self._layout, folder, name)


def _is_layer(given: Any) -> bool:
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    return whole and int(given) >= 0
