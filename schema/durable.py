"""Writing files so that a crash leaves the old content or the new, never a part of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write a file by temporary name, fsync and rename; return the SHA-256 of its content.

    Creates the folders above it. The name is made durable by `sync_directory`, left to the
    caller so that many files share one fsync of their folder.
    """
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            for part in parts:
                file.write(part)
                digest.update(part)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file durably, folder included: once this returns, the file is committed."""
    write_parts(path, [(json.dumps(value, indent=1, sort_keys=True) + "\n").encode()])
    sync_directory(path.parent)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
