"""Parquet files that hold the images themselves."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import errno
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from ...schema.errors import AmbiguousSource, BadManifest
from .columns import IMAGE_NAMES, KEY_NAMES, as_text, image_table, missing, named
from .files import absolute

CACHED_BYTES: Final = 64 << 20
"""A row group whose images are no larger, unpacked, is held as a whole."""

CACHED_GROUPS: Final = 2


class ParquetSource:
    """The images in a binary column of Parquet files, in the order of files and rows.

    The column holds bytes, or a struct of bytes and path as Hugging Face writes it.
    Keys are the column `key` (or path, file, ...), else the structs' paths where every row has its
    own, else file and row number: `test-00000-of-00001/17`.
    Class numbers become names where the file's metadata has them.
    """

    kind = "parquet"

    def __init__(self, root: str | Path, files: Sequence[str | Path]) -> None:
        self.root = absolute(root)
        self._files = [absolute(file) for file in files]
        opened = [_open(file) for file in self._files]
        schema = opened[0].schema_arrow
        found = image_column(schema, self._files[0])
        if found is None:
            raise missing(self._files[0], schema.names, what="image bytes", wanted=IMAGE_NAMES)
        self._column = f"{found}.bytes" if pa.types.is_struct(schema.field(found).type) else found
        self._groups: list[tuple[int, int]] = []
        self._starts: list[int] = []
        rows = 0
        for number, file in enumerate(opened):
            for group in range(file.metadata.num_row_groups):
                self._groups.append((number, group))
                self._starts.append(rows)
                rows += file.metadata.row_group(group).num_rows
        self._table = self._describe(opened, found)
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()
        self._process = os.getpid()

    def table(self) -> pa.Table:
        """Key, label, subgroup and the files' further columns; see `Source.table`."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one image; rows in order are fast, others read their row group again."""
        if self._process != os.getpid():
            # Open files of a parent process share their position with it.
            self._cursors, self._process = OrderedDict(), os.getpid()
        index = bisect_right(self._starts, row) - 1
        cursor = self._cursors.pop(index, None)
        if cursor is None:
            number, group = self._groups[index]
            cursor = _Cursor(self._files[number], group, column=self._column)
        self._cursors[index] = cursor
        if len(self._cursors) > CACHED_GROUPS:
            self._cursors.popitem(last=False)
        return cursor.value(row - self._starts[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cursors": OrderedDict()}

    def _describe(self, opened: Sequence[pq.ParquetFile], image: str) -> pa.Table:
        tables: list[pa.Table] = []
        for path, file in zip(self._files, opened, strict=True):
            schema = file.schema_arrow
            if image_column(schema, path) != image:
                msg = f"{path} has no image column {image!r} as {self._files[0]} has: move it away"
                raise BadManifest(msg)
            kept = [field.name for field in schema if not holds_bytes(field.type)]
            columns = file.read(columns=kept) if kept else pa.table({})
            tables.append(_named_classes(columns, schema.metadata))
        try:
            columns = pa.concat_tables(tables, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            msg = f"the Parquet files in {self.root} do not go together: {error}"
            raise BadManifest(msg) from error
        name = named(columns.column_names, KEY_NAMES)
        if name is None:
            keys, taken = self._keys(opened, image), []
        else:
            keys, taken = as_text(columns.column(name)), [name]
            if keys.null_count:
                row = keys.is_null().index(True).as_py()
                msg = f"{self.root} has no {name} in row {row} (rows count from 0): fill it in"
                raise BadManifest(msg)
        if columns.num_columns == 0:
            columns = pa.table({"label": pa.nulls(len(keys), pa.string())})
        return image_table(keys, columns, source=self.root, taken=taken)

    def _keys(self, opened: Sequence[pq.ParquetFile], image: str) -> pa.ChunkedArray:
        kind = opened[0].schema_arrow.field(image).type
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            parts = [file.read(columns=[f"{image}.path"]).column(image) for file in opened]
            chunks = [chunk.field("path") for part in parts for chunk in part.chunks]
            paths = pa.chunked_array(chunks, pa.string())
            if not paths.null_count and len(paths.unique()) == len(paths):
                return as_text(paths)
        folder = Path(self.root if Path(self.root).is_dir() else Path(self.root).parent)
        keys: list[str] = []
        for path, file in zip(self._files, opened, strict=True):
            stem = Path(os.path.relpath(path, folder)).with_suffix("").as_posix()
            keys += [f"{stem}/{row}" for row in range(file.metadata.num_rows)]
        return pa.chunked_array([pa.array(keys, pa.string())])


def image_column(schema: pa.Schema, source: str | Path) -> str | None:
    """The column of a Parquet schema that holds images; None where there is none.

    Raises `AmbiguousSource` where several could be and none is named like one.
    """
    candidates = [field.name for field in schema if holds_bytes(field.type)]
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    found = named(candidates, IMAGE_NAMES)
    if found is None:
        msg = f"{source} has several columns of bytes ({', '.join(candidates)}): name one image"
        raise AmbiguousSource(msg)
    return found


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column's type is bytes, or a struct with a field of bytes."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and holds_bytes(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


class _Cursor:
    """The images of one row group, of which one batch at a time is in memory."""

    def __init__(self, path: str, group: int, *, column: str) -> None:
        self._path, self._group, self._column = path, group, column
        # A buffer keeps the reader from loading the whole row group before its first row.
        self._file = _open(path, buffer_size=1 << 20)
        about = self._file.metadata.row_group(group)
        size = next(
            chunk.total_uncompressed_size
            for chunk in (about.column(i) for i in range(about.num_columns))
            if chunk.path_in_schema == column
        )
        self._step = about.num_rows if size <= CACHED_BYTES else 64
        self._restart()

    def _restart(self) -> None:
        self._batches = self._file.iter_batches(
            batch_size=self._step,
            row_groups=[self._group],
            columns=[self._column],
            use_threads=False,
        )
        self._start, self._values = 0, pa.array([], pa.binary())

    def value(self, index: int) -> bytes:
        try:
            if index < self._start:
                self._restart()
            while index >= self._start + len(self._values):
                batch = next(self._batches)
                self._start += len(self._values)
                column = batch.column(0)
                self._values = column.field("bytes") if pa.types.is_struct(column.type) else column
        except (pa.ArrowException, OSError, StopIteration) as error:
            self._restart()
            told = f"row group {self._group} is damaged: {error}"
            raise OSError(errno.EIO, told, self._path) from error
        value = self._values[index - self._start].as_py()
        if value is None:
            raise OSError(errno.ENODATA, "no bytes in this row", self._path)
        return value


def _open(path: str, *, buffer_size: int = 0) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=buffer_size)
    except pa.ArrowInvalid as error:
        msg = f"{path} cannot be read as Parquet: {error}"
        raise BadManifest(msg) from error


def _named_classes(columns: pa.Table, metadata: dict[bytes, bytes] | None) -> pa.Table:
    """Hugging Face's class numbers as the names in the file's metadata."""
    try:
        about: Any = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        features = dict(about.get("info", {}).get("features", {}))
    except (ValueError, AttributeError, TypeError):
        return columns
    for name in columns.column_names:
        feature: Any = features.get(name)
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            columns = columns.set_column(
                columns.column_names.index(name),
                name,
                class_names(columns.column(name), feature.get("names")),
            )
    return columns


def class_names(numbers: pa.ChunkedArray, names: Sequence[str] | None) -> pa.ChunkedArray:
    """Class numbers as names; numbers without one (-1 is Hugging Face's "unknown") become null."""
    if not names:
        return numbers
    named = dict(enumerate(names))
    texts = [named.get(number) for number in numbers.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])
