"""A tiny store of random numbers, written with the schema package alone: no model, no torch.

What is in it is known in float64 (`Truth`), as read back from the stored types. The parts that
queries add up are consistent: heads add up to their layers' attention terms, factored tokens to
their heads, layer terms to representations.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from lensbase.queries.factors import head_factors, moments
from lensbase.queries.textspan import textspans
from lensbase.schema import tables
from lensbase.schema.arrays import RunShape, declare, run_arrays, write_static
from lensbase.schema.catalog import create_store, now, publishing
from lensbase.schema.layout import Layout
from lensbase.schema.shards import encode_chunk, encode_shard, shard_path
from lensbase.schema.views import MANIFEST

F64 = npt.NDArray[np.float64]

SHAPE = RunShape(
    images=70,
    segment_rows=32,
    layers=3,
    heads=2,
    head_width=4,
    embed_dim=16,
    patches=6,
    head_layers=(1, 2),
    tokens=True,
    head_token_layers=(2,),
)
GRID = (2, 3)
TEXTS = ["a red circle", "a blue square", "sand", "water", "naïve \u2603", "water", "a big star"]
MORE_TEXTS = [f"word {number}" for number in range(30)]
SHA = "ab" * 32
REJECTED = {5: "empty: no bytes", 40: "truncated: the file ends too soon"}
FIRST_ID = 100
STORED_TEXTS = 3


@dataclass(frozen=True)
class Truth:
    """What the fabricated run holds, in float64; rejected rows are NaN."""

    shape: RunShape
    arrays: dict[str, F64]
    basis: F64
    moment: F64
    pools: dict[str, F64]
    image_ids: npt.NDArray[np.int64]
    keys: list[str]
    labels: list[str]
    weather: list[str]
    ok: npt.NDArray[np.bool_]

    def layer_total(self, rows: range) -> F64:
        """[2L+2, E]: sums over some rows of the layer terms and of the class token's part."""
        terms = (self.arrays["layer"], self.arrays["cls_token"][:, None])
        return np.nansum(np.concatenate(terms, axis=1)[rows.start : rows.stop], axis=0)

    def contribution(self, layer: int, head: int) -> F64:
        """c_head [K, d'] from the stored factors, by the formula."""
        place = self.shape.head_layers.index(layer)
        u = self.arrays["head_value"][:, place, head]
        mu, sigma = self.arrays["scale"][:, 0:1], self.arrays["scale"][:, 1:2]
        f = np.hstack([u / sigma, mu / sigma, 1 / sigma, np.ones_like(mu)])
        return f @ self.basis[place, head]

    @property
    def rows_by_id(self) -> npt.NDArray[np.int64]:
        """Readable rows in the order of their images' ids."""
        order = np.argsort(self.image_ids)
        return order[self.ok[order]]


def fabricate(
    root: Path,
    *,
    runs: tuple[str, ...] = ("world-demo",),
    shape: RunShape = SHAPE,
    committed: int | None = None,
    pools: bool = True,
    thumbnails: bool = True,
    rejected: dict[int, str] = REJECTED,
    source: str = "module",
) -> Truth:
    """Write a store with runs of the same random numbers; return what they hold.

    `committed` segments are published (default: all, and the runs are complete).
    """
    random = np.random.default_rng(7)
    layout = create_store(root)
    truth = _draw(random, shape, rejected)
    segments = shape.segments if committed is None else committed
    with publishing(layout) as draft:
        info = draft.info
        info.next_run_id, info.next_image_id = len(runs), FIRST_ID + shape.images
        draft.session.add(_model(shape, source))
        draft.session.add(
            tables.Dataset(dataset_id=0, name="demo", kind="folder", root=str(root.parent / "raw"))
        )
        draft.session.flush()
        draft.insert("image", _images(truth))
        draft.extend_by_name(
            f"{MANIFEST}demo",
            pa.table({"image_id": pa.array(truth.image_ids), "weather": truth.weather}),
        )
        if pools:
            _pools(draft, layout, truth)
        for number, name in enumerate(runs):
            row = _run(number, name, shape, segments=segments, pools=pools, thumbnails=thumbnails)
            draft.session.add(row)
            draft.session.flush()
            draft.insert("run_image", _run_images(truth, number, segments, rejected))
            _summaries(draft, number, truth, segments=segments, pools=pools)
            for segment in range(segments):
                _files(layout, name, truth, segment, thumbnails=thumbnails)
            _statics(layout, name, truth)
    return truth


