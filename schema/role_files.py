"""Files that hold roles of components, beside the catalogue: written by readers and undoings."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from .derived import write_derived
from .errors import AnnotationNotKept, LensbaseError
from .layout import Layout
from .snapshot import open_snapshot

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ANNOTATION = "annotation"

_Groups: TypeAlias = dict[tuple[Any, ...], list[str]]


def annotation_columns() -> pa.Schema:
    """The columns of an annotation's file; the catalogue's table has the run's number besides."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("component", pa.string()),
            pa.field("role", pa.string()),
            pa.field("source", pa.string()),
            pa.field("note", pa.string()),
            pa.field("created_at", pa.timestamp("us")),
        ]
    )


def write_annotation(
    layout: Layout,
    addresses: Sequence[str],
    *,
    run: str,
    weights_sha256: str,
    role: str | None,
    source: str | None,
    note: str | None,
    created: datetime,
) -> None:
    """Keep a role of some components beside the catalogue; raises `AnnotationNotKept`."""
    import pyarrow as pa

    said = {"role": role, "source": source, "note": note, "created_at": created}
    rows = pa.Table.from_pylist(
        [{"component": address} | said for address in addresses], schema=annotation_columns()
    )
    # A role belongs to the model's weights, whatever images it was seen on.
    parameters = {
        "run": run,
        "weights_sha256": weights_sha256,
        "components": list(addresses),
        **said,
        "created_at": created.isoformat(),
    }
    if not write_derived(layout, ANNOTATION, parameters, rows=rows):
        folder = layout.derived(ANNOTATION, "").parent
        msg = (
            f"{', '.join(addresses)} could not be annotated: {folder} cannot be written to. "
            f"`lensbase copy {layout.root} DEST` makes a copy that can be."
        )
        raise AnnotationNotKept(msg)


def write_back_published(layout: Layout) -> None:
    """Write the published catalogue's annotations beside it, before another replaces it.

    Raises `AnnotationNotKept`. A catalogue that cannot be read has none to keep.
    """
    import duckdb

    groups: _Groups = {}
    with suppress(LensbaseError, duckdb.Error, OSError):
        connection = open_snapshot(layout.root).connection
        try:
            groups = _annotations(connection)
        finally:
            connection.close()
    _write(layout, groups)


def write_back(layout: Layout, connection: duckdb.DuckDBPyConnection, run: str) -> None:
    """Write the annotations that a catalogue has of a run beside it; raises `AnnotationNotKept`."""
    found = _annotations(connection)
    _write(layout, {said: addresses for said, addresses in found.items() if said[0] == run})


def _annotations(connection: duckdb.DuckDBPyConnection) -> _Groups:
    """Addresses by what was said of them at one time: run, weights, role, source, note, time."""
    groups: _Groups = {}
    rows = connection.execute(
        """SELECT a.component, r.name, m.weights_sha256, a.role, a.source, a.note, a.created_at
           FROM annotation a JOIN run r USING (run_id) JOIN model m USING (model_id)
           ORDER BY a.created_at, a.rowid"""
    ).fetchall()
    for component, *said in rows:
        groups.setdefault(tuple(said), []).append(component)
    return groups


def _write(layout: Layout, groups: _Groups) -> None:
    for (run, weights_sha256, role, source, note, created), addresses in groups.items():
        write_annotation(
            layout,
            addresses,
            run=run,
            weights_sha256=weights_sha256,
            role=role,
            source=source,
            note=note,
            created=created,
        )
