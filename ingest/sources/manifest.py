"""A table of image files: CSV, Parquet or in memory, with labels and any further columns."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ...schema.errors import BadManifest
from .columns import (
    LABEL_NAMES,
    PATH_NAMES,
    SUBGROUP_NAMES,
    as_text,
    image_table,
    missing,
    named,
)
from .files import absolute, read_file

CSV_ENDINGS: Final = (".csv", ".tsv")


class ManifestSource:
    """The image files that a table names, in its order.

    The column `path` (or file, filename, file_name, filepath, file_path, image_path) is relative to
    `root`, or absolute; `label` and `subgroup` (or group) are read as text, all others are kept
    with their types.
    """

    kind = "manifest"

    def __init__(self, columns: pa.Table, root: str | Path, *, name: str) -> None:
        self.root = absolute(root)
        found = named(columns.column_names, PATH_NAMES)
        if found is None:
            raise missing(name, columns.column_names, what="the image files", wanted=PATH_NAMES)
        self._paths = as_text(columns.column(found))
        if self._paths.null_count:
            row = self._paths.is_null().index(True).as_py()
            msg = f"{name} has no {found} in row {row} (rows count from 0): fill it in or drop it"
            raise BadManifest(msg)
        keys = [self._key(path) for path in self._paths.to_pylist()]
        self._table = image_table(
            pa.chunked_array([pa.array(keys, pa.string())]), columns, source=name, taken=[found]
        )

    def table(self) -> pa.Table:
        """Key, label, subgroup and the manifest's further columns; see `Source.table`."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one image file; raises `OSError`."""
        return read_file(Path(self.root, self._paths[row].as_py()))

    def _key(self, path: str) -> str:
        whole = absolute(Path(self.root, path))
        inside = whole.startswith(self.root.rstrip("/") + "/")
        return whole[len(self.root.rstrip("/")) + 1 :] if inside else os.path.normpath(path)


def read_csv(path: Path) -> pa.Table:
    """A CSV file's columns, with types inferred but for paths and labels, which stay text.

    The first line names the columns; they are divided by commas, tabs, semicolons or bars.
    Empty fields are null.
    Raises `BadManifest` with the reader's message.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
            delimiter = max(",\t;|", key=line.count)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter), [])
        text = (*PATH_NAMES, *LABEL_NAMES, *SUBGROUP_NAMES)
        table = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for name in header if name.strip().lower() in text},
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read as CSV: {error}; its first line must name the columns"
        raise BadManifest(msg) from error
    return _unique_names(table, path)


def read_parquet(path: Path) -> pa.Table:
    """A Parquet manifest's columns; raises `BadManifest` with the reader's message."""
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        msg = f"{path} cannot be read as Parquet: {error}"
        raise BadManifest(msg) from error
    return _unique_names(table, path)


def _unique_names(table: pa.Table, path: Path) -> pa.Table:
    names = table.column_names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        msg = f"{path} has several columns named {', '.join(twice)}: rename them"
        raise BadManifest(msg)
    return table
