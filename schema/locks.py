"""Locks on segments: whoever writes one owns it, and its death frees it.

POSIX record locks on one byte for each segment: any two processes that would write the same
segment exclude each other, however a run is divided into parts. Unlike `flock`, forked decoding
workers do not inherit them, so a killed ingest's orphans do not keep its run locked.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from .errors import RunBusy

# Record locks belong to the process: within one, this keeps threads apart.
_held: dict[Path, set[int]] = {}
_guard = threading.Lock()


@contextmanager
def lock_segments(path: Path, run: str, segments: Iterable[int]) -> Generator[None]:
    """Own segments of a run while the body runs; raises `RunBusy` at once where one is owned."""
    wanted = set(segments)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _guard:
        owned = _held.setdefault(path, set())
        if owned & wanted:
            raise _busy(run)
        owned |= wanted
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for segment in sorted(wanted):
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, segment)
            except OSError as error:
                raise _busy(run) from error
        yield
    finally:
        # Closing any descriptor of the file frees all of this process's locks on it, so only
        # the last owner within the process closes for good.
        with _guard:
            _held[path] -= wanted
            for segment in wanted:
                fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, segment)
            if not _held[path]:
                os.close(descriptor)


def _busy(run: str) -> RunBusy:
    msg = (
        f"another process is writing run {run!r}; wait for it (`lensbase info --watch` shows how "
        "far it is), or write another run with --run."
    )
    return RunBusy(msg)
