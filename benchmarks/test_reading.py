"""How long a reader waits: one head of 50,000 images, everything of one image, and the sizes.

The store is written by the schema alone, in the shape of a ViT-B-32 with its last four layers'
heads and all tokens, of random numbers. As a program it prints a table:

    python benchmarks/test_reading.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from lensbase.queries.factors import head_contribution, head_factors
from lensbase.schema.arrays import RunShape, run_arrays, segment_rows_for
from lensbase.schema.shards import RowArray, encode_shard, shard_path

IMAGES = 50_000
MADE = ("representation", "cls_token", "scale", "layer", "head_value", "token")


def shape(images: int) -> RunShape:
    """A ViT-B-32 whose run kept the heads of its last four layers and all tokens."""
    one = RunShape(
        images=images,
        segment_rows=1,
        layers=12,
        heads=12,
        head_width=64,
        embed_dim=512,
        patches=49,
        head_layers=(8, 9, 10, 11),
        tokens=True,
        head_token_layers=(),
    )
    return replace(one, segment_rows=segment_rows_for(one))


def write(folder: Path, images: int, names: tuple[str, ...]) -> dict[str, RowArray]:
    """Write arrays of random numbers as an ingest would."""
    run, random = shape(images), np.random.default_rng(0)
    specs = run_arrays(run)
    for name in names:
        spec = specs[name]
        block = random.normal(size=(run.segment_rows, *spec.shape[1:])).astype(spec.dtype)
        for segment in range(run.segments):
            rows = len(run.rows_of(segment))
            path = shard_path(folder / name, spec, segment)
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = encode_shard(spec, block[:rows], segment_rows=run.segment_rows)
            path.write_bytes(b"".join(parts))
    return {name: RowArray(folder / name, specs[name], run.segment_rows) for name in names}


def best(action: Callable[[], object], rounds: int = 9) -> float:
    """The shortest of some runs, in seconds: what it takes while nothing else runs."""
    spent: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        spent.append(time.perf_counter() - start)
    return min(spent)


def read_head(arrays: dict[str, RowArray]) -> np.ndarray:
    """The factors of one head for every image."""
    values = arrays["head_value"].read(slice(None), 2, 5)
    scale = arrays["scale"].read(slice(None))
    return head_factors(values, scale, dtype=np.float32)


def read_image(arrays: dict[str, RowArray], row: int) -> list[np.ndarray]:
    """Everything of one image: its terms, heads and tokens."""
    return [array.read([row]).astype(np.float32) for array in arrays.values()]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RowArray]:
    return write(tmp_path_factory.mktemp("heads"), IMAGES, ("head_value", "scale"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RowArray]:
    return write(tmp_path_factory.mktemp("all"), 4_096, MADE)


def test_one_head_of_50_000_images(benchmark: BenchmarkFixture, heads: dict[str, RowArray]) -> None:
    found = benchmark(read_head, heads)
    assert found.shape == (IMAGES, 67)


def test_everything_of_one_image(
    benchmark: BenchmarkFixture, everything: dict[str, RowArray]
) -> None:
    rows = iter(np.random.default_rng(0).integers(0, 4_096, 10**6).tolist())
    found = benchmark(lambda: read_image(everything, next(rows)))
    assert len(found) == len(MADE)


def test_heads_take_an_eighth_of_their_contributions() -> None:
    """Factors of one image against [layers, heads, d'] float32."""
    run = shape(1)
    formed = len(run.head_layers) * run.heads * run.embed_dim * 4
    assert run_arrays(run)["head_value"].row_bytes <= formed / 8


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        heads = write(Path(folder) / "heads", IMAGES, ("head_value", "scale"))
        basis = np.random.default_rng(0).normal(size=(67, 512)).astype(np.float32)
        print(f"factors of one head, 50,000 images: {best(lambda: read_head(heads)) * 1e3:.1f} ms")
        formed = best(lambda: head_contribution(read_head(heads), basis), 3)
        print(f"its contributions [50,000, 512]: {formed * 1e3:.1f} ms")
        arrays = write(Path(folder) / "all", 4_096, MADE)
        rows = iter(np.random.default_rng(0).integers(0, 4_096, 1_000).tolist())
        spent = best(lambda: read_image(arrays, next(rows)), 50)
        print(f"everything of one image: {spent * 1e3:.2f} ms")
        run = shape(IMAGES)
        for name, spec in run_arrays(run).items():
            if spec.kind == "row":
                print(f"{name}: {spec.row_bytes:,} bytes an image")
        formed = len(run.head_layers) * run.heads * run.embed_dim * 4
        kept = run_arrays(run)["head_value"].row_bytes
        print(
            f"heads: {kept:,} bytes of factors for {formed:,} of contributions in float32: "
            f"1/{formed / kept:.0f}"
        )


if __name__ == "__main__":
    main()
