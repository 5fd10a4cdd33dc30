"""How much memory a process can still get, on any system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def free_memory(*, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be had without swapping, as the system estimates it.

    Linux counts what its caches would give back (`MemAvailable`), and a control group (version 2)
    may allow less. Elsewhere nothing portable says what is free: half of what there is.
    """
    available = _lines(proc / "meminfo").get("MemAvailable:")
    if available is None:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min([1024 * int(available), *_left_to_groups(proc, groups)])


def _left_to_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Bytes left to this process's control group, and to all that contain it."""
    listed = _text(proc / "self" / "cgroup").splitlines()
    name = next((line[3:] for line in listed if line.startswith("0::")), "/")
    group = groups / name.lstrip("/")
    for one in (group, *group.parents):
        if not one.is_relative_to(groups):
            return
        most, used = _text(one / "memory.max").strip(), _text(one / "memory.current").strip()
        if most.isdigit() and used.isdigit():
            # Pages of files that nobody has touched for long are given back first.
            cached = int(_lines(one / "memory.stat").get("inactive_file", "0"))
            yield max(0, int(most) - int(used) + cached)


def _lines(path: Path) -> dict[str, str]:
    """The first two words of each line."""
    words = (line.split() for line in _text(path).splitlines())
    return {line[0]: line[1] for line in words if len(line) > 1}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
