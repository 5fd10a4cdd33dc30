"""The neurons of one run: fitted to a reference set once, then projected image by image.

*Fit* goes over the reference images twice (`neuron_fit`), writes what it found as static arrays
and commits them; until then no segment is made. *Project* rides on the pass that takes heads and
tokens. Layers that do not fit into memory together take several passes (`neuron_layers`): all but
the last leave their numbers beside the segment's manifest, the last writes and commits them all.
Both stages go on where a killed process stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..schema import durable
from ..schema.errors import ImagesChanged, NoImages
from ..schema.locks import lock_when_free
from .begin import commit_fitted
from .decompose import Decomposer, Kept
from .fit_state import KeptState, Reached, ReferenceImage
from .loading import batches
from .neuron_arrays import fitted_arrays, stored_projection
from .neuron_fit import FittedNeurons, NeuronFit
from .second_order import SecondOrder, Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..schema.arrays import RunShape
    from ..schema.layout import Layout
    from .loading import Batch
    from .models import LoadedModel
    from .neuron_projection import Projection
    from .settings import Settings
    from .sources import Source

Progress = Callable[[int, int], None]
Notice = Callable[[str], None]


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
        """Fit the neurons unless that is done, or another process does it meanwhile.

        Raises `ImagesChanged` where one round reads other images than another, and `NoImages`
        where none of the run can be read; the same call again begins anew.
        """
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
            used: list[ReferenceImage] = []
            for number in range(len(passes)):
                fitted, read = self._fit_pass(number, progress=progress, notice=notice)
                found |= fitted
                used = used or read
                self._check_same(used, read)
            rows = [image.row for image in used]
            arrays = fitted_arrays(found, self.shape.neuron_layers, reference=rows)
            commit_fitted(self.layout, self.folder, arrays)
            # With what a killed process left half-written.
            shutil.rmtree(self.layout.fits(self.folder), ignore_errors=True)
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

    def read(self, rows: Sequence[Sequence[int]]) -> Generator[Batch]:
        """Batches of the run's images, without thumbnails."""
        return batches(
            self.source,
            rows,
            preprocess=self.model.preprocess,
            workers=self.workers,
            thumbnails=False,
        )

    def reference_rows(self) -> npt.NDArray[np.int64]:
        """All rows, in the order in which they may join the reference set.

        Evenly spread ones come first, as many as it has; then, for those that cannot be read, the
        row after each of them, the one after that, and so on.
        """
        images, count = self.shape.images, self.settings.reference
        first = np.arange(count, dtype=np.int64) * images // count
        rows = np.arange(images, dtype=np.int64)
        after = rows - first[np.searchsorted(first, rows, side="right") - 1]
        return np.lexsort((rows, after))

    def _fit_pass(
        self, number: int, *, progress: Progress, notice: Notice
    ) -> tuple[dict[int, FittedNeurons], list[ReferenceImage]]:
        """Fit one pass' layers; also the images that they were fitted to, in order."""
        layers = self.settings.neuron_passes[number]
        second_order = SecondOrder(self.model.visual, layers)
        fit = NeuronFit(second_order)
        kept = KeptState(self.layout.fitting(self.folder, number))
        reached = kept.restore(fit)
        decompose = Decomposer(self.model.visual, Kept())
        device = next(self.model.model.parameters()).device

        def traced(images: torch.Tensor) -> Trace:
            trace = second_order.trace()
            decompose(images.to(device, non_blocking=True), trace)
            return trace

        with closing(self._to_observe(reached, progress=progress, notice=notice)) as first:
            for batch, count in first:
                if count:
                    fit.observe(traced(batch.images[:count]))
                kept.keep(fit, reached)
        if not reached.images:
            raise self._no_images()
        wanted, read = self.settings.reference, len(reached.images)
        if read < wanted:
            notice(f"No more can be read: the neurons are fitted to {read:,}, not {wanted:,}.")
        with closing(self._to_select(reached, progress=progress)) as second:
            for batch in second:
                fit.select(traced(batch.images), torch.from_numpy(batch.rows))
                kept.keep(fit, reached)
        found = {layer: fit.fitted(layer) for layer in layers}
        kept.keep(fit, reached, now=True)
        return found, sorted(reached.images)

    def _to_observe(
        self, reached: Reached, *, progress: Progress, notice: Notice
    ) -> Generator[tuple[Batch, int]]:
        """Batches of the first round, and how many of their readable images are taken."""
        wanted, order = self.settings.reference, self.reference_rows().tolist()
        spread = self._batches_of(order[:wanted])
        progress(len(reached.images), 2 * wanted)
        for steps in (spread, [*spread, *self._batches_of(order[wanted:])]):
            missing = wanted - len(reached.images)
            if missing and reached.observed == len(spread) < len(steps):
                notice(f"{missing:,} of these cannot be read: others take their places.")
            if not missing:
                return
            with closing(self.read(steps[reached.observed :])) as read:
                for batch in read:
                    taken = _readable(batch)[: wanted - len(reached.images)]
                    reached.images += taken
                    reached.observed += 1
                    yield batch, len(taken)
                    progress(len(reached.images), 2 * wanted)
                    if len(reached.images) == wanted:
                        return

    def _to_select(self, reached: Reached, *, progress: Progress) -> Generator[Batch]:
        """Batches of the second round: the same images again, in order of their rows."""
        images, size = sorted(reached.images), self.settings.batch_size
        steps = self._batches_of([image.row for image in images])
        done = min(len(images), reached.selected * size)
        progress(len(images) + done, 2 * len(images))
        with closing(self.read(steps[reached.selected :])) as read:
            for batch in read:
                self._check_same(images[done : done + len(batch.rows)], _readable(batch))
                done += len(batch.rows)
                reached.selected += 1
                yield batch
                progress(len(images) + done, 2 * len(images))

    def _batches_of(self, rows: list[int]) -> list[list[int]]:
        size = self.settings.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _check_same(self, before: list[ReferenceImage], now: list[ReferenceImage]) -> None:
        """Raise `ImagesChanged`, and forget the fit, where two rounds read other images."""
        if before == now:
            return
        shutil.rmtree(self.layout.fits(self.folder), ignore_errors=True)
        msg = (
            f"run {self.run!r} fits its neurons in several rounds over its images, and of row "
            f"{min(set(before) ^ set(now)).row} one read an image that another could not, or that "
            "had changed: the same `lensbase ingest` command again fits them anew."
        )
        raise ImagesChanged(msg)

    def _no_images(self) -> NoImages:
        shutil.rmtree(self.layout.fits(self.folder), ignore_errors=True)
        msg = (
            f"none of the {self.shape.images:,} images of run {self.run!r} can be read, so there "
            "is none to fit neurons to: put them back and give the same `lensbase ingest` command "
            "again, or `lensbase run drop` it."
        )
        return NoImages(msg)


def _readable(batch: Batch) -> list[ReferenceImage]:
    """The readable images of a batch, in order."""
    return [
        ReferenceImage(int(row), record.sha256)
        for row, record, ok in zip(batch.rows, batch.records, batch.ok, strict=True)
        if ok and record.sha256 is not None
    ]
