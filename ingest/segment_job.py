"""The segments of one run, or of one part of it: made, written and published as they grow."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from ..schema.arrays import run_arrays
from ..schema.errors import BadPart, ImagesChanged
from ..schema.layout import Layout
from ..schema.manifest import committed_segments, forget_passes, read_manifest
from ..schema.snapshot import read_static
from .begin import BegunRun, requested_shape
from .decompose import Decomposer, Kept, head_basis
from .devices import default_workers, fix_threads
from .finalize import finalize
from .fit_state import write_tensors
from .loading import batches
from .moments import head_moments, layer_totals
from .neuron_arrays import EFFECTS, effect_arrays
from .neuron_projection import Projection
from .neuron_stage import NeuronStage, Notice, Progress
from .publish import due, publish_segments, published_segments
from .segment import RunFiles, SegmentBuffer, clear_partial
from .writer import SegmentWriter

if TYPE_CHECKING:
    from .loading import Batch
    from .models import LoadedModel
    from .sources import Source

Values = dict[str, npt.NDArray[Any]]


class SegmentJob:
    """The segments of one run, or of one part of it."""

    def __init__(
        self, layout: Layout, begun: BegunRun, *, run: str, source: Source, model: LoadedModel
    ) -> None:
        settings, images = begun.settings, source.table().num_rows
        self.run_name = run
        self.layout, self.begun, self.source, self.model = layout, begun, source, model
        self.shape = requested_shape(model.info, settings, images)
        specs = run_arrays(self.shape)
        rows = [name for name, spec in specs.items() if spec.kind == "row"]
        self.stored = [name for name in rows if name not in EFFECTS]
        self.effects = {name: specs[name] for name in rows if name in EFFECTS}
        self.device = next(model.model.parameters()).device
        basis = head_basis(model.visual, settings.head_layers)
        self.files = RunFiles(layout, begun.folder, self.shape, basis)
        self.decompose = Decomposer(
            model.visual,
            Kept(
                head_layers=settings.head_layers,
                tokens=settings.tokens,
                head_token_layers=settings.head_token_layers,
                neuron_input_layers=settings.neuron_layers if settings.neuron_input else (),
            ),
        )
        self.projection: Projection | None = None

    def segments_of(self, part: tuple[int, int] | None) -> list[int]:
        """The segments of a part, all of them without one; raises `BadPart`."""
        number, parts = part or (1, 1)
        if not 1 <= number <= parts:
            msg = f"part {number}/{parts} does not exist; parts count from 1, such as 3/16."
            raise BadPart(msg)
        return list(range(number - 1, self.shape.segments, parts))

    def run(
        self, mine: list[int], *, workers: int | None, progress: Progress, notice: Notice
    ) -> None:
        """Make every segment that has no manifest, and publish as they grow."""
        committed = set(committed_segments(self.layout, self.begun.folder))
        todo = [segment for segment in mine if segment not in committed]
        published = done = len(committed)
        total = sum(len(self.shape.rows_of(one)) for one in mine)
        images = total - sum(len(self.shape.rows_of(one)) for one in todo)
        fix_threads(self.begun.settings.threads)
        earlier = None
        if todo and self.shape.neuron_layers:
            earlier = self._neurons(todo, workers, progress=progress, notice=notice)
        progress(images, total)
        with SegmentWriter() as writer, closing(self._batches(todo, workers=workers)) as batches:
            for segment in todo:
                clear_partial(self.files, segment)
                buffer = SegmentBuffer(self.files, segment)
                for _ in self._ranges(segment):
                    batch = next(batches)
                    values, totals = self._parts(batch)
                    if earlier is not None:
                        earlier.add_to(values, batch, segment)
                    buffer.put(
                        batch.rows,
                        batch.records,
                        thumbnails=batch.thumbnails,
                        values=values,
                        totals=totals,
                    )
                    images += len(batch.rows)
                    progress(images, total)
                writer.submit(buffer)
                done += 1
                if due(published, done):
                    publish_segments(self.layout, self.begun.run_id)
                    published = done

    def _neurons(
        self, todo: list[int], workers: int | None, *, progress: Progress, notice: Notice
    ) -> _EarlierPasses | None:
        """Fit the neurons, make all passes but the last, and be ready for the last."""
        settings = self.begun.settings
        stage = NeuronStage(
            layout=self.layout,
            folder=self.begun.folder,
            run=self.run_name,
            settings=settings,
            shape=self.shape,
            source=self.source,
            model=self.model,
            workers=default_workers() if workers is None else workers,
        )
        *before, last = range(len(settings.neuron_passes))
        if before:
            notice(
                f"The neurons of {len(self.shape.neuron_layers)} layers do not fit into memory "
                f"together: {len(before) + 1} passes over the images."
            )
        stage.fit(progress=progress, notice=notice)
        earlier = _EarlierPasses(self, before) if before else None
        for number in before:
            notice(f"Pass {number + 1} of {len(before) + 1}.")
            self._side_pass(stage, number, todo, progress)
        if before:
            notice(f"Pass {len(before) + 1} of {len(before) + 1}.")
        self.projection = stage.projection(last)
        self.files.neuron_threshold = read_static(
            self.layout, self.begun.folder, "neuron_threshold"
        )
        return earlier

    def _side_pass(
        self, stage: NeuronStage, number: int, segments: list[int], progress: Progress
    ) -> None:
        """Project one pass' layers of every segment, and leave them beside its manifest."""
        layout, folder = self.layout, self.begun.folder
        todo = [one for one in segments if not layout.pass_rows(folder, one, number).exists()]
        if not todo:
            return
        projection = stage.projection(number)
        decompose = Decomposer(self.model.visual, Kept())
        total = sum(len(self.shape.rows_of(one)) for one in segments)
        done = total - sum(len(self.shape.rows_of(one)) for one in todo)
        progress(done, total)
        with closing(stage.read([part for one in todo for part in self._ranges(one)])) as read:
            for segment in todo:
                parts: list[Values] = []
                for _ in self._ranges(segment):
                    batch = next(read)
                    if batch.ok.any():
                        trace = projection.second_order.trace()
                        decompose(batch.images.to(self.device, non_blocking=True), trace)
                        found = effect_arrays(projection(trace))
                        parts.append(found | {"row": batch.rows[batch.ok]})
                    done += len(batch.rows)
                    progress(done, total)
                joined = {
                    name: torch.from_numpy(np.concatenate([part[name] for part in parts]))
                    for name in (parts[0] if parts else ())
                }
                write_tensors(layout.pass_rows(folder, segment, number), joined)

    def close(self, *, notice: Notice) -> tuple[int, bool]:
        """Publish what is committed, finalize if that is everything; (rejected, complete)."""
        committed = committed_segments(self.layout, self.begun.folder)
        complete = len(committed) == self.shape.segments
        published = published_segments(self.layout, self.begun.run_id)
        # A generation in which nothing is new would only push out one to roll back to.
        if complete and published is not None:
            finalize(self.layout, self.begun.run_id, notice=notice)
        elif published is not None and published < len(committed):
            publish_segments(self.layout, self.begun.run_id)
        manifests = (read_manifest(self.layout.manifest(self.begun.folder, n)) for n in committed)
        return sum(manifest.facts["rejected"] for manifest in manifests), complete

    def _ranges(self, segment: int) -> list[range]:
        """Batches of a segment: they never cross its border, so that redoing it gives its bytes."""
        rows, size = self.shape.rows_of(segment), self.begun.settings.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _batches(self, segments: list[int], *, workers: int | None) -> Generator[Batch]:
        return batches(
            self.source,
            [batch for segment in segments for batch in self._ranges(segment)],
            preprocess=self.model.preprocess,
            workers=default_workers() if workers is None else workers,
            thumbnails=self.begun.settings.thumbnails,
        )

    def _parts(
        self, batch: Batch
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[np.float64]]]:
        """The row arrays of a batch's readable images, and sums over them before rounding."""
        if not batch.ok.any():
            return {}, {}
        trace = None if self.projection is None else self.projection.second_order.trace()
        parts = self.decompose(batch.images.to(self.device, non_blocking=True), trace)
        values = {name: getattr(parts, name).float().cpu().numpy() for name in self.stored}
        totals = {"layer_total": layer_totals(parts.layer, parts.cls_token)}
        if self.shape.head_layers:
            totals["head_moment"] = head_moments(parts.head_value, parts.scale)
        if self.projection is not None and trace is not None:
            values |= effect_arrays(self.projection(trace))
        return values, totals


