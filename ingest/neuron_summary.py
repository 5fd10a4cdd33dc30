"""What the catalogue says of a complete run's neurons: summaries, peaks, top images, texts."""

from __future__ import annotations

import json
import logging
from itertools import pairwise

import numpy as np

from ..queries.sparse_text import SparseCodes, sparse_codes
from ..schema.arrays import RunShape
from ..schema.catalog import Draft
from ..schema.codes import CODE_LENGTH, CODE_VERSION
from ..schema.components import Neuron
from ..schema.layout import Layout
from ..schema.snapshot import read_pool_vectors, read_static
from ..schema.stages import stage
from ..schema.tables import Model, Pool, Run
from .by_neuron import Summary

_LOG = logging.getLogger(__name__)
MOST_PEAK_ROWS = 100_000_000
TOP_IMAGES = 20  # in the catalogue; the arrays keep more


def summarize_neurons(
    draft: Draft, layout: Layout, run: Run, *, shape: RunShape, summary: Summary
) -> None:
    """Fill `neuron`, `neuron_top` and `neuron_peak`."""
    import pyarrow as pa

    count = len(shape.neuron_layers) * shape.neurons
    layer = np.repeat(np.asarray(shape.neuron_layers, np.int32), shape.neurons)
    neuron = np.tile(np.arange(shape.neurons, dtype=np.int32), len(shape.neuron_layers))
    threshold, explained = (
        read_static(layout, run.folder, name).reshape(-1).astype(np.float64)
        for name in ("neuron_threshold", "neuron_explained")
    )
    ((readable,),) = draft.connection.execute(
        "SELECT count(*) FROM run_image WHERE run_id = ? AND status = 'ok'", [run.run_id]
    ).fetchall()
    draft.insert(
        "neuron",
        pa.table(
            {
                "run_id": pa.array(np.full(count, run.run_id, np.int32)),
                "layer": layer,
                "neuron": neuron,
                "component": [
                    str(Neuron(*one)) for one in zip(layer.tolist(), neuron.tolist(), strict=True)
                ],
                "mean_norm": summary.total / max(readable, 1),
                "norm_p98": threshold,
                "explained_variance": explained,
                "active": summary.active,
            }
        ),
    )
    _take_tops(draft, run, summary=summary, layer=layer, neuron=neuron)
    _take_peaks(draft, layout, run, shape=shape, peaks=int(summary.active.sum()))


def find_neuron_texts(draft: Draft, layout: Layout, run: Run, *, pool: Pool) -> None:
    """Sparse codes of every neuron's direction over a pool (T3.4), unless they are known."""
    known = draft.connection.execute(
        "SELECT 1 FROM neuron_text "
        "WHERE run_id = ? AND pool_id = ? AND m = ? AND NOT centered AND version = ? LIMIT 1",
        [run.run_id, pool.pool_id, CODE_LENGTH, CODE_VERSION],
    )
    if known.fetchone() is not None:
        return
    model = draft.session.get_one(Model, run.model_id)
    vectors = read_pool_vectors(layout, pool.name, model.weights_sha256)
    directions = read_static(layout, run.folder, "neuron_direction")
    layers: list[int] = json.loads(run.neuron_layers)
    done, count = 0, directions.shape[0] * directions.shape[1]
    what = f"codes of {CODE_LENGTH} of {len(vectors):,} texts for {count:,} neurons"
    with stage(_LOG, what, unit="neuron", delay=1) as work:
        for layer, targets in zip(layers, directions, strict=True):
            before = done
            codes = sparse_codes(
                targets,
                vectors,
                m=CODE_LENGTH,
                path=False,
                progress=lambda some, _, before=before: work.tell(before + some, count),
            )
            done += len(targets)
            _take_codes(draft, run, pool=pool, layer=layer, codes=codes)


def _take_codes(draft: Draft, run: Run, *, pool: Pool, layer: int, codes: SparseCodes) -> None:
    import pyarrow as pa

    neuron, place = np.nonzero(codes.picks >= 0)
    count = len(neuron)
    draft.insert(
        "neuron_text",
        pa.table(
            {
                "run_id": pa.array(np.full(count, run.run_id, np.int32)),
                "layer": pa.array(np.full(count, layer, np.int32)),
                "neuron": neuron.astype(np.int32),
                "pool_id": pa.array(np.full(count, pool.pool_id, np.int32)),
                "m": pa.array(np.full(count, CODE_LENGTH, np.int32)),
                "centered": pa.array(np.zeros(count, np.bool_)),
                "version": pa.array(np.full(count, CODE_VERSION, np.int32)),
                "rank": (place + 1).astype(np.int32),
                "position": codes.picks[neuron, place].astype(np.int32),
                "coefficient": codes.coefficients[neuron, place],
            }
        ),
    )


def _take_tops(
    draft: Draft,
    run: Run,
    *,
    summary: Summary,
    layer: np.ndarray[tuple[int], np.dtype[np.int32]],
    neuron: np.ndarray[tuple[int], np.dtype[np.int32]],
) -> None:
    import pyarrow as pa

    rows = summary.rows[:, :TOP_IMAGES]
    which, place = np.nonzero(rows >= 0)
    draft.connection.register(
        "tops",
        pa.table(
            {
                "layer": layer[which],
                "neuron": neuron[which],
                "rank": (place + 1).astype(np.int32),
                "row": rows[which, place].astype(np.int64),
                "norm": summary.norms[which, place],
            }
        ),
    )
    draft.connection.execute(
        """INSERT INTO neuron_top BY NAME
           SELECT run_image.run_id, layer, neuron, rank, image_id, norm
           FROM tops JOIN run_image ON run_image.run_id = ? AND run_image.row = tops.row
           ORDER BY layer, neuron, rank""",
        [run.run_id],
    )
    draft.connection.unregister("tops")


def _take_peaks(draft: Draft, layout: Layout, run: Run, *, shape: RunShape, peaks: int) -> None:
    run.neuron_peak_complete = peaks <= MOST_PEAK_ROWS
    draft.session.flush()
    if not run.neuron_peak_complete:
        return
    files = [str(layout.peak_rows(run.folder, segment)) for segment in range(shape.segments)]
    # Sorted by neuron, then image, in steps: the sort would not fit into memory at once.
    for low, high in pairwise([*shape.neuron_layers, shape.neuron_layers[-1] + 1]):
        draft.connection.execute(
            """INSERT INTO neuron_peak BY NAME
               SELECT run_image.run_id, run_image.image_id, layer, neuron, norm, coefficient
               FROM read_parquet(?) peaks JOIN run_image
                 ON run_image.run_id = ? AND run_image.row = peaks.row
               WHERE layer >= ? AND layer < ?
               ORDER BY layer, neuron, peaks.row""",
            [files, run.run_id, low, high],
        )
