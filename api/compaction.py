"""Compacting: results that readers left beside the catalogue become rows of its next generation."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..schema import durable
from ..schema.catalog import Draft, current_generation, publishing
from ..schema.derived import DerivedResult, derived_results
from ..schema.errors import LensbaseError
from ..schema.format import check_format
from ..schema.layout import Layout
from ..schema.snapshot import open_snapshot
from .annotations import write_annotation
from .derived_views import ANNOTATION, DERIVED, HEAD_TEXT, KEYS, Known, catalog_rows

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: the generation now, the results taken in, and those thrown away."""

    generation: int
    taken_in: dict[str, int]
    dropped: int


def compact(layout: Layout) -> Compacted:
    """Take annotations and whole-run TEXTSPANs into the next generation; see `maintenance`."""
    check_format(layout)
    taken: list[DerivedResult] = []
    counts: dict[str, int] = {}
    # A generation for nothing would push out the one before, which `rollback` may need.
    if _anything_fits(layout):
        with publishing(layout) as draft:
            for table in (HEAD_TEXT, ANNOTATION):
                found = _take_in(draft, layout, table)
                counts[table] = len(found)
                taken += found
    dropped = _of_dropped_runs(layout)
    # Only now: until the generation is published, the files are all there is.
    _remove([*taken, *dropped])
    return Compacted(current_generation(layout), counts, len(dropped))


def write_back_annotations(layout: Layout) -> None:
    """Write the published catalogue's annotations beside it, before it is replaced by another.

    Raises `AnnotationNotKept`. A catalogue that cannot be read has none to keep.
    """
    import duckdb

    rows: list[dict[str, Any]] = []
    with suppress(LensbaseError, duckdb.Error, OSError):
        snapshot = open_snapshot(layout.root)
        try:
            rows = snapshot.rows(
                """SELECT r.name AS run, m.weights_sha256, a.component, a.role, a.source, a.note,
                          a.created_at
                   FROM annotation a JOIN run r USING (run_id) JOIN model m USING (model_id)"""
            )
        finally:
            snapshot.connection.close()
    for row in rows:
        created: datetime = row.pop("created_at")
        write_annotation(layout, [row.pop("component")], created=created, **row)


def _anything_fits(layout: Layout) -> bool:
    snapshot = open_snapshot(layout.root)
    try:
        known = Known.of(snapshot.connection)
        return any(
            catalog_rows(table, derived_results(layout, table), known)[1]
            for table in (HEAD_TEXT, ANNOTATION)
        )
    finally:
        snapshot.connection.close()


def _take_in(draft: Draft, layout: Layout, table: str) -> list[DerivedResult]:
    """Insert what the table lacks of results that fit into it; return these results."""
    draft.session.flush()
    connection = draft.connection
    rows, fitting = catalog_rows(table, derived_results(layout, table), Known.of(connection))
    if rows is None:
        return []
    _insert(draft, table, rows)
    if table == ANNOTATION:
        # The latest counts, and one that took a role away must go on hiding earlier ones: a file
        # that is left over would bring them back.
        connection.execute(
            """DELETE FROM annotation WHERE EXISTS (
                   SELECT 1 FROM annotation later WHERE later.run_id = annotation.run_id
                   AND later.component = annotation.component
                   AND later.created_at > annotation.created_at)"""
        )
    else:
        _insert(draft, DERIVED, _described(fitting))
    return fitting


def _insert(draft: Draft, table: str, rows: pa.Table) -> None:
    connection = draft.connection
    connection.register("incoming", rows)
    connection.execute(
        f"""INSERT INTO "{table}" BY NAME
            SELECT DISTINCT * FROM incoming ANTI JOIN "{table}" USING ({", ".join(KEYS[table])})"""
    )
    connection.unregister("incoming")


def _described(results: Iterable[DerivedResult]) -> pa.Table:
    import pyarrow as pa

    listed = list(results)
    return pa.table(
        {
            "relation": [one.table for one in listed],
            "fingerprint": [one.fingerprint for one in listed],
            "parameters": [json.dumps(one.parameters, sort_keys=True) for one in listed],
        }
    )


def _of_dropped_runs(layout: Layout) -> list[DerivedResult]:
    """Results of runs that no generation on disk has: what `rollback` can bring back stays."""
    kept = {
        run for path in layout.catalogs.glob("*/CURRENT") for run in durable.read_json(path)["runs"]
    }
    return [
        result
        for folder in sorted(layout.derived("any", "").parent.parent.glob("*"))
        for result in derived_results(layout, folder.name)
        if "run" in result.parameters and result.parameters["run"] not in kept
    ]


def _remove(results: Iterable[DerivedResult]) -> None:
    folders = set()
    for result in results:
        result.path.unlink(missing_ok=True)
        folders.add(result.path.parent)
    for folder in folders:
        durable.sync_directory(folder)
