"""Filling a folder so that it appears whole: made beside its place, then moved there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..schema import durable
from ..schema.errors import FolderTaken
from ..schema.layout import Layout


@contextmanager
def written_folder(folder: Path, *, force: bool) -> Generator[Path]:
    """Give a new folder to write into; in the end its entries are moved to `folder`.

    An error leaves `folder` as it was. With `force` entries of the same names are replaced, and
    others stay. Raises `FolderTaken` where there are files and no `force`, and for a store.
    """
    check_folder(folder, force=force)
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}{durable.PARTIAL}")
    try:
        partial.mkdir()
        yield partial
        target.mkdir(exist_ok=True)
        for entry in sorted(partial.iterdir()):
            _remove(target / entry.name)
            entry.replace(target / entry.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise `FolderTaken` unless a folder may be written into."""
    if folder.exists() and not folder.is_dir():
        msg = f"{folder} is a file; name a folder to write into."
        raise FolderTaken(msg)
    if Layout(folder).marker.exists():
        msg = f"{folder} is a store; name another folder to write into."
        raise FolderTaken(msg)
    if not force and folder.exists() and any(folder.iterdir()):
        msg = (
            f"{folder} holds files already; name a new folder, or give --force (force=True), which "
            "replaces what an export writes and leaves all else."
        )
        raise FolderTaken(msg)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
