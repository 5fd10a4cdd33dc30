"""Writing a store's views as Parquet, for tools that read that."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .console import Console
from .written_folder import written_folder

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from .store import Store

Tell: TypeAlias = Callable[[int, int], None]
"""Told how much of an export is done, of how much."""

DICTIONARY = "data_dictionary"

_ROWS = 65_536  # of a row group


def export_parquet(
    store: Store, folder: str | os.PathLike[str], *, force: bool = False, tell: Tell | None = None
) -> dict[str, int]:
    """Write every view of a store as `FOLDER/VIEW.parquet`; return how many rows each has.

    Derived results are among them, as in `store.sql`; `data_dictionary` explains the columns.
    Memory is bounded by a row group of 65,536 rows. The files appear once all are written. `tell`
    is called with the views written and their number. Raises `FolderTaken` where the folder holds
    files, unless `force` replaces those of the same names.
    """
    console = store._console  # pyright: ignore[reportPrivateUsage]
    named = [*views(console), DICTIONARY]
    rows: dict[str, int] = {}
    with written_folder(Path(folder), force=force) as partial:
        for done, view in enumerate(named):
            if tell is not None:
                tell(done, len(named))
            rows[view] = _write(console, view, partial / f"{view}.parquet")
        if tell is not None:
            tell(len(named), len(named))
    return rows


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
