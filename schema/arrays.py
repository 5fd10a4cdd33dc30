"""The arrays of a run: names, dimensions, chunks, and the Zarr metadata that declares them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

ENCODING_VERSION = "1.0"
Kind = Literal["row", "segment"]
Storage = Literal["float16", "float32"]


@dataclass(frozen=True)
class ArraySpec:
    """One array along the rows of a run.

    `chunk` is a chunk's shape. A *row* array has one shard for each segment, and along every
    other dimension a chunk spans either one index or all of them: that keeps a shard a plain
    strided array (see docs/store-format.md). A *segment* array has one chunk for each segment.
    """

    name: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: Kind = "row"
    comment: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes that one row (or one segment's entry) takes."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class RunShape:
    """The numbers that fix the shape of every array of a run."""

    images: int
    segment_rows: int
    layers: int
    heads: int
    head_width: int
    embed_dim: int
    patches: int
    head_layers: tuple[int, ...]
    tokens: bool
    head_token_layers: tuple[int, ...]
    storage: Storage = "float16"
    # Runs of format 1.0 have no sums over layers.
    layer_sums: bool = True
    neuron_layers: tuple[int, ...] = ()
    neurons: int = 0  # of each of those layers
    width: int = 0  # of the residual stream, for what the neurons read
    neuron_input: bool = False

    @property
    def segments(self) -> int:
        """How many segments the run has."""
        return -(-self.images // self.segment_rows)

    def rows_of(self, segment: int) -> range:
        """The rows of the run's arrays that a segment holds."""
        start = segment * self.segment_rows
        return range(start, min(start + self.segment_rows, self.images))


def run_arrays(run: RunShape) -> dict[str, ArraySpec]:
    """Declare the arrays that segments of a run are written to.

    Values are stored unnormalised; a rejected image's row is NaN in every row array.
    """
    f4, f8 = np.dtype("<f4"), np.dtype("<f8")
    f2 = f4 if run.storage == "float32" else np.dtype("<f2")
    images, rows, joint = run.images, run.segment_rows, run.embed_dim
    terms, tokens = 2 * run.layers + 1, run.patches
    kept, heads, width = len(run.head_layers), run.heads, run.head_width
    few = min(16, rows)
    specs = [
        ArraySpec(
            "representation", ("image", "embedding"), (images, joint), (rows, joint), f4,
            comment="M(I), unnormalised (T2.1)",
        ),
        ArraySpec(
            "cls_token", ("image", "embedding"), (images, joint), (rows, joint), f2,
            comment="what the class token attends from itself, all layers and heads",
        ),
        ArraySpec(
            "layer", ("image", "term", "embedding"), (images, terms, joint), (few, terms, joint),
            f2, comment="the 2L+1 residual terms (T2.4): EMBED, L0.ATTN, L0.MLP, L1.ATTN, ...",
        ),
        ArraySpec(
            "scale", ("image", "quantity"), (images, 4), (rows, 4), f4,
            comment="mu, sigma of the final LayerNorm; ||M(I)||; completeness residual",
        ),
    ]  # fmt: skip
    if run.layer_sums:
        specs += [
            ArraySpec(
                "layer_sum", ("image", "kind", "layer", "embedding"),
                (images, 2, run.layers, joint), (rows, 1, 1, joint), f2,
                comment="sums of the terms of layers 0 to l: attention (kind 0), MLPs (kind 1)",
            ),
            ArraySpec(
                "layer_total", ("segment", "term", "embedding"),
                (run.segments, terms + 1, joint), (1, terms + 1, joint), f8, kind="segment",
                comment="sums over the segment's images of the residual terms and of what the "
                "class token attends from itself, from values before rounding",
            ),
        ]  # fmt: skip
    if kept:
        moment = (run.segments, 2, kept, heads, width + 4, width + 4)
        specs += [
            ArraySpec(
                "head_value", ("image", "layer", "head", "channel"),
                (images, kept, heads, width), (rows, 1, 1, width), f2,
                comment="u: attention-weighted values of each head; a contribution's factor",
            ),
            ArraySpec(
                "head_moment", ("segment", "weight", "layer", "head", "factor", "factor2"),
                moment, (1, *moment[1:]), f8, kind="segment",
                comment="second moments of w[u/sigma, mu/sigma, 1/sigma, 1] followed by 1, "
                "for w = 1 and w = 1/||M||, from values before rounding",
            ),
        ]  # fmt: skip
    if run.tokens:
        specs.append(
            ArraySpec(
                "token", ("image", "token", "embedding"), (images, tokens, joint),
                (1, tokens, joint), f2, comment="contribution of each patch, all layers and heads",
            )
        )  # fmt: skip
    if run.head_token_layers:
        layers = len(run.head_token_layers)
        specs += [
            ArraySpec(
                "head_token_weight", ("image", "layer", "head", "token"),
                (images, layers, heads, tokens + 1), (1, layers, heads, tokens + 1), f2,
                comment="alpha: the class token's attention; index 0 is the class token",
            ),
            ArraySpec(
                "head_token_value", ("image", "layer", "token", "head", "channel"),
                (images, layers, tokens + 1, heads, width),
                (1, layers, tokens + 1, heads, width), f2,
                comment="v: each head's value at every token; index 0 is the class token",
            ),
        ]  # fmt: skip
    if run.neuron_layers:
        specs += _neuron_arrays(run, f2)
    return {spec.name: spec for spec in specs}


