"""A store of 50,000 images of random numbers in the shape of a ViT-B-32, without a model.

Written with the schema package alone. Only those arrays are written that are asked for: a reader
opens no others.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lensbase.schema import tables
from lensbase.schema.arrays import RunShape, run_arrays, segment_rows_for, write_static
from lensbase.schema.catalog import Draft, create_store, now, publishing
from lensbase.schema.layout import Layout
from lensbase.schema.shards import encode_chunk, encode_shard, shard_path

IMAGES = 50_000
CLASSES = 1_000
JOINT = 512
RUN = "r"
POOL = "texts"
TEXTS = [f"text {number}" for number in range(100)]
WEIGHTS_SHA256 = "ab" * 32


def large_shape(images: int = IMAGES) -> RunShape:
    """The heads of the last four layers and no tokens."""
    one = RunShape(
        images=images,
        segment_rows=1,
        layers=12,
        heads=12,
        head_width=64,
        embed_dim=JOINT,
        patches=49,
        head_layers=(8, 9, 10, 11),
        tokens=False,
        head_token_layers=(),
    )
    return replace(one, segment_rows=segment_rows_for(one))


def write_large_store(
    root: Path,
    *,
    arrays: Collection[str],
    images: int = IMAGES,
    shape: RunShape | None = None,
) -> Path:
    """Write a store with one run, a pool of 100 texts, and the named arrays.

    Every segment holds the same random values. Image `n` has the label `class n % 1000`. `shape`
    is that of `large_shape` unless given.
    """
    shape, layout = shape or large_shape(images), create_store(root)
    with publishing(layout) as draft:
        draft.info.next_run_id, draft.info.next_image_id = 1, shape.images
        _catalog(draft, shape)
    random = np.random.default_rng(0)
    specs = run_arrays(shape)
    for name in arrays:
        spec = specs[name]
        values = random.normal(size=(shape.segment_rows, *spec.shape[1:]))
        if name == "scale":
            values = np.abs(values) + 1
        for segment in range(shape.segments):
            rows = len(shape.rows_of(segment))
            if spec.kind == "segment":
                parts = encode_chunk(spec, values[0])
            else:
                block = values[:rows].astype(spec.dtype)
                parts = encode_shard(spec, block, segment_rows=shape.segment_rows)
            path = shard_path(layout.arrays(RUN) / name, spec, segment)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(parts))
    if shape.head_layers:
        size = (len(shape.head_layers), shape.heads, shape.head_width + 3, JOINT)
        basis = random.normal(size=size) / JOINT**0.5
        write_static(layout.arrays(RUN) / "head_basis", basis.astype(np.float32))
    embed(layout, POOL, unit_vectors(len(TEXTS)))
    return root


def unit_vectors(count: int, *, seed: int = 1) -> npt.NDArray[np.float32]:
    """Random directions [count, d'] of the joint space."""
    vectors = np.random.default_rng(seed).normal(size=(count, JOINT))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embed(layout: Layout, pool: str, vectors: npt.NDArray[np.float32]) -> None:
    """Store the vectors [texts, d'] of a pool."""
    path = layout.pool_vectors(pool, WEIGHTS_SHA256)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_static(path, vectors)


def _catalog(draft: Draft, shape: RunShape) -> None:
    side = round(shape.patches**0.5)
    draft.session.add(
        tables.Model(
            model_id=0,
            name="random",
            source="module",
            pretrained=None,
            weights_sha256=WEIGHTS_SHA256,
            layers=shape.layers,
            heads=shape.heads,
            head_width=shape.head_width,
            width=shape.heads * shape.head_width,
            embed_dim=shape.embed_dim,
            patches=shape.patches,
            grid_height=side,
            grid_width=side,
            patch_size=32,
            image_size=32 * side,
            activation="gelu",
            preprocessing="{}",
        )
    )
    root = tempfile.gettempdir()
    draft.session.add(tables.Dataset(dataset_id=0, name="random", kind="folder", root=root))
    draft.session.add(tables.Pool(pool_id=0, name=POOL, kind="texts", sha256="", texts=len(TEXTS)))
    draft.session.flush()
    draft.session.add(tables.PoolModel(pool_id=0, model_id=0))
    draft.session.add(
        tables.Run(
            run_id=0,
            name=RUN,
            folder=RUN,
            model_id=0,
            dataset_id=0,
            status="complete",
            fingerprint="",
            keys_sha256="",
            images=shape.images,
            segment_rows=shape.segment_rows,
            segments=shape.segments,
            layer_sums=shape.layer_sums,
            head_layers=json.dumps(shape.head_layers),
            tokens=shape.tokens,
            head_token_layers=json.dumps(shape.head_token_layers),
            neuron_layers=json.dumps(shape.neuron_layers),
            neurons=shape.neurons,
            thumbnails=False,
            device="cpu",
            precision="fp32",
            storage=shape.storage,
            batch_size=1,
            threads=1,
            seed=0,
            versions="{}",
            default_pool=POOL,
            head_effect_complete=False,
            created_at=now(),
        )
    )
    draft.session.flush()
    for segment in range(shape.segments):
        rows = shape.rows_of(segment)
        draft.session.add(
            tables.Segment(
                run_id=0,
                segment=segment,
                first_row=rows.start,
                rows=len(rows),
                rejected=0,
                bytes=0,
                max_residual=0.0,
            )
        )
    _rows(draft, shape.images)


def _rows(draft: Draft, images: int) -> None:
    numbers = pa.array(range(images), pa.int64())
    zeros = pa.array(np.zeros(images, np.int32))
    side = pa.array(np.full(images, 224, np.int32))
    draft.insert(
        "image",
        pa.table(
            {
                "image_id": numbers,
                "dataset_id": zeros,
                "key": [f"{number:06d}.jpg" for number in range(images)],
                "label": [f"class {number % CLASSES}" for number in range(images)],
                "sha256": ["0" * 64] * images,
                "width": side,
                "height": side,
            }
        ),
    )
    draft.insert(
        "run_image",
        pa.table(
            {
                "run_id": zeros,
                "row": numbers,
                "image_id": numbers,
                "status": ["ok"] * images,
                "reason": pa.nulls(images, pa.string()),
            }
        ),
    )
    positions = pa.array(range(len(TEXTS)), pa.int32())
    none = pa.array(np.zeros(len(TEXTS), np.int32))
    draft.insert("text", pa.table({"pool_id": none, "position": positions, "text": TEXTS}))
