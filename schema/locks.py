"""Locks on segments: whoever writes one owns it, and its death frees it.

POSIX record locks on one byte for each segment: any two processes that would write the same
segment exclude each other, however a run is divided into parts. Unlike `flock`, forked decoding
workers do not inherit them, so a killed ingest's orphans do not keep its run locked.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .errors import RunBusy


@dataclass
class _Held:
    """What this process owns of a lock file, through its one descriptor of it."""

    descriptor: int
    segments: set[int] = field(default_factory=set[int])


# Record locks belong to the process: within one, this keeps threads apart. Closing any descriptor
# of a file would free all of the process's locks on it, so there is one, and the last closes it.
_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextmanager
def lock_segments(path: Path, run: str, segments: Iterable[int]) -> Generator[None]:
    """Own segments of a run while the body runs; raises `RunBusy` at once where one is owned."""
    wanted = set(segments)
    with _guard:
        if path not in _held:
            path.parent.mkdir(parents=True, exist_ok=True)
            _held[path] = _Held(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))
        held = _held[path]
        if held.segments & wanted:
            raise _busy(run)
        held.segments |= wanted
    try:
        for segment in sorted(wanted):
            try:
                fcntl.lockf(held.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, segment)
            except OSError as error:
                raise _busy(run) from error
        yield
    finally:
        with _guard:
            held.segments -= wanted
            for segment in wanted:
                fcntl.lockf(held.descriptor, fcntl.LOCK_UN, 1, segment)
            if not held.segments:
                os.close(_held.pop(path).descriptor)


def _busy(run: str) -> RunBusy:
    msg = (
        f"another process is writing run {run!r}; wait for it (`lensbase info --watch` shows how "
        "far it is), or write another run with --run."
    )
    return RunBusy(msg)


@contextmanager
def lock_when_free(
    path: Path,
    run: str,
    segment: int,
    *,
    poll: float = 0.5,
    waiting: Callable[[], None] = lambda: None,
) -> Generator[None]:
    """Own one segment of a run while the body runs, waiting for whoever owns it.

    `waiting` is called once, where that is needed.
    """
    with ExitStack() as stack:
        told = False
        while True:
            try:
                stack.enter_context(lock_segments(path, run, [segment]))
                break
            except RunBusy:
                if not told:
                    waiting()
                told = True
                time.sleep(poll)
        yield