def _neuron_arrays(run: RunShape, kept: np.dtype[Any]) -> list[ArraySpec]:
    images, layers, joint = run.images, len(run.neuron_layers), run.embed_dim
    few = min(16, run.segment_rows)
    numbers = {
        "neuron_norm": "||phi||: length of each neuron's second-order effect (T3.3)",
        "neuron_coefficient": "x: signed projection of phi - b on the neuron's direction r",
    }
    sums = {
        "neuron_sum": "sum of phi over a layer's neurons",
        "neuron_sum_large": "the same over neurons whose norm is above their threshold",
        "neuron_mean_large": "sum of the mean effects b over these neurons",
        "neuron_bias": "one neuron's share of the norms' constants, which phi leaves out",
    }
    specs = [
        ArraySpec(
            name, ("image", "layer", "neuron"), (images, layers, run.neurons),
            (1, layers, run.neurons), kept, comment=comment,
        )
        for name, comment in numbers.items()
    ]  # fmt: skip
    specs += [
        ArraySpec(
            name, ("image", "layer", "embedding"), (images, layers, joint),
            (few, layers, joint), kept, comment=comment,
        )
        for name, comment in sums.items()
    ]  # fmt: skip
    if run.neuron_input:
        specs.append(
            ArraySpec(
                "neuron_input", ("image", "layer", "token", "channel"),
                (images, layers, run.patches, run.width), (1, layers, run.patches, run.width),
                kept, comment="what the neurons read: the layer's second norm, at each patch",
            )
        )  # fmt: skip
    return specs


def bytes_per_image(run: RunShape) -> int:
    """Bytes that the row arrays take for one image."""
    return sum(spec.row_bytes for spec in run_arrays(run).values() if spec.kind == "row")


def segment_rows_for(run: RunShape, *, most: int = 1024, budget: int = 128 << 20) -> int:
    """Choose the segment size: the largest power of two whose buffers stay within a budget."""
    rows = most
    while rows > 16 and rows * bytes_per_image(run) > budget:
        rows //= 2
    return rows


def fill_value(dtype: np.dtype[Any]) -> float | int:
    """What stands where nothing was written: NaN, or -1 among whole numbers (0 without a sign)."""
    if dtype.kind == "f":
        return float("nan")
    return 0 if dtype.kind in "ub" else -1


def declare(
    group: Path, specs: dict[str, ArraySpec], *, segment_rows: int, attributes: dict[str, Any]
) -> None:
    """Write a group's and its arrays' Zarr metadata; no array element is written.

    `attributes` go onto the group, beside `encoding-type` and `encoding-version`.
    """
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

    root = zarr.open_group(
        group,
        mode="a",
        zarr_format=3,
        attributes={"encoding-type": "lensbase-run", "encoding-version": ENCODING_VERSION}
        | attributes,
    )
    for spec in specs.values():
        plain, checked = BytesCodec(endian="little"), Crc32cCodec()
        shard = (segment_rows, *spec.shape[1:])
        row = spec.kind == "row"
        root.create_array(
            spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=shard if row else spec.chunk,
            serializer=ShardingCodec(chunk_shape=spec.chunk, codecs=[plain, checked])
            if row
            else plain,
            compressors=None if row else checked,
            filters=None,
            fill_value=fill_value(spec.dtype),
            dimension_names=spec.dimensions,
            attributes={
                "encoding-type": "lensbase-array",
                "encoding-version": ENCODING_VERSION,
                "comment": spec.comment,
            },
            overwrite=False,
        )


def write_static(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array that is written once (weights, bases, embeddings), one chunk, checksummed."""
    import zarr
    from zarr.codecs import Crc32cCodec

    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=fill_value(values.dtype),
        attributes={"encoding-type": "lensbase-array", "encoding-version": ENCODING_VERSION},
        config={"write_empty_chunks": True},
        overwrite=True,
    )
    array[...] = values
