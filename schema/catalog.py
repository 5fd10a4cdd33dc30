"""Catalogues: publishing a generation, and going back to one.

A published catalogue never changes. Each generation is a new file in a new folder, because
DuckDB keeps serving a replaced file's old content within a process, and because a reader
must keep what it opened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import durable, tables
from .errors import GenerationNotFound, NotAStore, RunBusy
from .format import FORMAT_MAJOR, FORMAT_MINOR, check_format
from .layout import Layout
from .role_files import write_back_published
from .upgrade import upgrade_catalog
from .views import create_views
from .zoo_files import sweep_zoos
from .zoos import zoo_entries

if TYPE_CHECKING:
    import duckdb
    from sqlalchemy.orm import Session

KEPT_GENERATIONS = 2


@dataclass
class Draft:
    """A catalogue being made: the ORM for small tables, the connection for bulk."""

    generation: int
    session: Session
    connection: duckdb.DuckDBPyConnection

    @property
    def info(self) -> tables.LensInfo:
        """The one row about the store."""
        return self.session.query(tables.LensInfo).one()

    def insert(self, table: str, rows: Any) -> None:
        """Append Arrow rows to a table by column name."""
        # The ORM's pending rows come first: both write through one connection.
        self.session.flush()
        self.connection.register("incoming", rows)
        self.connection.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM incoming')
        self.connection.unregister("incoming")

    def extend_by_name(self, table: str, rows: Any) -> None:
        """Append Arrow rows to a table that is made, or given further columns, as needed."""
        self.session.flush()
        self.connection.register("incoming", rows)
        exists = self.connection.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [table]
        ).fetchone()
        before = f'SELECT * FROM "{table}" UNION ALL BY NAME ' if exists and exists[0] else ""
        self.connection.execute(
            f'CREATE OR REPLACE TABLE "{table}" AS {before}SELECT * FROM incoming'
        )
        self.connection.unregister("incoming")


def now() -> datetime:
    """The present moment in UTC, without a time zone, as the catalogue keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


def create_store(root: Path) -> Layout:
    """Make an empty store, or return the one that is there.

    Raises `NotAStore` for a folder with other things in it.
    """
    layout = Layout(root)
    check_place(layout)
    with publish_lock(layout):
        if layout.marker.exists():
            check_format(layout)
        else:
            _check_empty(layout)
            durable.write_json(
                layout.marker,
                {
                    "format": "lensbase-store",
                    "format_major": FORMAT_MAJOR,
                    "format_minor": FORMAT_MINOR,
                },
            )
    if not layout.current.exists():
        with publishing(layout):
            pass
    return layout


def check_place(layout: Layout) -> None:
    """Raise `NotAStore` where no store can be made, or what `check_format` raises of one."""
    # Nothing is put into somebody else's folder, not even a lock.
    if layout.marker.exists():
        check_format(layout)
    elif not layout.publish_lock.exists():
        _check_empty(layout)


def _check_empty(layout: Layout) -> None:
    """Raise `NotAStore` unless a folder holds nothing but what a store's beginning leaves."""
    locks, partial = layout.publish_lock.parent.name, f"{layout.marker.name}."
    names = [path.name for path in layout.root.iterdir()] if layout.root.exists() else []
    if any(name != locks and not name.startswith(partial) for name in names):
        msg = f"{layout.root} exists and is not a lensbase store; name a new or an empty folder."
        raise NotAStore(msg)


@contextmanager
def publish_lock(layout: Layout, *, timeout: float = 600) -> Generator[None]:
    """Hold the store's lock on publishing; the kernel frees it when its holder dies.

    Raises `RunBusy` when it stays taken.
    """
    from filelock import FileLock, Timeout

    layout.publish_lock.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(layout.publish_lock, timeout=timeout)
    try:
        lock.acquire()
    except Timeout as error:
        msg = f"another process has been publishing {layout.root} for {timeout:.0f} s; try again."
        raise RunBusy(msg) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def publishing(layout: Layout, *, origin: int | None = None) -> Generator[Draft]:
    """Make the next generation: change a copy of the catalogue, then publish it whole.

    The copy is of the published generation, or of `origin`. Nothing is published when the body
    raises.
    """
    with publish_lock(layout), drafting(layout, origin=origin) as draft:
        yield draft


@contextmanager
def drafting(layout: Layout, *, origin: int | None = None) -> Generator[Draft]:
    """As `publishing`, for a caller who holds `publish_lock` and goes on holding it."""
    from sqlalchemy.orm import Session

    from .engine import open_engine

    published = current_generation(layout)
    # Never a number used before, not even by a generation that was rolled back: within a
    # process DuckDB would serve the old file under the same path.
    generation = max([published, *_generations(layout)]) + 1
    path = layout.catalog(generation)
    path.parent.mkdir(parents=True)
    try:
        # A run that was killed while it began would be in its own way.
        _sweep(layout)
        if published:
            shutil.copyfile(layout.catalog(origin or published), path)
        engine = open_engine(path)
        try:
            with Session(engine) as session:
                if published:
                    upgrade_catalog(session.connection())
                else:
                    tables.metadata.create_all(session.connection())
                    session.add(_first_info())
                connection = session.connection().connection.driver_connection
                assert connection is not None
                draft = Draft(generation, session, connection)
                yield draft
                summary = _seal(draft)
        finally:
            # A file left open would be served again under the next one of this name.
            engine.dispose()
        path.chmod(0o444)
        durable.sync_file(path)
        durable.write_json(layout.snapshot_of(generation), summary)
        durable.sync_directory(layout.catalogs)
        _point_to(layout, generation)
    except BaseException:
        # Interrupted after `CURRENT` was replaced, it is published for all that.
        if current_generation(layout) != generation:
            shutil.rmtree(path.parent, ignore_errors=True)
        raise
    _prune(layout)


