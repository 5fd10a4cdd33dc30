"""Shards are what Zarr writes and reads, and read in place as fast as a memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbase.schema.arrays import RunShape, declare, run_arrays, write_static
from lensbase.schema.errors import StoreCorrupt
from lensbase.schema.shards import (
    RowArray,
    SegmentArray,
    encode_chunk,
    encode_shard,
    shard_path,
    shard_size,
)

RUN = RunShape(
    images=70,
    segment_rows=32,
    layers=3,
    heads=2,
    head_width=4,
    embed_dim=8,
    patches=5,
    head_layers=(1, 2),
    tokens=True,
    head_token_layers=(2,),
)
SPECS = run_arrays(RUN)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A run's arrays of random numbers, written segment by segment."""
    root = tmp_path_factory.mktemp("run")
    declare(root, SPECS, segment_rows=RUN.segment_rows, attributes={"run": "x"})
    random = np.random.default_rng(0)
    values = {name: random.normal(size=s.shape).astype(s.dtype) for name, s in SPECS.items()}
    for name, spec in SPECS.items():
        for segment in range(RUN.segments):
            path = shard_path(root / name, spec, segment)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(_encoded(name, values[name], segment)))
    return root, values


def _encoded(name: str, values: np.ndarray, segment: int) -> list[memoryview]:
    spec, rows = SPECS[name], RUN.rows_of(segment)
    if spec.kind == "segment":
        return encode_chunk(spec, values[segment])
    return encode_shard(spec, values[rows.start : rows.stop], segment_rows=RUN.segment_rows)


@pytest.mark.parametrize("name", SPECS)
def test_zarr_reads_what_we_write(written: tuple[Path, dict[str, np.ndarray]], name: str) -> None:
    root, values = written
    array = zarr.open_array(root / name, mode="r")
    assert array.metadata.to_dict()["dimension_names"] == SPECS[name].dimensions
    np.testing.assert_array_equal(array[...], values[name])


@pytest.mark.parametrize("name", SPECS)
def test_bytes_are_those_of_zarr(
    written: tuple[Path, dict[str, np.ndarray]], name: str, tmp_path: Path
) -> None:
    """Zarr lays chunks out in Morton order; where only rows are divided that is our order too."""
    root, values = written
    spec = SPECS[name]
    declare(tmp_path, {name: spec}, segment_rows=RUN.segment_rows, attributes={})
    with zarr.config.set({"array.write_empty_chunks": True}):
        zarr.open_array(tmp_path / name, mode="r+")[...] = values[name]
    for segment in range(RUN.segments):
        ours = shard_path(root / name, spec, segment).read_bytes()
        theirs = shard_path(tmp_path / name, spec, segment).read_bytes()
        if name in ("head_value", "layer_sum"):
            assert len(ours) == len(theirs)
        else:
            assert ours == theirs


@pytest.mark.parametrize("name", [n for n, s in SPECS.items() if s.kind == "row"])
def test_sizes_are_known_before_writing(
    written: tuple[Path, dict[str, np.ndarray]], name: str
) -> None:
    root, _ = written
    for segment in range(RUN.segments):
        size = shard_path(root / name, SPECS[name], segment).stat().st_size
        rows = len(RUN.rows_of(segment))
        assert size == shard_size(SPECS[name], rows, segment_rows=RUN.segment_rows)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.integers(0, RUN.images - 1), max_size=40), data=st.data())
def test_any_rows_in_any_order(
    written: tuple[Path, dict[str, np.ndarray]], rows: list[int], data: st.DataObject
) -> None:
    root, values = written
    for name, spec in SPECS.items():
        if spec.kind != "row":
            continue
        array = RowArray(root / name, spec, RUN.segment_rows)
        index = data.draw(
            st.lists(st.integers(0, min(spec.shape[1:]) - 1), max_size=len(spec.shape) - 1)
        )
        expected = values[name][(rows, *index)] if rows else values[name][:0][(..., *index)]
        got = array.read(rows, *index)
        assert len(got) == len(rows)
        if rows:
            np.testing.assert_array_equal(got, expected)


@settings(max_examples=60, deadline=None)
@given(bounds=st.lists(st.integers(0, RUN.images), min_size=2, max_size=2), step=st.integers(1, 2))
def test_a_view_is_what_is_read(
    written: tuple[Path, dict[str, np.ndarray]], bounds: list[int], step: int
) -> None:
    """In place only where the rows follow each other in one chunk, and never to be written to."""
    root, _ = written
    rows = np.arange(min(bounds), max(bounds), step)
    for name in ("representation", "layer_sum", "layer"):
        spec = SPECS[name]
        array = RowArray(root / name, spec, RUN.segment_rows)
        index = (1, 0)[: len(spec.shape) - 2]
        view = array.view(rows, *index)
        np.testing.assert_array_equal(view, array.read(rows, *index))
        height = spec.chunk[0]
        together = (
            step == 1 and len({(row // RUN.segment_rows, row // height) for row in rows}) == 1
        )
        if len(rows) > 1 and RUN.segment_rows % height == 0:
            assert view.flags.writeable != together
    with pytest.raises(IndexError, match="rows 0 to 69"):
        array.view(np.array([70]))


def test_slices_and_columns(written: tuple[Path, dict[str, np.ndarray]]) -> None:
    root, values = written
    heads = RowArray(root / "head_value", SPECS["head_value"], RUN.segment_rows)
    np.testing.assert_array_equal(heads.read(slice(5, 66), 1, 0), values["head_value"][5:66, 1, 0])
    np.testing.assert_array_equal(
        heads.read(slice(None), slice(0, 1)), values["head_value"][:, 0:1]
    )
    with pytest.raises(IndexError, match="rows 0 to 69"):
        heads.read([70])


def test_damage_is_an_error_never_fill_values(tmp_path: Path) -> None:
    spec = SPECS["cls_token"]
    path = shard_path(tmp_path / "cls_token", spec, 0)
    path.parent.mkdir(parents=True)
    array = RowArray(tmp_path / "cls_token", spec, RUN.segment_rows)
    with pytest.raises(StoreCorrupt, match="segment 0"):
        array.read([0])
    path.write_bytes(b"")
    with pytest.raises(StoreCorrupt, match="0 bytes, not"):
        array.read([0])


def test_segment_arrays_add_up_and_refuse_damage(
    written: tuple[Path, dict[str, np.ndarray]],
) -> None:
    root, values = written
    spec = SPECS["head_moment"]
    array = SegmentArray(root / "head_moment", spec)
    np.testing.assert_array_equal(
        array.total(range(RUN.segments), 0, 1), values["head_moment"][:, 0, 1].sum(0)
    )
    path = shard_path(root / "head_moment", spec, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(StoreCorrupt, match="segment 1"):
        array.map(1)
    path.write_bytes(whole)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_static_arrays_read_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    write_static(tmp_path / "basis", values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "basis", mode="r")[...], values)
