"""Exports of a store: its views as Parquet, its pages as files that open without a server."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..schema.errors import ExtraMissing
from ..schema.stages import Progress, stage
from .console import Console
from .whole_numbers import whole
from .written_folder import written_folder

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from .serve.static_site import Site
    from .store import Store

DICTIONARY = "data_dictionary"

_ROWS = 65_536  # of a row group
_EXTRA = ("anyio", "fastapi", "jinja2", "pydantic", "starlette")
_LOG = logging.getLogger(__name__)


def export_parquet(
    store: Store,
    folder: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress = None,
) -> dict[str, int]:
    """Write every view of a store as `FOLDER/VIEW.parquet`; return how many rows each has.

    Derived results are among them, as in `store.sql`; `data_dictionary` explains the columns.
    Memory is bounded by a row group of 65,536 rows. The files appear once all are written. A bar
    counts views; `progress=False` hides it. Raises `FolderTaken` where the folder holds files,
    unless `force` replaces those of the same names.
    """
    console = store._console  # pyright: ignore[reportPrivateUsage]
    named = [*views(console), DICTIONARY]
    rows: dict[str, int] = {}
    what = f"writing the views of {store.path} as Parquet"
    with (
        stage(_LOG, what, unit="view", progress=progress, delay=1) as work,
        written_folder(Path(folder), force=force) as partial,
    ):
        for done, view in enumerate(named):
            work.tell(done, len(named))
            rows[view] = _write(console, view, partial / f"{view}.parquet")
        work.tell(len(named), len(named))
    return rows


def export_html(
    store: Store,
    folder: str | os.PathLike[str],
    neurons: int = 200,
    *,
    concepts: int = 200,
    force: bool = False,
    progress: Progress = None,
) -> Site:
    """Write the dashboard's pages as plain files: open `FOLDER/index.html`, no server is needed.

    That is the store's page, each run's, those of its kept heads and of the `neurons` with the
    largest mean norm of their second-order effects, and the first `concepts` of each Rosetta zoo,
    with their pictures, heatmaps made small. Links to what is not written are left out. Returns how
    many pages, pictures and bytes there are. They appear once all are written. A bar counts pages;
    `progress=False` hides it. Raises `ExtraMissing` without `lensbase[serve]`, `BadQuestion`, or
    `FolderTaken` where the folder holds files, unless `force` replaces those of an earlier export.
    """
    neurons = whole(neurons, "neurons", least=0, of="neurons")
    concepts = whole(concepts, "concepts", least=0, of="concepts")
    try:
        from .serve.static_site import write_site
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        msg = (
            f"writing pages needs {error.name}, which is not installed; "
            '`pip install "lensbase[serve]"` installs it.'
        )
        raise ExtraMissing(msg) from error
    what = f"writing pages of {store.path}"
    with (
        stage(_LOG, what, unit="page", progress=progress) as work,
        written_folder(Path(folder), force=force) as partial,
    ):
        return write_site(store, partial, neurons=neurons, concepts=concepts, work=work)


def views(console: Console) -> list[str]:
    """The public views of a catalogue, by name."""
    found = console.rows("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1")
    return list(dict.fromkeys(name for (name,) in found))


def _write(console: Console, view: str, path: Path, *, narrow: bool = True) -> int:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = 0
    with console.stream(f'FROM "{view}"', rows=_ROWS) as reader:
        schema = _narrowed(reader.schema) if narrow else reader.schema
        try:
            with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
                for batch in reader:
                    writer.write_batch(batch.cast(schema))
                    rows += batch.num_rows
        except pa.ArrowInvalid:
            if not narrow:
                raise
            return _write(console, view, path, narrow=False)
    return rows


def _narrowed(schema: pa.Schema) -> pa.Schema:
    """DuckDB's sums are 128 bits wide and would come out as decimals."""
    import pyarrow as pa

    wide = {
        field.name for field in schema if pa.types.is_decimal(field.type) and field.type.scale == 0
    }
    return pa.schema(
        field.with_type(pa.int64()) if field.name in wide else field for field in schema
    )
