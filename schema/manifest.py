"""Manifests: the sizes and hashes of files that belong together. Writing one is the commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .durable import file_sha256, read_json, sync_directory, write_json
from .layout import Layout


@dataclass(frozen=True)
class FileEntry:
    """A file of the store: its path relative to the root, its size and its hash."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What one commit wrote, with facts about it (rows, rejected images, ...)."""

    files: tuple[FileEntry, ...]
    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(entry.bytes for entry in self.files)


def entry(root: Path, path: Path, *, sha256: str | None = None) -> FileEntry:
    """Describe a file on disk; hash it unless the writer already has."""
    return FileEntry(
        path.relative_to(root).as_posix(), path.stat().st_size, sha256 or file_sha256(path)
    )


def commit(
    layout: Layout, path: Path, *, files: Iterable[FileEntry], facts: dict[str, Any] | None = None
) -> Manifest:
    """Commit files that are already on disk and synced: sync their folders, write the manifest.

    A file is committed if and only if its manifest exists.
    """
    manifest = Manifest(tuple(sorted(files, key=lambda one: one.path)), facts or {})
    folders = {layout.root / one.path for one in manifest.files}
    # New folders are durable once their parents are synced, up to the store's root.
    for folder in sorted({above for file in folders for above in _above(file, layout.root)}):
        sync_directory(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    files_json = [[one.path, one.bytes, one.sha256] for one in manifest.files]
    write_json(path, {"files": files_json} | manifest.facts)
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; raises FileNotFoundError where nothing was committed."""
    value = read_json(path)
    files = tuple(FileEntry(*one) for one in value.pop("files"))
    return Manifest(files, value)


def committed_segments(layout: Layout, folder: str) -> list[int]:
    """List the segments of a run that are committed, in order."""
    found = layout.segment_dir(folder).glob("[0-9]*.json")
    return sorted(int(path.stem) for path in found if path.stem.isdigit())


def forget_passes(layout: Layout, folder: str, segment: int) -> None:
    """Remove what earlier passes left of a segment, half-written files included."""
    for left in layout.passes(folder).glob(f"{segment:06d}-*"):
        left.unlink(missing_ok=True)


def damaged_files(layout: Layout, manifest: Manifest, *, hashes: bool) -> Iterator[str]:
    """Say what is wrong with each file that is missing, of another size, or of other content."""
    for one in manifest.files:
        path = layout.root / one.path
        if not path.exists():
            yield f"{one.path} is missing"
        elif path.stat().st_size != one.bytes:
            yield f"{one.path} has {path.stat().st_size} bytes, not {one.bytes}"
        elif hashes and file_sha256(path) != one.sha256:
            yield f"{one.path} differs from what was written (sha256)"


def _above(path: Path, root: Path) -> Iterator[Path]:
    while path != root:
        path = path.parent
        yield path
