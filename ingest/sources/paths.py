"""A Python list of image files."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from ...schema.errors import NoImages
from .columns import image_table
from .files import absolute, printable, read_file


class PathsSource:
    """Image files in the order of a list.

    Keys are relative to the folder that all of them have in common.
    """

    kind = "paths"

    def __init__(self, paths: Sequence[str | Path]) -> None:
        if not paths:
            msg = "the list of images is empty: give at least one path"
            raise NoImages(msg)
        whole = [absolute(path) for path in paths]
        self.root = os.path.commonpath([str(Path(path).parent) for path in whole])
        self._names = [os.path.relpath(path, self.root) for path in whole]
        keys = [Path(printable(name)).as_posix() for name in self._names]
        self._table = image_table(
            pa.chunked_array([pa.array(keys, pa.string())]),
            pa.table({"label": pa.nulls(len(keys), pa.string())}),
            source="the list of images",
        )

    def table(self) -> pa.Table:
        """Key of each image; see `Source.table`."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one image file; raises `OSError`."""
        return read_file(Path(self.root, self._names[row]))