def _draw(random: np.random.Generator, shape: RunShape, rejected: dict[int, str]) -> Truth:
    K, L, H, e, E = shape.images, shape.layers, shape.heads, shape.head_width, shape.embed_dim
    T, kept, held = shape.patches, len(shape.head_layers), len(shape.head_token_layers)
    basis = random.normal(size=(kept, H, e + 3, E)).astype(np.float32)
    alpha = random.dirichlet(np.ones(T + 1), size=(K, held, H))
    v = random.normal(size=(K, held, T + 1, H, e))
    u = random.normal(size=(K, kept, H, e)) * np.linspace(0.5, 2, e)
    for place, layer in enumerate(shape.head_token_layers):
        at = shape.head_layers.index(layer)
        u[:, at] = np.einsum("kht,kthe->khe", alpha[:, place], v[:, place])
    scale = np.zeros((K, 4), np.float32)
    scale[:, 0], scale[:, 1] = random.normal(size=K), random.uniform(0.5, 2, K)
    layer = random.normal(size=(K, 2 * L + 1, E))
    factors = head_factors(u.astype(np.float32), scale)
    for at, number in enumerate(shape.head_layers):
        layer[:, 1 + 2 * number] = np.einsum("khf,hfe->ke", factors[:, at], basis[at])
    representation = layer.sum(1).astype(np.float32)
    scale[:, 2] = np.linalg.norm(representation, axis=1)
    scale[:, 3] = 1e-7
    values: dict[str, npt.NDArray[Any]] = {
        "representation": representation,
        "cls_token": random.normal(size=(K, E)),
        "layer": layer,
        "layer_sum": np.stack([layer[:, 1::2], layer[:, 2::2]], axis=1).cumsum(axis=2),
        "scale": scale,
        "head_value": u,
        "token": random.normal(size=(K, T, E)),
        "head_token_weight": alpha,
        "head_token_value": v,
    }
    specs = run_arrays(shape)
    stored = {name: values[name].astype(specs[name].dtype) for name in values if name in specs}
    ok = np.ones(K, np.bool_)
    ok[[row for row in rejected if row < K]] = False
    for array in stored.values():
        array[~ok] = np.nan
    unrounded = head_factors(u.astype(np.float32), scale)
    unrounded[~ok] = np.nan
    moment = np.stack(
        [
            moments(unrounded[part.start : part.stop], scale[part.start : part.stop, 2])
            for part in map(shape.rows_of, range(shape.segments))
        ]
    )
    unit = random.normal(size=(len(TEXTS) + len(MORE_TEXTS), E))
    unit[5] = unit[3]  # the same text twice
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    # Ids in another order than rows, as when a run takes up images of an earlier one.
    ids = FIRST_ID + random.permutation(K)
    return Truth(
        shape=shape,
        arrays={name: array.astype(np.float64) for name, array in stored.items()},
        basis=basis.astype(np.float64),
        moment=moment,
        pools={
            name: part.astype(np.float64)
            for name, part in zip(("general", "words"), np.split(unit, [len(TEXTS)]), strict=True)
        },
        image_ids=ids,
        keys=[f"{'even' if row % 2 == 0 else 'odd'}/{row:03d}.png" for row in range(K)],
        labels=["even" if row % 2 == 0 else "odd" for row in range(K)],
        weather=[("sun", "rain", "O'Hare snow")[row % 3] for row in range(K)],
        ok=ok,
    )


def _model(shape: RunShape, source: str) -> tables.Model:
    return tables.Model(
        model_id=0,
        name="world" if source == "world" else "fabricated",
        source=source,
        pretrained=None,
        weights_sha256=SHA,
        layers=shape.layers,
        heads=shape.heads,
        head_width=shape.head_width,
        width=shape.heads * shape.head_width,
        embed_dim=shape.embed_dim,
        patches=shape.patches,
        grid_height=GRID[0],
        grid_width=GRID[1],
        patch_size=8,
        image_size=16,
        activation="gelu",
        preprocessing="{}",
    )


def _images(truth: Truth) -> pa.Table:
    K = truth.shape.images
    return pa.table(
        {
            "image_id": pa.array(truth.image_ids),
            "dataset_id": pa.array([0] * K, pa.int32()),
            "key": truth.keys,
            "label": truth.labels,
            "sha256": ["00" * 32] * K,
            "width": pa.array([24] * K, pa.int32()),
            "height": pa.array([16] * K, pa.int32()),
        }
    )


def _run_images(truth: Truth, run_id: int, segments: int, rejected: dict[int, str]) -> pa.Table:
    K = truth.shape.images
    last = segments * truth.shape.segment_rows
    status = [
        "pending" if row >= last else "rejected" if row in rejected else "ok" for row in range(K)
    ]
    return pa.table(
        {
            "run_id": pa.array([run_id] * K, pa.int32()),
            "row": pa.array(range(K), pa.int64()),
            "image_id": pa.array(truth.image_ids),
            "status": status,
            "reason": pa.array([rejected.get(row) for row in range(K)], pa.string()),
        }
    )


