"""Changes to representations that replace the second-order effects of a layer's neurons."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..queries.neuron_ablation import (
    Ablated,
    LayerSums,
    Pairs,
    along_directions,
    mean_ablated,
    pairs_ablated,
)
from ..schema.components import Neuron
from ..schema.errors import BadQuestion
from ..schema.snapshot import read_static
from .open_run import OpenRun
from .run_neurons import KeptNeuron

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

_BLOCK = 2048  # rows whose norms are compared at once


def one_layer(run: OpenRun, layer: int) -> int:
    """A layer whose neurons the run kept; raises `NeuronsNotStored` or `BadQuestion`."""
    given: Any = layer
    if not isinstance(given, int | np.integer):
        msg = f"layer={given!r}: give the number of one layer, such as {run.neurons.layers()[-1]}."
        raise BadQuestion(msg)
    return run.neurons.layers(layer)[0]


def reference_rows(run: OpenRun) -> Rows | None:
    """Rows of the images over which the run's b_n, r_n and thresholds were taken.

    None in a copy of some images, which need not have them.
    """
    run.neurons.layers()
    folder = run.row["folder"]
    if not (run.layout.arrays(folder) / "neuron_reference").exists():
        return None
    return read_static(run.layout, folder, "neuron_reference").astype(np.int64)


class LayerEffects:
    """The effects of a layer's neurons as they are stored, read once for a block of rows.

    `component` names all of them at once, as in "L9.N*".
    """

    def __init__(self, run: OpenRun, layer: int) -> None:
        self.run = run
        self.layer = layer
        self.component = f"L{layer}.N*"
        self.place = run.neurons.place(layer)
        self._read: tuple[Rows, LayerSums] | None = None
        self._coefficients: tuple[Rows, F32] | None = None

    @property
    def directions(self) -> F32:
        """r_n [N, d']."""
        return self.run.neurons.direction[self.place]

    @cached_property
    def mean(self) -> F32:
        """The sum of b_n over all neurons [d']."""
        return self.run.neurons.mean[self.place].sum(0, dtype=np.float64).astype(np.float32)

    def sums(self, rows: Rows) -> LayerSums:
        """Sums over the neurons at some rows; those of the rows asked for last are at hand."""
        if self._read is None or self._read[0] is not rows:
            neurons = self.run.neurons
            total, large, large_mean = (
                neurons.array(name).view(rows, self.place)
                for name in ("neuron_sum", "neuron_sum_large", "neuron_mean_large")
            )
            self._read = rows, LayerSums(total, large, large_mean, self.mean)
        return self._read[1]

    def coefficients(self, rows: Rows) -> F32:
        """x_n(I) [k, N] at some rows; those of the rows asked for last are at hand."""
        if self._coefficients is None or self._coefficients[0] is not rows:
            stored = self.run.neurons.array("neuron_coefficient").view(rows, self.place)
            self._coefficients = rows, np.asarray(stored, np.float32)
        return self._coefficients[1]


@dataclass(frozen=True, eq=False)
class MeanAblation:
    """Effects of all neurons of a layer replaced by their means: all, large or small ones."""

    effects: LayerEffects
    ablated: Ablated

    @property
    def addresses(self) -> tuple[str, ...]:
        """The layer's neurons, as one."""
        return (self.effects.component,)

    def apply(self, representation: F32, rows: Rows, *, out: F32) -> F32:
        """Change representations [k, d'] of these rows; fills the first k rows of `out`."""
        found = mean_ablated(representation, self.effects.sums(rows), self.ablated)
        return _filled(out, found)


@dataclass(frozen=True, eq=False)
class AlongDirections:
    """Every effect of a layer's neurons replaced by x_n r_n + b_n; `directions` r [N, d']."""

    effects: LayerEffects
    directions: F32

    @property
    def addresses(self) -> tuple[str, ...]:
        """The layer's neurons, as one."""
        return (self.effects.component,)

    def apply(self, representation: F32, rows: Rows, *, out: F32) -> F32:
        """Change representations [k, d'] of these rows; fills the first k rows of `out`."""
        found = along_directions(
            representation,
            self.effects.sums(rows),
            self.effects.coefficients(rows),
            directions=self.directions,
        )
        return _filled(out, found)


class TopImages:
    """Each neuron's `count` images of largest norm in the run, equal norms by ascending row."""

    def __init__(self, effects: LayerEffects, count: int) -> None:
        self._effects = effects
        found = _top_rows(effects, count)
        neurons = np.repeat(np.arange(len(found)), found.shape[1])
        order = np.argsort(found.reshape(-1), kind="stable")
        self._rows, self._neurons = found.reshape(-1)[order], neurons[order]

    def pairs(self, rows: Rows) -> Pairs:
        """The neurons that have one of these rows among their images, with their x_n there."""
        start, stop = (np.searchsorted(self._rows, rows, side) for side in ("left", "right"))
        counts = stop - start
        images = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(images)) - np.repeat(np.cumsum(counts) - counts, counts)
        neurons = self._neurons[np.repeat(start, counts) + within]
        return Pairs(neurons, images, self._effects.coefficients(rows)[images, neurons])


@dataclass(frozen=True, eq=False)
class TopAblation:
    """Effects replaced by their means in each neuron's top images, or in all others: an estimate.

    In a neuron's top images its effect is taken to be x_n r_n + b_n.
    """

    effects: LayerEffects
    top: TopImages
    ablated: Literal["large", "small"]

    @property
    def addresses(self) -> tuple[str, ...]:
        """The layer's neurons, as one."""
        return (self.effects.component,)

    def apply(self, representation: F32, rows: Rows, *, out: F32) -> F32:
        """Change representations [k, d'] of these rows; fills the first k rows of `out`."""
        found = pairs_ablated(
            representation,
            self.effects.sums(rows),
            self.top.pairs(rows),
            directions=self.effects.directions,
            ablated=self.ablated,
        )
        return _filled(out, found)


def _filled(out: F32, found: F32) -> F32:
    out = out[: len(found)]
    np.copyto(out, found)
    return out


def _top_rows(effects: LayerEffects, count: int) -> Rows:
    """Rows [N, count or fewer] of every neuron's largest norms."""
    run = effects.run
    found: list[Rows] = []
    for number in range(run.neurons.count):
        neuron = KeptNeuron(Neuron(effects.layer, number), effects.place)
        best = run.neurons.largest(neuron, count)
        if best is None:
            return _top_of_blocks(effects, count)
        found.append(best[0])
    return np.stack(found)


def _top_of_blocks(effects: LayerEffects, count: int) -> Rows:
    """The same from the norms image by image: more than are listed, or of a run not complete."""
    run = effects.run
    everything = np.sort(run.images.select().rows)
    best = np.empty((run.neurons.count, 0), np.uint64)
    last = np.uint64(2**32 - 1)
    for start in range(0, len(everything), _BLOCK):
        rows = everything[start : start + _BLOCK]
        norms = run.neurons.array("neuron_norm").read(rows, effects.place).astype(np.float32)
        # Bits of a number above 0 are in its order; the row below them settles what is equal.
        key = norms.T.view(np.uint32).astype(np.uint64) << np.uint64(32)
        best = np.concatenate([best, key | (last - rows.astype(np.uint64))], axis=1)
        if best.shape[1] > count:
            best = np.partition(best, best.shape[1] - count, axis=1)[:, -count:]
    return (last - (np.sort(best, axis=1)[:, ::-1] & last)).astype(np.int64)
