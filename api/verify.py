"""Verifying a store, level by level: manifests, checksums, identities, the model itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from ..schema.errors import BadQuestion
from ..schema.layout import Layout
from ..schema.manifest import damaged_files, read_manifest
from ..schema.snapshot import Snapshot, open_snapshot
from ..schema.zoo_files import committed_groups, manifest_of
from ..schema.zoos import zoo_entries
from .identities import broken_identities, inconsistent_rows
from .rosetta_identities import broken_zoo

Level = Literal["manifests", "checksums", "identities", "model"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Problem:
    """Something wrong with a run's segment (None: with the run, a pool or a zoo), and the way out.

    `finalized`: with what `finalize` wrote of the whole run, and can write again.
    """

    run: str
    segment: int | None
    what: str
    remedy: str
    finalized: bool = False

    def __str__(self) -> str:
        place = self.run if self.segment is None else f"{self.run}, segment {self.segment}"
        return f"{place}: {self.what}. {self.remedy}"


@dataclass
class VerifyReport:
    """What was checked, and every problem found."""

    level: Level
    problems: list[Problem] = field(default_factory=list[Problem])
    checked: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        counted = ", ".join(
            f"{count:,} {what}{'' if count == 1 else 's'}" for what, count in self.checked.items()
        )
        if self.ok:
            return f"verified ({self.level}), nothing is wrong:\n{counted}"
        listed = "\n".join(f"- {problem}" for problem in self.problems)
        return f"verified ({self.level}), {len(self.problems)} problems: {counted}\n{listed}"

    def count(self, what: str, number: int = 1) -> None:
        """Note that something was checked."""
        self.checked[what] = self.checked.get(what, 0) + number


def verify(
    path: str | os.PathLike[str],
    *,
    level: Level = "identities",
    sample: int = 64,
    seed: int = 0,
) -> VerifyReport:
    """Check a store's published generation; each level includes the ones before it.

    `manifests`: every committed file is there with its size; `checksums`: and its hash;
    `identities`: on `sample` images of each run all terms add up to the representation, and
    effects, norms and moments follow from the stored values, and so do columns, thresholds and
    peaks of `sample` neurons (docs/mathematics.md); of a zoo, best buddies, tuples and concepts are
    those of the nearest units that it keeps; `model`: the model is run again on `sample` images,
    which needs the `ingest` extra and the pictures.
    Raises `StoreNotFound`, `NotAStore`, `FormatTooNew`, `StoreCorrupt` or `BadQuestion`.
    """
    if level not in LEVELS:
        msg = f"level {level!r} does not exist; choose {', '.join(LEVELS)}."
        raise BadQuestion(msg)
    snapshot = open_snapshot(Path(path))
    report = VerifyReport(level)
    deep = LEVELS.index(level)
    for run in snapshot.run_rows():
        report.count("run")
        damaged = list(_check_files(snapshot, run, report, hashes=deep >= 1))
        report.problems += damaged
        if deep >= 2:
            report.problems += _in_run(run, inconsistent_rows(snapshot, run))
            if not damaged:
                found = broken_identities(snapshot, run, sample=sample, seed=seed)
                report.count("recomputed image", found.images)
                if found.neurons:
                    report.count("recomputed neuron", found.neurons)
                report.problems += _in_run(run, found.problems)
        if deep >= 3 and not damaged:
            from ..ingest.recheck import differences

            found = differences(snapshot, run, sample=min(sample, 16), seed=seed)
            report.count("rerun image", found.images)
            report.problems += _in_run(run, found.problems)
    report.problems += _check_pools(snapshot, report, hashes=deep >= 1)
    report.problems += _check_zoos(snapshot, report, deep=deep)
    return report


def forget_damaged(
    path: str | os.PathLike[str], report: VerifyReport
) -> list[tuple[str, int | None]]:
    """Take damaged segments back out of the store, so that the same ingest again redoes them.

    Returns (run, segment) of each; (run, None) for a run of which only what `finalize` wrote is
    damaged, and which is to be finalized again. A generation without them is published.
    """
    from ..schema.runs import uncommit_segments

    layout = Layout(Path(path))
    damaged = sorted({(one.run, one.segment) for one in report.problems if one.segment is not None})
    runs = [one.run for one in report.problems if one.segment is not None or one.finalized]
    taken: list[tuple[str, int | None]] = []
    for run in sorted(set(runs)):
        segments = [segment for name, segment in damaged if name == run]
        uncommit_segments(layout, run, segments)
        taken += [(run, segment) for segment in segments or [None]]
    return taken


def _check_files(
    snapshot: Snapshot, run: dict[str, Any], report: VerifyReport, *, hashes: bool
) -> Iterator[Problem]:
    layout: Layout = snapshot.layout
    segments = snapshot.rows(
        "SELECT segment FROM segment WHERE run_id = ? ORDER BY segment", [run["run_id"]]
    )
    redo = (
        f"`lensbase verify {layout.root} --forget`, then the same `lensbase ingest` command "
        "again, redoes it"
    )
    again = f"`lensbase run drop {layout.root} {run['name']}`, then ingest it again"
    folder, label = run["folder"], run["by_neuron"]
    places = [(row["segment"], layout.manifest(folder, row["segment"])) for row in segments]
    places.append((None, layout.static_manifest(folder)))
    # A run that has just begun has no segment, and its neurons may not be fitted yet.
    if run["neuron_layers"] and segments:
        places.append((None, layout.fitted_manifest(folder)))
    for segment, path in places:
        report.count("segment", segment is not None and path.exists())
        remedy = again if segment is None else redo
        for what in _damage(layout, path, report, hashes=hashes):
            yield Problem(run["name"], segment, what, remedy)
    if label is not None:
        remedy = (
            f"`lensbase verify {layout.root} --forget`, then `lensbase finalize {layout.root} "
            f"--run {run['name']}`, writes it again"
        )
        path = layout.by_neuron_manifest(folder, label)
        for what in _damage(layout, path, report, hashes=hashes):
            yield Problem(run["name"], None, what, remedy, finalized=True)


def _damage(layout: Layout, path: Path, report: VerifyReport, *, hashes: bool) -> Iterator[str]:
    """What is wrong with a manifest and its files."""
    if not path.exists():
        yield f"its manifest {path.name} is missing"
        return
    manifest = read_manifest(path)
    report.count("file", len(manifest.files))
    yield from damaged_files(layout, manifest, hashes=hashes)


def _check_pools(snapshot: Snapshot, report: VerifyReport, *, hashes: bool) -> Iterator[Problem]:
    layout = snapshot.layout
    rows = snapshot.rows(
        """SELECT p.name, m.weights_sha256 FROM pool p JOIN pool_model USING (pool_id)
           JOIN model m USING (model_id)"""
    )
    for row in rows:
        path = layout.pool_manifest(row["name"], row["weights_sha256"])
        remedy = f"`lensbase pool add {layout.root} FILE --name {row['name']}` embeds it again"
        if not path.exists():
            yield Problem(f"pool {row['name']}", None, "its manifest is missing", remedy)
            continue
        report.count("pool")
        for what in damaged_files(layout, read_manifest(path), hashes=hashes):
            yield Problem(f"pool {row['name']}", None, what, remedy)


def _check_zoos(snapshot: Snapshot, report: VerifyReport, *, deep: int) -> Iterator[Problem]:
    layout = snapshot.layout
    for name, zoo in zoo_entries(snapshot.connection.cursor()).items():
        report.count("zoo")
        place, damaged = f"zoo {name}", False
        remedy = (
            f"`lensbase rosetta drop {layout.root} {name}`, then `lensbase rosetta mine` again, "
            "or a whole copy of the store, has it anew"
        )
        for group in committed_groups(layout, zoo):
            for what in _damage(layout, manifest_of(group), report, hashes=deep >= 1):
                damaged = True
                yield Problem(place, None, what, remedy)
        if deep >= 2 and not damaged:
            for what in broken_zoo(snapshot, name):
                yield Problem(place, None, what, remedy)


def _in_run(run: dict[str, Any], found: list[str]) -> list[Problem]:
    remedy = "The files are as they were written: please report this with the run's card"
    return [Problem(run["name"], None, what, remedy) for what in found]
