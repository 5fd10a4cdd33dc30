"""Shards of row arrays, encoded whole and read in place.

A shard is what Zarr's sharding codec writes with `bytes, crc32c` inside and its index at the
end, and Zarr reads it as such. Chunks lie in C order without gaps, so a shard is at the same
time one strided array: a memory map reads any rows or any column of it without decoding the
rest, tens of times faster than chunk by chunk. Checksums are `verify`'s to check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from .arrays import ArraySpec, fill_value
from .errors import StoreCorrupt

_CRC = 4
_ENTRY = 16
_ABSENT = np.uint64(2**64 - 1)

Index = int | slice


def shard_path(array: Path, spec: ArraySpec, segment: int) -> Path:
    """Where Zarr's default chunk key encoding puts the shard (or chunk) of a segment."""
    return array.joinpath("c", str(segment), *("0" for _ in spec.shape[1:]))


def encode_shard(spec: ArraySpec, data: npt.NDArray[Any], *, segment_rows: int) -> list[memoryview]:
    """Encode a segment's rows [n, ...], n <= segment_rows, as one shard, in consecutive parts.

    Chunks wholly past the end of the array are absent from the index; one that reaches past it
    is filled with NaN (-1 among whole numbers).
    """
    grid, blocks = _grid(spec, segment_rows), -(-len(data) // spec.chunk[0])
    if len(data) < blocks * spec.chunk[0]:
        padded = np.full(
            (blocks * spec.chunk[0], *spec.shape[1:]), fill_value(spec.dtype), spec.dtype
        )
        padded[: len(data)] = data
        data = padded
    # [blocks, rows of a block, ...] -> all grid axes first, then all axes within a chunk.
    split = [
        extent
        for size, chunk in zip(data.shape, spec.chunk, strict=True)
        for extent in (size // chunk, chunk)
    ]
    by_chunk = (*range(0, len(split), 2), *range(1, len(split), 2))
    chunks = data.astype(spec.dtype, copy=False).reshape(split).transpose(by_chunk)
    present, chunk_bytes = blocks * int(np.prod(grid[1:])), _chunk_bytes(spec)
    body = np.empty((present, chunk_bytes + _CRC), np.uint8)
    target = body[:, :chunk_bytes].view(spec.dtype)
    target.reshape(chunks.shape)[...] = chunks
    for chunk in body:
        chunk[chunk_bytes:] = np.frombuffer(_crc(chunk[:chunk_bytes]), np.uint8)
    index = np.full((int(np.prod(grid)), 2), _ABSENT, "<u8")
    index[:present, 0] = np.arange(present, dtype=np.uint64) * np.uint64(chunk_bytes + _CRC)
    index[:present, 1] = chunk_bytes + _CRC
    return [_flat(body), _flat(index), memoryview(_crc(index))]


def encode_chunk(spec: ArraySpec, data: npt.NDArray[Any]) -> list[memoryview]:
    """Encode one chunk of a segment array, checksum included."""
    raw = np.ascontiguousarray(data, spec.dtype)
    return [_flat(raw), memoryview(_crc(raw))]


def shard_size(spec: ArraySpec, rows: int, *, segment_rows: int) -> int:
    """How many bytes the shard of a segment with that many rows has."""
    grid = _grid(spec, segment_rows)
    present = -(-rows // spec.chunk[0]) * int(np.prod(grid[1:]))
    return present * (_chunk_bytes(spec) + _CRC) + int(np.prod(grid)) * _ENTRY + _CRC


def read_whole(path: Path) -> npt.NDArray[Any]:
    """Read a Zarr array that was written once, at best without importing zarr (half a second).

    Raises FileNotFoundError where it is missing and `StoreCorrupt` for a wrong checksum.
    """
    declared = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    shape = tuple(declared["shape"])
    codecs = [codec["name"] for codec in declared["codecs"]]
    chunk = declared["chunk_grid"]["configuration"].get("chunk_shape")
    if codecs != ["bytes", "crc32c"] or chunk is None or tuple(chunk) != shape:
        import zarr

        return np.asarray(zarr.open_array(path, mode="r")[...])
    raw = np.fromfile(path.joinpath("c", *("0" for _ in shape)), np.uint8)
    body = raw[:-_CRC]
    dtype = np.dtype(declared["data_type"]).newbyteorder("<")
    if body.nbytes != int(np.prod(shape)) * dtype.itemsize or _crc(body) != raw[-_CRC:].tobytes():
        msg = f"{path.name} in {path.parent} is damaged; `lensbase verify` says what else is."
        raise StoreCorrupt(msg)
    return body.view(dtype).reshape(shape)


@dataclass(frozen=True)
class RowArray:
    """A row array as a reader sees it: rows by number, out of the committed segments' shards."""

    path: Path
    spec: ArraySpec
    segment_rows: int
    # Part of the cache key of open maps, beside the file's identity: a new file may get the
    # inode of the one it replaced.
    version: str = ""

    def read(self, rows: npt.ArrayLike | slice, *index: Index) -> npt.NDArray[Any]:
        """Read rows, in their order, at an index into the further dimensions.

        Returns [n, ...] in the stored type. Raises `StoreCorrupt` for a missing or short shard
        and IndexError for a row outside the array.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.spec.shape[0]))
        wanted = np.asarray(rows, np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.spec.shape[0]):
            msg = f"{self.spec.name} has rows 0 to {self.spec.shape[0] - 1}."
            raise IndexError(msg)
        segments = wanted // self.segment_rows
        within = wanted % self.segment_rows
        tail = np.empty((0, *self.spec.shape[1:]), self.spec.dtype)[(slice(None), *index)].shape[1:]
        out = np.empty((len(wanted), *tail), self.spec.dtype)
        for segment in np.flatnonzero(np.bincount(segments)):
            places = np.flatnonzero(segments == segment)
            view = self.map(int(segment))
            inner = within[places]
            if len(inner) == inner[-1] - inner[0] + 1 and np.all(np.diff(inner) == 1):
                # Consecutive rows need no gather: one strided copy a chunk row.
                self._copy_run(view, int(inner[0]), len(inner), index, out, places)
            else:
                # Two index arrays in front: NumPy gathers rows first, whatever else is picked.
                block, offset = np.divmod(inner, self.spec.chunk[0])
                out[places] = view[(block, offset, *index)]
        return out

    def view(self, rows: npt.NDArray[np.int64], *index: Index) -> npt.NDArray[Any]:
        """Rows as `read` gives them; in place, read-only, where they follow each other in a chunk.

        Raises as `read` does.
        """
        height, count = self.spec.chunk[0], len(rows)
        if count and rows[0] >= 0 and rows[-1] < self.spec.shape[0]:
            segment, within = divmod(int(rows[0]), self.segment_rows)
            block, first = divmod(within, height)
            if first + count <= height and np.all(np.diff(rows) == 1):
                return self.map(segment)[(block, slice(first, first + count), *index)]
        return self.read(rows, *index)

    def _copy_run(
        self,
        view: npt.NDArray[Any],
        first: int,
        count: int,
        index: tuple[Index, ...],
        out: npt.NDArray[Any],
        places: npt.NDArray[np.int64],
    ) -> None:
        height, done = self.spec.chunk[0], 0
        while done < count:
            block, offset = divmod(first + done, height)
            step = min(height - offset, count - done)
            part = view[(block, slice(offset, offset + step), *index)]
            start = int(places[done])
            if places[done + step - 1] - start == step - 1:
                out[start : start + step] = part
            else:
                out[places[done : done + step]] = part
            done += step

    def map(self, segment: int) -> npt.NDArray[Any]:
        """Map a segment's shard: [row blocks, rows of a block, ...], read-only and lazy."""
        path = shard_path(self.path, self.spec, segment)
        rows = min(self.segment_rows, self.spec.shape[0] - segment * self.segment_rows)
        try:
            # A segment made again, or a new store in the place of a deleted one, has other files.
            now = path.stat()
            key = (self.version, now.st_ino, now.st_mtime_ns, now.st_size)
            return _map(path, key, self.spec, self.segment_rows, rows)
        except (FileNotFoundError, ValueError) as error:
            raise _damaged(self.path, segment, error) from error


@dataclass(frozen=True)
class SegmentArray:
    """A segment array as a reader sees it: one entry for each committed segment."""

    path: Path
    spec: ArraySpec

    def map(self, segment: int) -> npt.NDArray[Any]:
        """Map a segment's entry, read-only and lazy; raises `StoreCorrupt` for another size."""
        path = shard_path(self.path, self.spec, segment)
        expected = _chunk_bytes(self.spec) + _CRC
        try:
            if (actual := path.stat().st_size) != expected:
                msg = f"{path.name} has {actual} bytes, not {expected}"
                raise ValueError(msg)
            return np.memmap(path, self.spec.dtype, mode="r", shape=self.spec.chunk[1:])
        except (FileNotFoundError, ValueError) as error:
            raise _damaged(self.path, segment, error) from error

    def total(self, segments: Iterable[int], *index: Index) -> npt.NDArray[Any]:
        """Add up the entries of segments, in the order given, at an index into each of them."""
        zero = np.broadcast_to(self.spec.dtype.type(0), self.spec.chunk[1:])
        total = np.array(zero[index])
        for segment in segments:
            total += self.map(segment)[index]
        return total


def _damaged(array: Path, segment: int, error: Exception) -> StoreCorrupt:
    msg = (
        f"segment {segment} of {array.parent.name}/{array.name} is damaged ({error}); "
        "`lensbase verify` says what else is, and how to redo it."
    )
    return StoreCorrupt(msg)


@lru_cache(maxsize=512)
def _map(
    path: Path, version: tuple[str, int, int, int], spec: ArraySpec, segment_rows: int, rows: int
) -> npt.NDArray[Any]:
    expected = shard_size(spec, rows, segment_rows=segment_rows)
    actual = version[-1]
    if actual != expected:
        msg = f"{path.name} has {actual} bytes, not {expected}"
        raise ValueError(msg)
    grid = (-(-rows // spec.chunk[0]), *_grid(spec, segment_rows)[1:])
    stride = _chunk_bytes(spec) + _CRC
    raw = np.memmap(path, np.uint8, mode="r", shape=(int(np.prod(grid)) * stride,))
    strides_grid = np.cumprod([stride, *reversed(grid[1:])])[::-1]
    strides_chunk = np.cumprod([spec.dtype.itemsize, *reversed(spec.chunk[1:])])[::-1]
    # Along each further dimension either the grid or the chunk has extent 1, so that the two
    # merge into one dimension with one stride.
    shape, strides = [grid[0], spec.chunk[0]], [int(strides_grid[0]), int(strides_chunk[0])]
    for axis in range(1, len(grid)):
        over_grid = spec.chunk[axis] == 1
        shape.append(grid[axis] if over_grid else spec.chunk[axis])
        strides.append(int((strides_grid if over_grid else strides_chunk)[axis]))
    view = np.ndarray(tuple(shape), spec.dtype, buffer=raw.data, strides=tuple(strides))
    view.flags.writeable = False
    return view


def _grid(spec: ArraySpec, segment_rows: int) -> tuple[int, ...]:
    return tuple(
        size // chunk
        for size, chunk in zip((segment_rows, *spec.shape[1:]), spec.chunk, strict=True)
    )


def _chunk_bytes(spec: ArraySpec) -> int:
    return int(np.prod(spec.chunk, dtype=np.int64)) * spec.dtype.itemsize


def _flat(array: npt.NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _crc(data: npt.NDArray[Any]) -> bytes:
    return google_crc32c.value(data.tobytes()).to_bytes(_CRC, "little")
