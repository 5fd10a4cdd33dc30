"""The ingest: images through a model into a store, segment by segment, resumable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

from ..schema.arrays import Storage, segment_rows_for
from ..schema.catalog import create_store, publishing
from ..schema.components import check_name, slug
from ..schema.errors import BadPart, BadQuestion, BadSelection, BadSize, RunMismatch
from ..schema.layout import Layout
from ..schema.locks import lock_segments
from ..schema.snapshot import open_snapshot
from ..schema.stages import Progress, stage
from ..schema.tables import Model, Run
from . import pools
from .begin import BegunRun, Request, RunBegun, begin_run, check_same, requested_shape
from .decompose import head_basis, projection_weights
from .devices import choose_device, default_threads, free_batch_size, neuron_memory
from .finalize import find_texts
from .model_plan import known_layers
from .models import load_model
from .neuron_layers import choose_neuron_layers, one_width, plan_passes
from .neuron_stage import Notice
from .neuron_weights import neuron_weights
from .publish import published_segments
from .segment_job import SegmentJob
from .settings import Settings, choose_layers
from .sources import open_source

if TYPE_CHECKING:
    from torch import nn

    from .models import LoadedModel

Choice: TypeAlias = str | Sequence[int] | None
Chosen: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

_LOG = logging.getLogger(__name__)
_REFERENCE = 5000  # images, as in section 3.3


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
    neurons: str | Sequence[int] | None = None,
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
    neuron_input: bool = False,
    reference: int | None = None,
    memory: int | None = None,
    progress: Progress = None,
    notice: Notice | None = None,
) -> Ingested:
    """Run images through a model once and write what its parts do into a store.

    `images` is a folder, manifest, Parquet, WebDataset, `datasets` directory or list of paths;
    `model` an open_clip name, `world` or a module. `heads` and `head_tokens` choose layers;
    tokens are kept by default up to 100,000 images. `part=(3, 16)` writes the third of sixteen
    parts. `storage="float32"` keeps contributions unrounded, in twice the space. `batch_size`,
    `threads` and `segment_rows` (a multiple of 16) are chosen where None, and
    kept by the run.

    `neurons` keeps the second-order effects of layers' neurons (T3.3): "default", the three before
    the last, "all" but the last, or a choice as for heads; they are first fitted to `reference`
    images, by default 5,000 spread over the run. `neuron_input` also keeps what these layers' MLPs
    read, for activation maps. Layers whose Gram matrices and fit exceed `memory` bytes together
    (by default a quarter of what is free) take several passes. A bar is shown on a terminal
    and in notebooks; `progress=False` shows none, True always does, and a function is told images
    done and in all instead, from the start again at each pass. `notice` is told what begins.
    The same call again goes on where the last one stopped, and gives the same bytes.

    Raises `NoSecondOrderEffect` for neurons of the last layer, `MemoryTooSmall`, `NoImages` where
    no image that neurons could be fitted to can be read, `ImagesChanged`, `RunBusy` while
    another process writes the run, `RunMismatch` where it was begun with other settings (or
    exists, with `resume=False`), and what models and sources raise.
    """
    # What needs no model is refused before one is loaded.
    storage, segment_rows = _storage(storage), _segment_rows(segment_rows)
    if neurons in (None, "none", (), []):
        _no_neuron_options(neuron_input=neuron_input, reference=reference, memory=memory)
    images_fitted_to, memory = _reference(reference), _memory(memory)
    if (known := known_layers(model)) is not None:
        _layers(heads, head_tokens, neurons, layers=known)
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
    data = check_name(dataset, kind="data set") if dataset else slug(Path(source.root).stem)
    name = run or slug("-".join(filter(None, (info.name, _tag(info.pretrained), data))))
    head_layers, token_layers, chosen = _layers(heads, head_tokens, neurons, layers=info.layers)
    settings = Settings(
        head_layers=head_layers,
        tokens=table.num_rows <= 100_000 if tokens is None else tokens,
        head_token_layers=token_layers,
        thumbnails=thumbnails,
        precision=precision,
        device=device.split(":")[0],
        batch_size=batch_size or 0,
        threads=threads or 0,
        segment_rows=segment_rows,
        storage=storage,
        neuron_layers=chosen,
        neurons=one_width(loaded.visual, chosen),
        neuron_input=neuron_input and bool(chosen),
        reference=min(images_fitted_to, table.num_rows) if chosen else 0,
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
    layout = create_store(Path(store))
    begun = _begin_or_resume(layout, request, loaded, resume=resume, memory=memory)
    job = SegmentJob(layout, begun, run=name, source=source, model=loaded)
    mine = job.segments_of(part)
    with lock_segments(layout.run_lock(begun.folder), name, mine):
        published_segments(layout, begun.run_id)
        if pool is not None:
            add_to_run(layout, begun.run_id, pool=pool, model=loaded)
        what = f"ingesting {table.num_rows:,} images into run {name}"
        with stage(_LOG, what, unit="image", progress=progress, notice=notice) as work:
            job.run(mine, workers=workers, progress=work.tell, notice=work.say)
            rejected, complete = job.close(notice=work.say)
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
    layout: Layout, request: Request, loaded: LoadedModel, *, resume: bool, memory: int | None
) -> BegunRun:
    known = {row["name"]: row for row in open_snapshot(layout.root).run_rows()}.get(request.run)
    given = request.settings
    if known is None:
        layers = given.neuron_layers
        settings = replace(
            given,
            neuron_passes=_passes(loaded, given, memory=memory) if layers else (),
            batch_size=given.batch_size or free_batch_size(loaded, given.neuron_layers),
            threads=given.threads or default_threads(),
        )
        one = requested_shape(
            request.model, replace(settings, segment_rows=1), request.table.num_rows
        )
        settings = replace(settings, segment_rows=given.segment_rows or segment_rows_for(one))
        visual = loaded.visual
        static = {"head_basis": head_basis(visual, settings.head_layers)}
        static |= projection_weights(visual) | neuron_weights(visual, settings.neuron_layers)
        try:
            return begin_run(layout, replace(request, settings=settings), static=static)
        except RunBegun:
            # Parts of a new run that start at once: the first one begins it.
            return _begin_or_resume(layout, request, loaded, resume=resume, memory=memory)
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
    # Nor are the passes, whatever memory there is now.
    chosen["neuron_passes"] = tuple(tuple(one) for one in known["neuron_passes"])
    settings = replace(given, **chosen)
    check_same(known, replace(request, settings=settings))
    return BegunRun(known["run_id"], known["folder"], settings)


def _passes(
    loaded: LoadedModel, settings: Settings, *, memory: int | None
) -> tuple[tuple[int, ...], ...]:
    return plan_passes(
        loaded.visual,
        settings.neuron_layers,
        images=settings.reference,
        memory=neuron_memory(loaded) if memory is None else memory,
    )


def _layers(heads: Choice, head_tokens: Choice, neurons: Choice, *, layers: int) -> Chosen:
    """Layers whose heads, heads' tokens and neurons are kept; raises as their readers do."""
    return (
        choose_layers(heads, layers=layers, option="--heads"),
        choose_layers(head_tokens, layers=layers, option="--head-tokens"),
        choose_neuron_layers(neurons, layers=layers),
    )


def _no_neuron_options(**given: bool | int | None) -> None:
    for name, value in given.items():
        if value is not None and value is not False:
            msg = (
                f"{name} (--{name.replace('_', '-')}) is about neurons, and no layer's are kept; "
                "choose some with neurons (--neurons default)."
            )
            raise BadQuestion(msg)


def _reference(asked: int | None) -> int:
    if asked is not None and not _counts(asked):
        msg = f"a reference set of {asked!r} images fits nothing; ask for one image at least."
        raise BadSelection(msg)
    return _REFERENCE if asked is None else int(asked)


def _memory(allowed: int | None) -> int | None:
    if allowed is not None and not _counts(allowed):
        msg = f"memory={allowed!r} is no number of bytes; give a whole one, such as 4_000_000_000."
        raise BadSize(msg)
    return None if allowed is None else int(allowed)


def _counts(value: object) -> bool:
    """Whether something is a whole number of at least 1."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= 1


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