def _run(
    number: int, name: str, shape: RunShape, *, segments: int, pools: bool, thumbnails: bool
) -> tables.Run:
    return tables.Run(
        run_id=number,
        name=name,
        folder=name,
        model_id=0,
        dataset_id=0,
        status="complete" if segments == shape.segments else "ingesting",
        fingerprint="f",
        keys_sha256="k",
        images=shape.images,
        segment_rows=shape.segment_rows,
        segments=shape.segments,
        head_layers=json.dumps(shape.head_layers),
        tokens=shape.tokens,
        head_token_layers=json.dumps(shape.head_token_layers),
        thumbnails=thumbnails,
        device="cpu",
        precision="fp32",
        storage=shape.storage,
        layer_sums=shape.layer_sums,
        batch_size=8,
        threads=1,
        seed=0,
        versions="{}",
        default_pool="general" if pools else None,
        head_effect_complete=True,
        created_at=now(),
    )


def _pools(draft: Any, layout: Layout, truth: Truth) -> None:
    for number, (name, texts) in enumerate({"general": TEXTS, "words": MORE_TEXTS}.items()):
        draft.session.add(
            tables.Pool(pool_id=number, name=name, kind="texts", sha256="s", texts=len(texts))
        )
        draft.session.flush()
        draft.session.add(tables.PoolModel(pool_id=number, model_id=0))
        draft.insert(
            "text",
            pa.table(
                {
                    "pool_id": pa.array([number] * len(texts), pa.int32()),
                    "position": pa.array(range(len(texts)), pa.int32()),
                    "text": texts,
                }
            ),
        )
        path = layout.pool_vectors(name, SHA)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_static(path, truth.pools[name].astype(np.float32))


def _summaries(draft: Any, run_id: int, truth: Truth, *, segments: int, pools: bool) -> None:
    shape = truth.shape
    for segment in range(segments):
        rows = shape.rows_of(segment)
        draft.session.add(
            tables.Segment(
                run_id=run_id,
                segment=segment,
                first_row=rows.start,
                rows=len(rows),
                rejected=int((~truth.ok[rows.start : rows.stop]).sum()),
                bytes=1000,
                max_residual=1e-7,
            )
        )
    heads = [(layer, head) for layer in shape.head_layers for head in range(shape.heads)]
    for layer, head in heads:
        draft.session.add(
            tables.HeadRow(
                run_id=run_id,
                layer=layer,
                head=head,
                component=f"L{layer}.H{head}",
                mean_norm=1.0,
                norm_p98=2.0,
                variance=0.5,
                mean_share=0.1,
            )
        )
    if not pools or segments < shape.segments:
        return
    basis, pool = truth.basis.astype(np.float32), truth.pools["general"]
    spans = textspans(truth.moment.sum(0), basis, pool, m=STORED_TEXTS)
    for (layer, head), span in zip(heads, spans, strict=True):
        for rank, position in enumerate(span.picks.tolist(), start=1):
            draft.session.add(
                tables.HeadText(
                    run_id=run_id,
                    layer=layer,
                    head=head,
                    pool_id=0,
                    rank=rank,
                    position=position,
                    explained_variance=float(span.explained[rank - 1]),
                    cumulative=float(span.cumulative[rank - 1]),
                )
            )


def _files(layout: Layout, name: str, truth: Truth, segment: int, *, thumbnails: bool) -> None:
    shape, rows = truth.shape, truth.shape.rows_of(segment)
    for array, spec in run_arrays(shape).items():
        if spec.kind == "segment":
            total = truth.layer_total(rows) if array == "layer_total" else truth.moment[segment]
            parts = encode_chunk(spec, total)
        else:
            values = truth.arrays[array][rows.start : rows.stop].astype(spec.dtype)
            parts = encode_shard(spec, values, segment_rows=shape.segment_rows)
        path = shard_path(layout.arrays(name) / array, spec, segment)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(parts))
    if not thumbnails:
        return
    table = pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "webp": pa.array(
                [webp_of(row) if truth.ok[row] else None for row in rows], pa.binary()
            ),
        }
    )
    (path := layout.thumbnails(name, segment)).parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def webp_of(row: int) -> bytes:
    """A lossless 16 x 16 picture whose color names the row."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (row, 255 - row, 7)).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def _statics(layout: Layout, name: str, truth: Truth) -> None:
    group, shape = layout.arrays(name), truth.shape
    declare(group, run_arrays(shape), segment_rows=shape.segment_rows, attributes={"run": name})
    write_static(group / "head_basis", truth.basis.astype(np.float32))


def lean(shape: RunShape = SHAPE) -> RunShape:
    """The same run without tokens of any kind."""
    return replace(shape, tokens=False, head_token_layers=())
