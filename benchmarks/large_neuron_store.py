"""A store of 50,000 images and the 3,072 neurons of one layer of a ViT-B, without a model.

Random numbers, but everything that an ingest would have made of them: both orientations, the rows
of largest norm, peaks, and codes of every neuron's direction in a pool of 30,000 texts: 16 texts a
neuron in the catalogue, 128 in a derived result. The codes are random too: questions do not care.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from large_store import JOINT, RUN, embed, large_shape, unit_vectors, write_large_store
from pyarrow import parquet

from lensbase.api import open_store
from lensbase.api.neuron_codes import TABLE, CodeQuestion, code_rows
from lensbase.ingest.begin import commit_fitted
from lensbase.ingest.by_neuron import Summary, write_by_neuron
from lensbase.ingest.neuron_summary import summarize_neurons
from lensbase.schema import tables
from lensbase.schema.arrays import RunShape, run_arrays, segment_rows_for
from lensbase.schema.catalog import Draft, publishing
from lensbase.schema.codes import CODE_LENGTH, CODE_VERSION
from lensbase.schema.derived import write_derived
from lensbase.schema.layout import Layout
from lensbase.schema.shards import encode_shard, shard_path

LAYER, NEURONS, WIDTH = 9, 3_072, 768
MANY, MANY_TEXTS = "many", 30_000
LONG = 128  # texts of the long codes
LABEL = 1

F32 = npt.NDArray[np.float32]


def neuron_shape() -> RunShape:
    """The neurons of one layer, and neither heads nor tokens."""
    shape = replace(
        large_shape(), head_layers=(), neuron_layers=(LAYER,), neurons=NEURONS, width=WIDTH
    )
    return replace(shape, segment_rows=segment_rows_for(shape))


def write_neuron_store(root: Path) -> float:
    """Write the store, 3 GB; returns the seconds that `write_by_neuron` took."""
    shape, random = neuron_shape(), np.random.default_rng(0)
    write_large_store(root, arrays=(), shape=shape)
    layout = Layout(root)
    scale = random.uniform(0.5, 2, NEURONS).astype(np.float32)
    threshold = (scale * np.exp(0.5 * 2.054)).astype(np.float32)  # log-normal: 2 % are above
    direction = random.standard_normal((1, NEURONS, JOINT), dtype=np.float32)
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    fitted = {
        "neuron_direction": direction,
        "neuron_mean": 0.1 * direction,
        "neuron_threshold": threshold[None],
        "neuron_explained": random.uniform(0.2, 0.9, (1, NEURONS)).astype(np.float32),
    }
    commit_fitted(layout, RUN, fitted)
    for segment in range(shape.segments):
        _write_segment(layout, shape, segment, scale=scale, threshold=threshold, random=random)
    start = time.perf_counter()
    summary = write_by_neuron(layout, RUN, shape, label=LABEL, version="0")
    seconds = time.perf_counter() - start
    embed(layout, MANY, unit_vectors(MANY_TEXTS))
    with publishing(layout) as draft:
        _catalog(draft, layout, shape, summary)
    with open_store(root) as store:
        question = CodeQuestion.of(store.run()._run, MANY, m=LONG)
        rows = code_rows(*_codes(LONG))
        write_derived(layout, TABLE, question._parameters(LAYER), rows=rows)
    return seconds


def _write_segment(
    layout: Layout,
    shape: RunShape,
    segment: int,
    *,
    scale: F32,
    threshold: F32,
    random: np.random.Generator,
) -> None:
    rows, specs = shape.rows_of(segment), run_arrays(shape)
    normal = random.standard_normal((len(rows), NEURONS), dtype=np.float32)
    norm = (scale * np.exp(0.5 * normal)).astype(np.float16)
    values: dict[str, npt.NDArray[Any]] = {
        "neuron_norm": norm,
        "neuron_coefficient": (np.tanh(np.roll(normal, 1, 1)) * norm).astype(np.float16),
    }
    for name, block in values.items():
        path = shard_path(layout.arrays(RUN) / name, specs[name], segment)
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = encode_shard(specs[name], block[:, None], segment_rows=shape.segment_rows)
        path.write_bytes(b"".join(parts))
    row, neuron = np.nonzero(norm.astype(np.float32) > threshold)
    path = layout.peak_rows(RUN, segment)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: block[row, neuron].astype(np.float32) for name, block in values.items()}
    peaks = {
        "row": row + rows.start,
        "layer": np.full(len(row), LAYER, np.int32),
        "neuron": neuron.astype(np.int32),
        "norm": columns["neuron_norm"],
        "coefficient": columns["neuron_coefficient"],
    }
    parquet.write_table(pa.table(peaks), path)


def _catalog(draft: Draft, layout: Layout, shape: RunShape, summary: Summary) -> None:
    run = draft.session.get_one(tables.Run, 0)
    run.by_neuron, run.default_pool = LABEL, MANY
    summarize_neurons(draft, layout, run, shape=shape, summary=summary)
    draft.session.add(
        tables.Pool(pool_id=1, name=MANY, kind="texts", sha256="many", texts=MANY_TEXTS)
    )
    draft.session.flush()
    draft.session.add(tables.PoolModel(pool_id=1, model_id=0))
    texts = {
        "pool_id": pa.array(np.full(MANY_TEXTS, 1, np.int32)),
        "position": pa.array(np.arange(MANY_TEXTS, dtype=np.int32)),
        "text": [f"word {number}" for number in range(MANY_TEXTS)],
    }
    draft.insert("text", pa.table(texts))
    codes = code_rows(*_codes(CODE_LENGTH))
    numbers = {"run_id": 0, "layer": LAYER, "pool_id": 1, "m": CODE_LENGTH, "version": CODE_VERSION}
    same = {
        name: pa.array(np.full(codes.num_rows, value, np.int32)) for name, value in numbers.items()
    }
    same["centered"] = pa.array(np.zeros(codes.num_rows, np.bool_))
    draft.insert(
        "neuron_text", pa.table(same | {name: codes.column(name) for name in codes.column_names})
    )


def _codes(m: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Random picks and coefficients [N, m], no text twice in a code."""
    random = np.random.default_rng(m)
    start, step = random.integers(0, MANY_TEXTS, (2, NEURONS, 1))
    step = 30 * (step // 30) + 1  # prime to 30,000
    picks = (start + step * np.arange(m)) % MANY_TEXTS
    return picks, random.standard_normal((NEURONS, m)) / np.arange(1, m + 1)
