"""Compacting: results that readers left beside the catalogue become rows of its next generation."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schema import durable
from ..schema.catalog import current_generation, drafting, publish_lock
from ..schema.derived import DerivedResult, derived_results
from ..schema.format import check_format
from ..schema.layout import Layout
from ..schema.role_files import ANNOTATION
from ..schema.snapshot import connect, open_snapshot
from .derived_views import DERIVED, HEAD_TEXT, KEYS, NEURON_TEXT, Known, catalog_rows

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Compacted:
    """What a compaction did: the generation now, the results taken in, and those thrown away."""

    generation: int
    taken_in: dict[str, int]
    dropped: int


def compact(layout: Layout) -> Compacted:
    """Take roles, whole-run TEXTSPANs and neurons' codes into the catalogue; see `maintenance`."""
    check_format(layout)
    # Held until the files are gone: a rollback in between would go back to a generation that
    # needs them.
    with publish_lock(layout):
        lacking, fitting = _compared(layout)
        counts: dict[str, int] = {}
        # A generation for nothing would push out the one before, which `rollback` may need.
        if lacking:
            with drafting(layout) as draft:
                for table, rows in lacking.items():
                    draft.insert(table, rows)
                draft.connection.execute(_SUPERSEDED)
            counts = {table: len(results) for table, results in fitting.items()}
        dropped = _of_no_generation(layout)
        # Only now: until the generation is published, the files are all there is.
        _remove([*(one for results in fitting.values() for one in results), *dropped])
        return Compacted(current_generation(layout), counts, len(dropped))


# The latest counts, and one that took a role away must go on hiding earlier ones: a file that is
# left over would bring them back.
_SUPERSEDED = """DELETE FROM annotation WHERE EXISTS (
    SELECT 1 FROM annotation later WHERE later.run_id = annotation.run_id
    AND later.component = annotation.component AND later.created_at > annotation.created_at)"""


def _compared(layout: Layout) -> tuple[dict[str, pa.Table], dict[str, list[DerivedResult]]]:
    """What the published catalogue lacks, by table, and the results that fit into it."""
    connection = open_snapshot(layout.root).connection
    try:
        known = Known.of(layout, connection)
        lacking: dict[str, pa.Table | None] = {}
        fitting: dict[str, list[DerivedResult]] = {}
        for table in (HEAD_TEXT, NEURON_TEXT, ANNOTATION):
            rows, fitting[table] = catalog_rows(table, derived_results(layout, table), known)
            lacking[table] = _lacking(connection, table, rows)
        described = _described([*fitting[HEAD_TEXT], *fitting[NEURON_TEXT]])
        lacking[DERIVED] = _lacking(connection, DERIVED, described)
    finally:
        connection.close()
    return {table: rows for table, rows in lacking.items() if rows is not None}, fitting


def _lacking(
    connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table | None
) -> pa.Table | None:
    """Those of some rows that a catalogue's table lacks; None where it has them all."""
    if rows is None or not rows.num_rows:
        return None
    # A row that a later one has replaced is not there, and need not be.
    replaced = f"""WHERE NOT EXISTS (
        SELECT 1 FROM {ANNOTATION} later WHERE later.run_id = incoming.run_id
        AND later.component = incoming.component AND later.created_at > incoming.created_at)"""
    connection.register("incoming", rows)
    found = connection.sql(
        f"""SELECT DISTINCT incoming.* FROM incoming
            ANTI JOIN "{table}" USING ({", ".join(KEYS[table])})
            {replaced if table == ANNOTATION else ""}"""
    ).to_arrow_table()
    connection.unregister("incoming")
    return found if found.num_rows else None


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


def _of_no_generation(layout: Layout) -> list[DerivedResult]:
    """Results of runs that no generation on disk has: what `rollback` can bring back stays."""
    import duckdb

    try:
        kept = _known_by_generation(layout)
    except duckdb.Error:
        return []  # nobody knows what a damaged catalogue has
    return [
        result
        for folder in sorted(layout.derived("any", "").parent.parent.glob("*"))
        for result in derived_results(layout, folder.name)
        if "run" in result.parameters and not any(known.run_of(result) for known in kept)
    ]


def _known_by_generation(layout: Layout) -> list[Known]:
    found: list[Known] = []
    for path in sorted(layout.catalogs.glob("*/CURRENT")):
        connection = connect(layout.catalog(int(path.parent.name)))
        try:
            found.append(Known.of(layout, connection))
        finally:
            connection.close()
    return found


def _remove(results: Iterable[DerivedResult]) -> None:
    folders = set()
    for result in results:
        result.path.unlink(missing_ok=True)
        folders.add(result.path.parent)
    for folder in folders:
        durable.sync_directory(folder)
