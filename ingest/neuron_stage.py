"""The neurons of one run: fitted to a reference set once, then projected image by image.

*Fit* goes over the reference images twice (`neuron_fit`), writes what it found as static arrays
and commits them; until then no segment is made. *Project* rides on the pass that takes heads and
tokens. Layers that do not fit into memory together take several passes (`neuron_layers`): all but
the last leave their numbers beside the segment's manifest, the last writes and commits them all.
Both stages go on where a killed process stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save

from ..schema import durable
from ..schema.arrays import RunShape
from ..schema.errors import ImagesChanged
from ..schema.layout import Layout
from ..schema.locks import lock_when_free
from ..schema.shards import read_whole
from .begin import commit_fitted
from .decompose import Decomposer, Kept
from .loading import batches
from .neuron_fit import FittedNeurons, NeuronFit
from .neuron_projection import NeuronEffects, Projection
from .second_order import SecondOrder
from .tower import read_tower

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .loading import Batch
    from .models import LoadedModel
    from .settings import Settings
    from .sources import Source

Arrays = dict[str, npt.NDArray[Any]]
Progress = Callable[[int, int], None]
Notice = Callable[[str], None]

_SECONDS = 60.0  # between two states of a fit that are kept
# What the arrays of a run call a batch's numbers.
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
    "neuron_reference_norm": "mean_norm",
    "neuron_reference_top": "rows",
}


@dataclass(frozen=True)
class NeuronStage:
    """What both stages need to know of a run."""

    layout: Layout
    folder: str
    run: str
    settings: Settings
    shape: RunShape
    source: Source
    model: LoadedModel
    workers: int

    def fit(self, *, progress: Progress, notice: Notice) -> None:
        """Fit the neurons unless that is done, or another process does it meanwhile."""
        done = self.layout.fitted_manifest(self.folder)
        if done.exists():
            return
        lock = self.layout.run_lock(self.folder)

        def waiting() -> None:
            notice("Another process fits the neurons of this run: waiting for it.")

        with lock_when_free(lock, self.run, self.shape.segments, waiting=waiting):
            if done.exists():
                return
            passes, images = self.settings.neuron_passes, self.settings.reference
            notice(f"Fitting neurons to {images:,} reference images, in two rounds.")
            found: dict[int, FittedNeurons] = {}
            used: list[list[int]] = []
            for number in range(len(passes)):
                fitted, rows = self._fit_pass(number, progress)
                found |= fitted
                used.append(rows)
            self._commit(found, self._one(used))
            # With what a killed process left half-written.
            shutil.rmtree(self.layout.fitting(self.folder, 0).parent, ignore_errors=True)
            for left in done.parent.glob(f"{done.name}.*{durable.PARTIAL}"):
                left.unlink(missing_ok=True)

    def projection(self, number: int) -> Projection:
        """The projection of one pass' layers on what the fit found."""
        return stored_projection(
            self.layout.arrays(self.folder),
            self.shape,
            visual=self.model.visual,
            layers=self.settings.neuron_passes[number],
        )

    def _one(self, used: list[list[int]]) -> list[int]:
        """The readable rows of the reference set; `ImagesChanged` where passes had others."""
        if used.count(used[0]) == len(used):
            return used[0]
        shutil.rmtree(self.layout.fitting(self.folder, 0).parent)
        msg = (
            f"images that run {self.run!r} fits its neurons to could be read in one pass over them "
            "and not in another: the same `lensbase ingest` command again fits them anew."
        )
        raise ImagesChanged(msg)

    def _fit_pass(
        self, number: int, progress: Progress
    ) -> tuple[dict[int, FittedNeurons], list[int]]:
        """Fit one pass' layers; also the reference rows that could be read."""
        layers = self.settings.neuron_passes[number]
        second_order = SecondOrder(self.model.visual, layers)
        fit = NeuronFit(second_order)
        rows = self._reference_batches()
        kept = _KeptState(self.layout, self.folder, number)
        start, used = kept.restore(fit)
        decompose = Decomposer(self.model.visual, Kept())
        device = next(self.model.model.parameters()).device
        steps = [*rows, *rows]
        total = sum(map(len, steps))
        done = sum(map(len, steps[:start]))
        progress(done, total)
        read = self.read(steps[start:])
        with closing(read):
            for step, batch in enumerate(read, start=start):
                if batch.ok.any():
                    trace = second_order.trace()
                    decompose(batch.images.to(device, non_blocking=True), trace)
                    if step < len(rows):
                        fit.observe(trace)
                        used += batch.rows[batch.ok].tolist()
                    else:
                        fit.select(trace, torch.from_numpy(batch.rows[batch.ok]))
                done += len(batch.rows)
                progress(done, total)
                kept.keep(fit, step + 1, used=used)
        found = {layer: fit.fitted(layer) for layer in layers}
        kept.keep(fit, len(steps), used=used, now=True)
        return found, used

    def read(self, rows: list[Any]) -> Generator[Batch]:
        """Batches of the run's images, without thumbnails."""
        return batches(
            self.source,
            rows,
            preprocess=self.model.preprocess,
            workers=self.workers,
            thumbnails=False,
        )

    def _reference_batches(self) -> list[list[int]]:
        rows, size = self.reference_rows().tolist(), self.settings.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def reference_rows(self) -> npt.NDArray[np.int64]:
        """The rows of the reference set: evenly spread over the run."""
        images, count = self.shape.images, self.settings.reference
        return np.arange(count, dtype=np.int64) * images // max(count, 1)

    def _commit(self, found: Mapping[int, FittedNeurons], used: list[int]) -> None:
        arrays = {
            name: np.stack([getattr(found[layer], field) for layer in self.shape.neuron_layers])
            for name, field in _FITTED.items()
        }
        arrays["neuron_reference"] = np.array(used, np.int64)
        commit_fitted(self.layout, self.folder, arrays)


