"""How far an ingest is, from the manifests of its committed segments; no model is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..schema.errors import UnknownRun
from ..schema.layout import Layout
from ..schema.manifest import committed_segments, read_manifest
from ..schema.snapshot import open_snapshot


@dataclass(frozen=True)
class RunProgress:
    """How far a run is: `committed` of its `images`, in `segments_committed` of `segments`.

    `rate` is in images a second since its first segment, None before the second one;
    `last_commit` in seconds since the epoch; `complete` once it is finalized.
    """

    run: str
    images: int
    committed: int
    segments: int
    segments_committed: int
    rate: float | None
    last_commit: float | None
    complete: bool

    @property
    def seconds_left(self) -> float | None:
        """Time until all images are committed, at the rate so far."""
        return (self.images - self.committed) / self.rate if self.rate else None


def run_progress(path: str | os.PathLike[str], run: str | None = None) -> list[RunProgress]:
    """Say how far each run of a store is, or the one named, while any process ingests.

    Raises `UnknownRun`, `StoreNotFound`, `NotAStore`, `FormatTooNew` or `StoreCorrupt`.
    """
    snapshot = open_snapshot(Path(path))
    try:
        rows = snapshot.run_rows()
    finally:
        snapshot.connection.close()
    if run is not None and run not in {row["name"] for row in rows}:
        names = ", ".join(row["name"] for row in rows) or "none"
        msg = f"{path} holds no run {run!r}; its runs: {names}."
        raise UnknownRun(msg)
    return [_progress(snapshot.layout, row) for row in rows if run in (None, row["name"])]


def _progress(layout: Layout, row: dict[str, Any]) -> RunProgress:
    commits: list[tuple[float, int]] = []
    for segment in committed_segments(layout, row["folder"]):
        path = layout.manifest(row["folder"], segment)
        commits.append((path.stat().st_mtime, read_manifest(path).facts["rows"]))
    commits.sort()
    committed = sum(rows for _, rows in commits)
    rate = None
    if len(commits) > 1 and commits[-1][0] > commits[0][0]:
        rate = (committed - commits[0][1]) / (commits[-1][0] - commits[0][0])
    return RunProgress(
        run=row["name"],
        images=row["images"],
        committed=committed,
        segments=row["segments"],
        segments_committed=len(commits),
        rate=rate,
        last_commit=commits[-1][0] if commits else None,
        complete=row["status"] == "complete",
    )
