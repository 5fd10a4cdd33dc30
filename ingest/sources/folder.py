"""A folder of image files: class sub-folders become labels."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import os
from collections import deque
from pathlib import Path, PurePath

import pyarrow as pa

from ...schema.errors import SourceUnreadable
from ..images import EXTENSIONS
from .columns import image_table
from .files import absolute, printable, read_file


class FolderSource:
    """The image files below a folder, sorted by the bytes of their paths.

    An image's key is its path from the folder, its label the first part of that path (null for
    files that lie in the folder itself).
    Hidden files and folders are left out; linked folders are read once, under their own name
    rather than a link's where they lie in the tree as well.
    """

    kind = "folder"

    def __init__(self, folder: str | Path, names: list[str] | None = None) -> None:
        self.root = absolute(folder)
        names = list_images(self.root) if names is None else names
        keys = [printable(name) for name in names]
        # Names that are no Unicode can't stand in the table: they are kept beside it.
        self._odd = {i: name for i, name in enumerate(names) if name != keys[i]}
        labels = [key.split("/", 1)[0] if "/" in key else None for key in keys]
        self._table = image_table(
            pa.chunked_array([pa.array(keys, pa.string())]),
            pa.table({"label": pa.array(labels, pa.string())}),
            source=self.root,
        )
        self._keys = self._table.column("key")

    def table(self) -> pa.Table:
        """Key and label of each image; see `Source.table`."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one image file; raises `OSError`."""
        return read_file(Path(self.root, self._odd.get(row) or self._keys[row].as_py()))


def list_images(folder: str, extensions: frozenset[str] = EXTENSIONS) -> list[str]:
    """Paths of the files below `folder` that end in one of `extensions`, sorted by their bytes.

    Links that lead nowhere are listed: they are images that can't be read.
    Raises `SourceUnreadable` for a folder that can't be listed.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    # Links wait until everything with a name of its own has been seen.
    here, links = deque([""]), deque[str]()
    while here or links:
        prefix = (here or links).popleft()
        path = Path(folder, prefix)
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                listed = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            msg = f"cannot list {path}: {error.strerror}; give it read permission or move it away"
            raise SourceUnreadable(msg) from error
        for entry in listed:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}{entry.name}"
            if entry.is_dir():
                (links if entry.is_symlink() else here).append(f"{name}/")
            elif PurePath(entry.name).suffix.lower() in extensions and (
                entry.is_file() or entry.is_symlink()
            ):
                found.append(name)
    return sorted(found, key=os.fsencode)