class StoredDirections(NamedTuple):
    """What a projection needs of one layer's neurons, as a run keeps it."""

    mean: npt.NDArray[np.float32]
    direction: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]


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


@dataclass
class _KeptState:
    """The state of a fit on disk: replaced whole, at most once a minute."""

    layout: Layout
    folder: str
    number: int
    _written: float = 0.0

    def restore(self, fit: NeuronFit) -> tuple[int, list[int]]:
        """Bring a fit to where the last process left it: steps done, rows that could be read."""
        self._written = time.monotonic()
        path = self.layout.fitting(self.folder, self.number)
        if not path.exists():
            return 0, []
        state = load_file(path)
        step, used = int(state.pop("step")), state.pop("used").tolist()
        fit.restore(state)
        return step, used

    def keep(self, fit: NeuronFit, step: int, *, used: list[int], now: bool = False) -> None:
        """Write the state after so many steps, if the last one is old enough."""
        if not now and time.monotonic() - self._written < _SECONDS:
            return
        rows = torch.tensor(used, dtype=torch.int64)
        state = fit.state() | {"step": torch.tensor(step), "used": rows}
        write_tensors(self.layout.fitting(self.folder, self.number), state)
        self._written = time.monotonic()


def write_tensors(path: Any, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file that appears whole or not at all."""
    durable.write_parts(path, [save(dict(tensors))])
    durable.sync_directory(path.parent)


def neuron_weights(visual: nn.Module, layers: tuple[int, ...]) -> Arrays:
    """What questions about neurons need of the weights, in float32.

    `neuron_in` W_in [Ln, N, d] and `neuron_in_bias` [Ln, N], from the layer's second norm to the
    activations; `neuron_out` w_n [Ln, N, d] and `neuron_out_bias` [Ln, d], LayerScale applied.
    """
    if not layers:
        return {}
    blocks = [read_tower(visual).blocks[layer] for layer in layers]

    def biases(given: list[Tensor | None], width: int) -> Tensor:
        return torch.stack([torch.zeros(width) if b is None else b.detach().cpu() for b in given])

    neurons, width = blocks[0].fc_weight.shape
    scales = [
        torch.ones(width) if block.scale_2 is None else block.scale_2.detach().cpu()
        for block in blocks
    ]
    scale = torch.stack(scales).float()
    out = torch.stack([block.proj_weight.detach().cpu().float().T for block in blocks])
    arrays = {
        "neuron_in": torch.stack([block.fc_weight.detach().cpu() for block in blocks]),
        "neuron_in_bias": biases([block.fc_bias for block in blocks], neurons),
        "neuron_out": out * scale[:, None],
        "neuron_out_bias": biases([block.proj_bias for block in blocks], width).float() * scale,
    }
    return {name: array.float().contiguous().numpy() for name, array in arrays.items()}


def effect_arrays(effects: NeuronEffects) -> Arrays:
    """A batch's numbers by the names of the run's arrays, on the CPU."""
    return {name: getattr(effects, field).cpu().numpy() for name, field in EFFECTS.items()}
