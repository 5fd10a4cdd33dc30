"""Finalizing a run: summaries, effects and TEXTSPAN once every segment is committed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.factors import covariance
from ..queries.textspan import textspans
from ..schema.arrays import RunShape, run_arrays
from ..schema.catalog import Draft, current_generation, now, publishing
from ..schema.components import Head, layer_terms
from ..schema.errors import RunIncomplete
from ..schema.layout import Layout
from ..schema.locks import lock_when_free
from ..schema.manifest import committed_segments
from ..schema.shards import RowArray, SegmentArray
from ..schema.snapshot import (
    JSON_COLUMNS,
    open_snapshot,
    read_pool_vectors,
    read_static,
    run_shape,
)
from ..schema.tables import HeadRow, HeadText, Layer, Model, Pool, PoolModel, Run
from .by_neuron import Summary, remove_earlier, write_by_neuron
from .neuron_summary import find_neuron_texts, summarize_neurons
from .publish import run_gone, take_in

MOST_EFFECT_ROWS = 100_000_000
TEXTS_KEPT = 20


def finalize(
    layout: Layout, run_id: int, *, notice: Callable[[str], None] = lambda _: None
) -> None:
    """Complete a run whose segments are all committed, and publish it.

    `notice` is told where another process does it, and is waited for. Raises `RunIncomplete`, with
    the segments that are missing, and `UnknownRun` where it has gone; does nothing to a run that is
    already complete.
    """
    found = _run_row(layout, run_id)
    shape = run_shape(found)
    if not shape.neuron_layers:
        _publish(layout, run_id, shape)
        return

    def waiting() -> None:
        notice("Another process completes this run, or fits its neurons: waiting for it.")

    # Long for many neurons: beside the publish lock, but only one process does it.
    lock = layout.run_lock(found["folder"])
    with lock_when_free(lock, found["name"], shape.segments, waiting=waiting):
        if _run_row(layout, run_id)["status"] == "complete":
            return
        _check_whole(layout, found)
        label = current_generation(layout) + 1
        summary = write_by_neuron(layout, found["folder"], shape, label=label, version=str(run_id))
        _publish(layout, run_id, shape, neurons=(label, summary))
        remove_earlier(layout, found["folder"], written=label)
        shutil.rmtree(layout.passes(found["folder"]), ignore_errors=True)


def _publish(
    layout: Layout, run_id: int, shape: RunShape, *, neurons: tuple[int, Summary] | None = None
) -> None:
    with publishing(layout) as draft:
        run = draft.session.get_one(Run, run_id)
        if run.status == "complete":
            return
        _check_whole(layout, _columns(run))
        take_in(draft, layout, run)
        model = draft.session.get_one(Model, run.model_id)
        _summarize_layers(draft, layout, run, shape=shape)
        if shape.head_layers:
            _take_effects(draft, layout, run, shape=shape)
            _summarize_heads(draft, layout, run, shape=shape)
        if neurons is not None:
            run.by_neuron, summary = neurons
            summarize_neurons(draft, layout, run, shape=shape, summary=summary)
        for pool in _embedded_pools(draft, model):
            find_texts(draft, layout, run, pool=pool)
        run.status, run.finished_at = "complete", now()


def _run_row(layout: Layout, run_id: int) -> dict[str, Any]:
    snapshot = open_snapshot(layout.root)
    try:
        found = next((row for row in snapshot.run_rows() if row["run_id"] == run_id), None)
    finally:
        snapshot.connection.close()
    if found is None:
        raise run_gone()
    return found


def _check_whole(layout: Layout, run: dict[str, Any]) -> None:
    missing = sorted(set(range(run["segments"])) - set(committed_segments(layout, run["folder"])))
    if missing:
        msg = (
            f"run {run['name']!r} lacks {len(missing)} of {run['segments']} segments (the first: "
            f"{missing[0]}); the same `lensbase ingest` command again makes them."
        )
        raise RunIncomplete(msg)


def _shape_of(run: Run, model: Model) -> RunShape:
    columns = _columns(model) | _columns(run)
    for name in JSON_COLUMNS:
        columns[name] = json.loads(columns[name])
    return run_shape(columns)


def _columns(row: Run | Model) -> dict[str, Any]:
    return {one.key: getattr(row, one.key) for one in row.__mapper__.column_attrs}


def find_texts(draft: Draft, layout: Layout, run: Run, *, pool: Pool) -> None:
    """Find texts of a pool for every kept head, and of the default pool for every kept neuron."""
    shape = _shape_of(run, draft.session.get_one(Model, run.model_id))
    if shape.head_layers:
        _find_head_texts(draft, layout, run, pool=pool)
    if shape.neuron_layers and pool.name == run.default_pool:
        find_neuron_texts(draft, layout, run, pool=pool)


def _find_head_texts(draft: Draft, layout: Layout, run: Run, *, pool: Pool) -> None:
    """Run TEXTSPAN (Algorithm 1) for every kept head over a pool, from the whole run's moments."""
    model = draft.session.get_one(Model, run.model_id)
    shape = _shape_of(run, model)
    known = draft.session.query(HeadText).filter_by(run_id=run.run_id, pool_id=pool.pool_id)
    if known.first() is not None:
        return
    vectors = read_pool_vectors(layout, pool.name, model.weights_sha256)
    basis = read_static(layout, run.folder, "head_basis")
    moment = _run_moment(layout, run.folder, shape)
    spans = textspans(moment, basis, vectors, m=TEXTS_KEPT)
    heads = [(layer, head) for layer in shape.head_layers for head in range(shape.heads)]
    draft.session.add_all(
        HeadText(
            run_id=run.run_id,
            layer=layer,
            head=head,
            pool_id=pool.pool_id,
            rank=rank,
            position=int(position),
            explained_variance=float(own),
            cumulative=float(cumulative),
        )
        for (layer, head), span in zip(heads, spans, strict=True)
        for rank, (position, own, cumulative) in enumerate(
            zip(span.picks, span.explained, span.cumulative, strict=True), start=1
        )
    )