def adopt(origin: Layout, generation: int, layout: Layout) -> None:
    """Begin a new store with a copy of another's catalogue as its first generation."""
    layout.catalogs.mkdir(parents=True)
    shutil.copyfile(origin.marker, layout.marker)
    path = layout.catalog(generation)
    path.parent.mkdir()
    shutil.copyfile(origin.catalog(generation), path)
    path.chmod(0o444)
    durable.sync_file(path)
    durable.write_json(
        layout.snapshot_of(generation), durable.read_json(origin.snapshot_of(generation))
    )
    _point_to(layout, generation)


def current_generation(layout: Layout) -> int:
    """Number of the published generation, 0 before the first."""
    try:
        return int(durable.read_json(layout.current)["generation"])
    except FileNotFoundError:
        return 0


def rollback(layout: Layout, generation: int | None = None) -> int:
    """Publish the catalogue of an earlier generation again, as a new one; return its number.

    By default the one before the current. Annotations made since go on beside the catalogue.
    Raises `GenerationNotFound` where it is not kept, or `AnnotationNotKept`.
    """
    check_format(layout)
    # Under one lock: whoever compacts in between would take annotations away from here.
    with publish_lock(layout):
        target = _earlier(layout, generation)
        write_back_published(layout)
        with drafting(layout, origin=target) as draft:
            # Not from the published catalogue: it may be damaged, and this the way out.
            counters, info = durable.read_json(layout.current), draft.info
            info.next_run_id = max(info.next_run_id, counters["next_run_id"])
            info.next_image_id = max(info.next_image_id, counters["next_image_id"])
    return draft.generation


def _earlier(layout: Layout, generation: int | None) -> int:
    published = current_generation(layout)
    kept = [number for number in whole_generations(layout) if number < published]
    target = generation if generation is not None else max(kept, default=0)
    if target not in kept:
        listed = ", ".join(map(str, kept)) or "none"
        msg = (
            f"generation {target} is not kept (current: {published}; earlier ones kept: "
            f"{listed}); a store keeps its last {KEPT_GENERATIONS} generations."
        )
        raise GenerationNotFound(msg)
    return target


def _first_info() -> tables.LensInfo:
    return tables.LensInfo(
        generation=0,
        format_major=FORMAT_MAJOR,
        format_minor=FORMAT_MINOR,
        lensbase_version=version(),
        created_at=now(),
        published_at=now(),
        next_run_id=0,
        next_image_id=0,
    )


def version() -> str:
    """The version of lensbase that is installed."""
    from importlib import metadata

    try:
        return metadata.version("lensbase")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _seal(draft: Draft) -> dict[str, Any]:
    """Write what every generation has, commit; return what its `CURRENT` says."""
    from sqlalchemy import update

    draft.session.execute(
        update(tables.LensInfo).values(
            generation=draft.generation,
            format_minor=FORMAT_MINOR,
            lensbase_version=version(),
            published_at=now(),
        )
    )
    create_views(draft.connection)
    rows = draft.connection.execute(
        "SELECT name, folder, (SELECT count(*) FROM segment s WHERE s.run_id = r.run_id) "
        "FROM run r ORDER BY name"
    ).fetchall()
    zoos = zoo_entries(draft.connection)
    info = draft.info
    numbers = {"next_run_id": info.next_run_id, "next_image_id": info.next_image_id}
    draft.session.commit()
    draft.connection.execute("CHECKPOINT")
    runs = {name: {"folder": folder, "segments": count} for name, folder, count in rows}
    return {"generation": draft.generation, "runs": runs, "zoos": zoos} | numbers


def _point_to(layout: Layout, generation: int) -> None:
    durable.write_json(layout.current, durable.read_json(layout.snapshot_of(generation)))
    link = layout.current_link.with_name(f"current.{os.getpid()}{durable.PARTIAL}")
    link.unlink(missing_ok=True)
    link.symlink_to(layout.catalog(generation).parent.relative_to(layout.root))
    link.replace(layout.current_link)
    durable.sync_directory(layout.root)


def _generations(layout: Layout) -> list[int]:
    return sorted(int(path.name) for path in layout.catalogs.glob("[0-9]*"))


def _prune(layout: Layout) -> None:
    """Remove old generations and half-made ones, and the files that no kept one refers to."""
    current = current_generation(layout)
    earlier = [number for number in whole_generations(layout) if number < current]
    kept = {current, *earlier[1 - KEPT_GENERATIONS :]}
    for number in _generations(layout):
        if number not in kept:
            shutil.rmtree(layout.catalog(number).parent, ignore_errors=True)
    _sweep(layout)


def _sweep(layout: Layout) -> None:
    """Remove the files of runs and zoos that no generation on disk refers to."""
    kept = [durable.read_json(layout.snapshot_of(number)) for number in whole_generations(layout)]
    used = {run["folder"] for generation in kept for run in generation["runs"].values()}
    for kind in ("runs", "segments", "thumbnails"):
        for folder in (layout.root / kind).glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)
    sweep_zoos(layout, kept)


def whole_generations(layout: Layout) -> list[int]:
    """The generations on disk that were published, in order."""
    return [number for number in _generations(layout) if layout.snapshot_of(number).exists()]
