"""Following an ingest from another terminal."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

import typer

from ..printing import counted
from ..progress import RunProgress, run_progress

_EVERY = 1.0  # seconds


def watch_runs(store: Path, run: str | None) -> None:
    """Print how far the runs are, again when something changed, until all are complete."""
    if sys.stdout.isatty():
        _watch_on_terminal(store, run)
        return
    printed: list[str] = []
    while True:
        found = run_progress(store, run)
        lines = [progress_line(one) for one in found]
        for line in lines:
            if line not in printed:
                typer.echo(line)
        sys.stdout.flush()
        printed = lines
        if all(one.complete for one in found):
            return
        time.sleep(_EVERY)


def progress_line(progress: RunProgress, *, now: float | None = None) -> str:
    """One run's progress in one line; `now` adds how long ago the last segment was committed."""
    share = progress.committed / progress.images if progress.images else 1.0
    images = counted(progress.images, "image")
    parts = [
        f"{progress.run}: {progress.committed:,} of {images} ({share:.0%})",
        f"{progress.segments_committed} of {progress.segments} segments",
    ]
    if progress.complete:
        return ", ".join([*parts, "complete"])
    if progress.rate is not None:
        parts.append(f"{progress.rate:,.0f} images/s")
    if progress.seconds_left:
        parts.append(f"{timedelta(seconds=round(progress.seconds_left))} left")
    if now is not None and progress.last_commit is not None:
        parts.append(f"last commit {timedelta(seconds=round(now - progress.last_commit))} ago")
    return ", ".join(parts)


def _watch_on_terminal(store: Path, run: str | None) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            found = run_progress(store, run)
            now = time.time()
            live.update(Text("\n".join(progress_line(one, now=now) for one in found)), refresh=True)
            if all(one.complete for one in found):
                return
            time.sleep(_EVERY)