def _run_moment(layout: Layout, folder: str, shape: RunShape) -> npt.NDArray[np.float64]:
    spec = run_arrays(shape)["head_moment"]
    return SegmentArray(layout.arrays(folder) / spec.name, spec).total(range(shape.segments))


def _embedded_pools(draft: Draft, model: Model) -> list[Pool]:
    return (
        draft.session.query(Pool)
        .join(PoolModel, PoolModel.pool_id == Pool.pool_id)
        .filter(PoolModel.model_id == model.model_id)
        .all()
    )


def _summarize_layers(draft: Draft, layout: Layout, run: Run, *, shape: RunShape) -> None:
    terms = 2 * shape.layers + 1
    norm, share, squares = (np.zeros(terms) for _ in range(3))
    total = np.zeros((terms, shape.embed_dim))
    images = 0
    for layer, representation in _layer_blocks(layout, run.folder, shape, version=str(run.run_id)):
        images += len(layer)
        squared = np.einsum("kte,kte->kt", layer, layer)
        norm += np.sqrt(squared).sum(0)
        squares += squared.sum(0)
        total += layer.sum(0)
        length = np.einsum("ke,ke->k", representation, representation)
        share += (np.einsum("kte,ke->kt", layer, representation) / length[:, None]).sum(0)
    images = max(images, 1)
    variance = squares / images - np.einsum("te,te->t", total, total) / images**2
    draft.session.add_all(
        Layer(
            run_id=run.run_id,
            term=term,
            component=component,
            mean_norm=float(norm[term] / images),
            variance=float(variance[term]),
            mean_share=float(share[term] / images),
        )
        for term, component in enumerate(layer_terms(shape.layers))
    )


def _layer_blocks(
    layout: Layout, folder: str, shape: RunShape, *, version: str, rows: int = 256
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Walk over the readable images' layer terms and representations in bounded memory."""
    specs, arrays = run_arrays(shape), layout.arrays(folder)
    layer, representation = (
        RowArray(arrays / name, specs[name], shape.segment_rows, version)
        for name in ("layer", "representation")
    )
    for start in range(0, shape.images, rows):
        block = slice(start, start + rows)
        whole = representation.read(block).astype(np.float64)
        readable = np.isfinite(whole).all(axis=1)
        yield layer.read(block)[readable].astype(np.float64), whole[readable]


def _take_effects(draft: Draft, layout: Layout, run: Run, *, shape: RunShape) -> None:
    run.head_effect_complete = (
        shape.images * len(shape.head_layers) * shape.heads <= MOST_EFFECT_ROWS
    )
    draft.session.flush()
    if not run.head_effect_complete:
        return
    files = [str(layout.effect_rows(run.folder, segment)) for segment in range(shape.segments)]
    # Sorted by head, then image: DuckDB's zone maps then read one head without an index.
    draft.connection.execute(
        """INSERT INTO head_effect BY NAME
           SELECT run_image.run_id, run_image.image_id, layer, head, norm, share
           FROM read_parquet(?) effects JOIN run_image
             ON run_image.run_id = ? AND run_image.row = effects.row
           ORDER BY layer, head, effects.row""",
        [files, run.run_id],
    )


def _summarize_heads(draft: Draft, layout: Layout, run: Run, *, shape: RunShape) -> None:
    basis = read_static(layout, run.folder, "head_basis").astype(np.float64)
    moment = _run_moment(layout, run.folder, shape)
    files = [str(layout.effect_rows(run.folder, one)) for one in range(shape.segments)]
    rows = draft.connection.execute(
        """SELECT layer, head, avg(norm), quantile_cont(norm, 0.98), avg(share)
           FROM read_parquet(?) GROUP BY ALL""",
        [files],
    ).fetchall()
    summary: dict[tuple[int, int], Any] = {(row[0], row[1]): row[2:] for row in rows}
    for i, layer in enumerate(shape.head_layers):
        for head in range(shape.heads):
            found = summary.get((layer, head))
            if found is None:
                continue
            spread = covariance(moment[:, i, head]).covariance
            draft.session.add(
                HeadRow(
                    run_id=run.run_id,
                    layer=layer,
                    head=head,
                    component=str(Head(layer, head)),
                    mean_norm=found[0],
                    norm_p98=found[1],
                    mean_share=found[2],
                    variance=float(np.einsum("fe,fg,ge->", basis[i, head], spread, basis[i, head])),
                )
            )
