"""The ingest: images through a model into a store, segment by segment, resumable."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import numpy.typing as npt

from ..schema.arrays import Storage, run_arrays, segment_rows_for
from ..schema.catalog import create_store, publishing
from ..schema.components import check_name, slug
from ..schema.errors import BadPart, RunMismatch
from ..schema.layout import Layout
from ..schema.locks import lock_segments
from ..schema.manifest import committed_segments, read_manifest
from ..schema.snapshot import open_snapshot
from ..schema.tables import Model, Run
from . import pools
from .begin import BegunRun, Request, RunBegun, begin_run, check_same, requested_shape
from .decompose import Decomposer, Kept, head_basis, projection_weights
from .devices import choose_device, default_threads, default_workers, fix_threads, free_batch_size
from .finalize import finalize, find_texts
from .loading import batches
from .models import load_model
from .moments import head_moments, layer_totals
from .publish import due, publish_segments, published_segments
from .segment import RunFiles, SegmentBuffer, clear_partial
from .settings import Settings, choose_layers
from .sources import open_source
from .writer import SegmentWriter

if TYPE_CHECKING:
    from torch import nn

    from .loading import Batch
    from .models import LoadedModel
    from .sources import Source

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ingested:
    """What an ingest did: the run, its images, how many were rejected, and whether it is whole."""

    run: str
    images: int
    rejected: int
    complete: bool


def ingest(
    images: Any,
    store: str | Path,
    *,
    model: str | nn.Module = "world",
    pretrained: str | None = None,
    preprocess: Callable[..., Any] | None = None,
    tokenizer: Callable[..., Any] | None = None,
    run: str | None = None,
    dataset: str | None = None,
    heads: str | Sequence[int] | None = "last:4",
    tokens: bool | None = None,
    head_tokens: str | Sequence[int] | None = None,
    pool: pools.TextPool | None = None,
    limit: int | None = None,
    where: str | None = None,
    devices: str = "auto",
    precision: str = "fp32",
    batch_size: int | None = None,
    threads: int | None = None,
    segment_rows: int | None = None,
    workers: int | None = None,
    thumbnails: bool = True,
    storage: Storage = "float16",
    part: tuple[int, int] | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Ingested:
    """Run images through a model once and write what its parts do into a store.

    `images` is a folder, manifest, Parquet, WebDataset, `datasets` directory or list of paths;
    `model` an open_clip name, `world` or a module. `heads` and `head_tokens` choose layers;
    tokens are kept by default up to 100,000 images. `part=(3, 16)` writes the third of sixteen
    parts. `storage="float32"` keeps contributions unrounded, in twice the space. `batch_size`,
    `threads` and `segment_rows` (a multiple of 16) are chosen where None, and
    kept by the run. The same call again goes on where the last one stopped, and gives the
    same bytes.

    Raises `RunBusy` while another process writes the run, `RunMismatch` where it was begun with
    other settings (or exists, with `resume=False`), and what models and sources raise.
    """
    # What needs no model is refused before one is loaded.
    storage, segment_rows = _storage(storage), _segment_rows(segment_rows)
    source = open_source(images, limit=limit, where=where)
    table = source.table()
    device = choose_device(devices)
    loaded = load_model(
        model,
        pretrained=pretrained,
        preprocess=preprocess,
        tokenizer=tokenizer,
        device=device,
        precision=precision,
    )
    info = loaded.info
    layout = create_store(Path(store))
    data = check_name(dataset, kind="data set") if dataset else slug(Path(source.root).stem)
    name = run or slug("-".join(filter(None, (info.name, _tag(info.pretrained), data))))
    settings = Settings(
        head_layers=choose_layers(heads, layers=info.layers, option="--heads"),
        tokens=table.num_rows <= 100_000 if tokens is None else tokens,
        head_token_layers=choose_layers(head_tokens, layers=info.layers, option="--head-tokens"),
        thumbnails=thumbnails,
        precision=precision,
        device=device.split(":")[0],
        batch_size=batch_size or 0,
        threads=threads or 0,
        segment_rows=segment_rows,
        storage=storage,
    )
    request = Request(
        run=check_name(name, kind="run"),
        dataset=data,
        kind=source.kind,
        root=source.root,
        table=table,
        model=info,
        settings=settings,
    )
    begun = _begin_or_resume(layout, request, loaded, resume=resume)
    job = _Job(layout, begun, source, loaded, table.num_rows)
    mine = job.segments_of(part)
    with lock_segments(layout.run_lock(begun.folder), name, mine):
        published_segments(layout, begun.run_id)
        if pool is not None:
            add_to_run(layout, begun.run_id, pool=pool, model=loaded)
        job.run(mine, workers=workers, progress=progress)
        rejected, complete = job.close()
    return Ingested(name, table.num_rows, rejected, complete)


def add_to_run(layout: Layout, run_id: int, *, pool: pools.TextPool, model: LoadedModel) -> None:
    """Embed a pool with a run's model and make it the run's default pool if it has none."""
    pools.embed(layout, pool, model)
    if pools.recorded(layout, pool, run_id=run_id):
        return
    with publishing(layout) as draft:
        run = draft.session.get_one(Run, run_id)
        row = draft.session.get_one(Model, run.model_id)
        known = pools.record(draft, pool, kind="texts", models=[row])
        run.default_pool = run.default_pool or pool.name
        if run.status == "complete":
            find_texts(draft, layout, run, pool=known)


def _begin_or_resume(
    layout: Layout, request: Request, loaded: LoadedModel, *, resume: bool
) -> BegunRun:
    known = {row["name"]: row for row in open_snapshot(layout.root).run_rows()}.get(request.run)
    given = request.settings
    if known is None:
        settings = replace(
            given,
            batch_size=given.batch_size or free_batch_size(loaded),
            threads=given.threads or default_threads(),
        )
        one = requested_shape(
            request.model, replace(settings, segment_rows=1), request.table.num_rows
        )
        settings = replace(settings, segment_rows=given.segment_rows or segment_rows_for(one))
        visual = loaded.visual
        static = {"head_basis": head_basis(visual, settings.head_layers)}
        static |= projection_weights(visual)
        try:
            return begin_run(layout, replace(request, settings=settings), static=static)
        except RunBegun:
            # Parts of a new run that start at once: the first one begins it.
            return _begin_or_resume(layout, request, loaded, resume=resume)
    if not resume:
        msg = (
            f"run {request.run!r} exists; go on with it (without --no-resume), choose another "
            "name with --run, or `lensbase run drop` it first."
        )
        raise RunMismatch(msg)
    # What the run chose by itself when it began is not a difference.
    chosen = {
        name: getattr(given, name) or known[name]
        for name in ("batch_size", "threads", "segment_rows")
    }
    settings = replace(given, **chosen)
    check_same(known, replace(request, settings=settings))
    return BegunRun(known["run_id"], known["folder"], settings)


class _Job:
    """The segments of one run, or of one part of it."""

    def __init__(
        self, layout: Layout, begun: BegunRun, source: Source, model: LoadedModel, images: int
    ) -> None:
        settings = begun.settings
        self.layout, self.begun, self.source, self.model = layout, begun, source, model
        self.shape = requested_shape(model.info, settings, images)
        self.stored = [name for name, spec in run_arrays(self.shape).items() if spec.kind == "row"]
        self.device = next(model.model.parameters()).device
        basis = head_basis(model.visual, settings.head_layers)
        self.files = RunFiles(layout, begun.folder, self.shape, basis)
        self.decompose = Decomposer(
            model.visual,
            Kept(
                head_layers=settings.head_layers,
                tokens=settings.tokens,
                head_token_layers=settings.head_token_layers,
            ),
        )

    def segments_of(self, part: tuple[int, int] | None) -> list[int]:
        """The segments of a part, all of them without one; raises `BadPart`."""
        number, parts = part or (1, 1)
        if not 1 <= number <= parts:
            msg = f"part {number}/{parts} does not exist; parts count from 1, such as 3/16."
            raise BadPart(msg)
        return list(range(number - 1, self.shape.segments, parts))

    def run(self, mine: list[int], *, workers: int | None, progress: Progress | None) -> None:
        """Make every segment that has no manifest, and publish as they grow."""
        committed = set(committed_segments(self.layout, self.begun.folder))
        todo = [segment for segment in mine if segment not in committed]
        published = done = len(committed)
        total = sum(len(self.shape.rows_of(one)) for one in mine)
        images = total - sum(len(self.shape.rows_of(one)) for one in todo)
        tell = progress or _silently
        tell(images, total)
        fix_threads(self.begun.settings.threads)
        with SegmentWriter() as writer, closing(self._batches(todo, workers=workers)) as batches:
            for segment in todo:
                clear_partial(self.files, segment)
                buffer = SegmentBuffer(self.files, segment)
                for _ in self._ranges(segment):
                    batch = next(batches)
                    values, totals = self._parts(batch)
                    buffer.put(
                        batch.rows,
                        batch.records,
                        thumbnails=batch.thumbnails,
                        values=values,
                        totals=totals,
                    )
                    images += len(batch.rows)
                    tell(images, total)
                writer.submit(buffer)
                done += 1
                if due(published, done):
                    publish_segments(self.layout, self.begun.run_id)
                    published = done

    def close(self) -> tuple[int, bool]:
        """Publish what is committed, finalize if that is everything; (rejected, complete)."""
        committed = committed_segments(self.layout, self.begun.folder)
        complete = len(committed) == self.shape.segments
        published = published_segments(self.layout, self.begun.run_id)
        # A generation in which nothing is new would only push out one to roll back to.
        if complete and published is not None:
            finalize(self.layout, self.begun.run_id)
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
        parts = self.decompose(batch.images.to(self.device, non_blocking=True))
        values = {name: getattr(parts, name).float().cpu().numpy() for name in self.stored}
        totals = {"layer_total": layer_totals(parts.layer, parts.cls_token)}
        if self.shape.head_layers:
            totals["head_moment"] = head_moments(parts.head_value, parts.scale)
        return values, totals


def _silently(done: int, total: int) -> None:
    """Tell nobody how far an ingest is."""


def _segment_rows(rows: int | None) -> int:
    if rows is not None and (rows < 16 or rows % 16):
        msg = f"segment_rows {rows} does not divide into chunks; give a multiple of 16."
        raise BadPart(msg)
    return rows or 0


def _storage(storage: str) -> Storage:
    if storage not in get_args(Storage):
        msg = f"storage {storage!r} is not kept; choose one of {', '.join(get_args(Storage))}."
        raise BadPart(msg)
    return cast("Storage", storage)


def _tag(pretrained: str | None) -> str | None:
    return Path(pretrained).stem if pretrained else None
