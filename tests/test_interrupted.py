"""What stops an ingest from outside loses nothing that was committed: a full disk."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from world_store import ingest_scenes, store_bytes

from lensbase.api.verify import verify
from lensbase.schema.layout import Layout
from lensbase.schema.manifest import committed_segments


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of its own that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a small file system needs rights that this process does not have")
    yield folder
    # Lazily: maps of its files live as long as their readers.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_committed(
    scenes: Path, world_store: Path, small_disk: Path
) -> None:
    path = small_disk / "s.lens"
    with pytest.raises(OSError, match="No space left") as failure:
        ingest_scenes(scenes, path)
    assert failure.value.errno == errno.ENOSPC
    before = committed_segments(Layout(path), "r")
    assert 1 <= len(before) < 3
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    assert ingest_scenes(scenes, path).complete
    assert store_bytes(path) == store_bytes(world_store)
    assert verify(path).ok