class _EarlierPasses:
    """The neuron layers of all passes but the last, as those passes left them on disk."""

    def __init__(self, job: SegmentJob, numbers: Sequence[int]) -> None:
        self._job = job
        self._numbers = numbers
        self._segment = -1
        self._found: list[dict[str, npt.NDArray[Any]]] = []

    def add_to(self, values: Values, batch: Batch, segment: int) -> None:
        """Put the layers of a batch's readable images beside those that the last pass found."""
        if segment != self._segment:
            paths = (
                self._job.layout.pass_rows(self._job.begun.folder, segment, number)
                for number in self._numbers
            )
            tensors = [load_file(path) for path in paths]
            self._found = [{n: t.numpy() for n, t in one.items()} for one in tensors]
            self._segment = segment
        if not batch.ok.any():
            return
        rows, layers = batch.rows[batch.ok], self._job.shape.neuron_layers
        self._check_same_images(rows, segment)
        passes = self._job.begun.settings.neuron_passes
        for name, spec in self._job.effects.items():
            whole = np.empty((len(rows), *spec.shape[1:]), np.float32)
            whole[:, [layers.index(layer) for layer in passes[-1]]] = values[name]
            for number, found in zip(self._numbers, self._found, strict=True):
                which = np.searchsorted(found["row"], rows)
                whole[:, [layers.index(layer) for layer in passes[number]]] = found[name][which]
            values[name] = whole

    def _check_same_images(self, rows: npt.NDArray[np.int64], segment: int) -> None:
        """Raise `ImagesChanged` where an earlier pass could not read what can be read now."""
        for found in self._found:
            missing = np.setdiff1d(rows, found.get("row", rows[:0]))
            if len(missing):
                forget_passes(self._job.layout, self._job.begun.folder, segment)
                msg = (
                    f"the image of row {missing[0]} of run {self._job.run_name!r} can be read now "
                    "and could not in an earlier pass over the images: the same `lensbase ingest` "
                    f"command again goes over segment {segment} anew."
                )
                raise ImagesChanged(msg)
