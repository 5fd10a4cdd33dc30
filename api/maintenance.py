"""Changing a store without a model: dropping runs and zoos, going back, adding columns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema import catalog, runs, zoos
from ..schema.errors import BadColumns, FormatTooOld
from ..schema.format import check_catalog
from ..schema.layout import Layout
from ..schema.snapshot import connect
from ..schema.views import MANIFEST, RESERVED_COLUMNS
from . import compaction
from .compaction import Compacted

if TYPE_CHECKING:
    import duckdb

_OWN = ("label", "subgroup")


def drop_run(path: str | os.PathLike[str], name: str) -> None:
    """Undo an ingest: publish a generation without the run; `rollback` brings it back.

    Roles of its components stay beside the catalogue, where the same ingest again finds them, until
    a `compact` once no generation has the run. Raises `UnknownRun`, `AnnotationNotKept`, or
    `RunBusy` while a process writes it.
    """
    runs.drop_run(Layout(Path(path)), name)


def drop_zoo(path: str | os.PathLike[str], name: str) -> bool:
    """Publish a generation without a Rosetta zoo; `rollback` brings it back.

    Of a zoo whose mining never came to its end, what that has kept is removed for good: False
    then. Raises `UnknownZoo`, or `RunBusy` where such a zoo is being mined.
    """
    return zoos.drop_zoo(Layout(Path(path)), name)


def upgrade(path: str | os.PathLike[str]) -> int:
    """Publish a store of an older minor version in this one's format; return the generation.

    Arrays stay as they are, and so does a store that is in this format already. Raises
    `StoreNotFound`, `NotAStore` or `FormatTooNew`.
    """
    layout = Layout(Path(path))
    catalog.check_format(layout)
    published = catalog.current_generation(layout)
    if published and not _is_old(layout, published):
        return published
    with catalog.publishing(layout) as draft:
        return draft.generation


def compact(path: str | os.PathLike[str]) -> Compacted:
    """Take what readers left beside the catalogue into the next generation.

    Annotations, and over the store's own pools TEXTSPANs of whole runs (for each head the longest)
    and sparse codes of neurons, become rows; their files go once it is published, as do results of
    runs that no generation on disk has, or not as they were then. Everything else stays. Where
    nothing is to be taken in, no generation is published. Raises `StoreNotFound`, `NotAStore`,
    `FormatTooNew` or `FormatTooOld`.
    """
    return compaction.compact(Layout(Path(path)))


def rollback(path: str | os.PathLike[str], generation: int | None = None) -> int:
    """Publish an earlier generation again (by default the one before); return its new number.

    Annotations made since stay. Raises `GenerationNotFound` where it is no longer kept, or
    `AnnotationNotKept` where they could not stay.
    """
    return catalog.rollback(Layout(Path(path)), generation)


@dataclass(frozen=True)
class ColumnsAdded:
    """How many images got a row of the table, and how many of the store's got none (`without`).

    `unmatched` are the keys or ids of the rows for which there is no image.
    """

    images: int
    without: int
    unmatched: list[str]


def add_columns(path: str | os.PathLike[str], table: Any, *, on: str = "key") -> ColumnsAdded:
    """Add columns to the images of a store, such as labels that came later.

    `table` is a CSV or Parquet file, a data frame or an Arrow table with one row an image: the
    column `on` (`key` or `image_id`) finds the image, `label` and `subgroup` (or `group`) are
    written over, further ones are added to the view `images`. Images that it does not name
    keep what they have. Raises `BadColumns` for a table that does not fit.
    """
    layout = Layout(Path(path))
    catalog.check_format(layout)
    rows = _read(table)
    names = [
        "subgroup" if name == "group" and "subgroup" not in rows.column_names else name
        for name in rows.column_names
    ]
    rows = rows.rename_columns(names)
    _check(names, on)
    with catalog.publishing(layout) as draft:
        draft.session.flush()
        connection = draft.connection
        connection.register("given", rows)
        connection.execute(
            f"""CREATE TEMP TABLE matched AS
                SELECT image.image_id, dataset.name AS dataset, given.* EXCLUDE ("{on}")
                FROM given JOIN image ON image."{on}" = given."{on}"
                JOIN dataset USING (dataset_id)"""
        )
        found = _matched(connection, on)
        for name in [name for name in _OWN if name in names]:
            connection.execute(
                f"""UPDATE image SET "{name}" = matched."{name}"::VARCHAR FROM matched
                    WHERE matched.image_id = image.image_id"""
            )
        further = [name for name in names if name not in (*_OWN, on)]
        if further:
            _add_further(draft, further)
        connection.execute("DROP TABLE matched")
        connection.unregister("given")
    return found


def _is_old(layout: Layout, generation: int) -> bool:
    connection = connect(layout.catalog(generation))
    try:
        check_catalog(layout.root, connection)
    except FormatTooOld:
        return True
    finally:
        connection.close()
    return False


def _add_further(draft: catalog.Draft, names: list[str]) -> None:
    connection = draft.connection
    datasets = connection.execute("SELECT DISTINCT dataset FROM matched").fetchall()
    quoted = ", ".join(f'"{name}"' for name in names)
    for (dataset,) in datasets:
        table = MANIFEST + dataset
        rows = connection.sql(
            f"SELECT image_id, {quoted} FROM matched WHERE dataset = ?", params=[dataset]
        ).to_arrow_table()
        exists = connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE table_name = ?", [table]
        ).fetchall()
        if not exists:
            draft.extend_by_name(table, rows)
            continue
        spelled = {name.lower(): name for (name,) in exists}
        known = set(spelled.values())
        rows = rows.rename_columns([spelled.get(n.lower(), n) for n in rows.column_names])
        names = [spelled.get(name.lower(), name) for name in names]
        connection.register("incoming", rows)
        old = ", ".join(f'm."{name}"' for name in known - {"image_id", *names})
        new = ", ".join(
            f'CASE WHEN n.image_id IS NULL THEN m."{name}" ELSE n."{name}" END AS "{name}"'
            if name in known
            else f'n."{name}"'
            for name in names
        )
        connection.execute(
            f"""CREATE OR REPLACE TABLE "{table}" AS
                SELECT coalesce(m.image_id, n.image_id) AS image_id,
                       {", ".join(filter(None, (old, new)))}
                FROM "{table}" m FULL JOIN incoming n ON n.image_id = m.image_id"""
        )
        connection.unregister("incoming")


def _check(names: list[str], on: str) -> None:
    if on not in ("key", "image_id"):
        msg = (
            f"--on takes key or image_id, not {on!r}; rename the column of the table that finds "
            "the images to the one of these that it holds."
        )
        raise BadColumns(msg)
    if on not in names:
        msg = (
            f"the table has no column {on!r} to find images by (its columns: "
            f"{', '.join(names)}); it takes `key`, or `image_id` with --on image_id."
        )
        raise BadColumns(msg)
    if any('"' in name for name in names) or len({name.lower() for name in names}) < len(names):
        msg = f"columns {', '.join(names)}: names must differ beyond their case and hold no quote."
        raise BadColumns(msg)
    taken = sorted((RESERVED_COLUMNS - set(_OWN) - {on}) & {name.lower() for name in names})
    if taken:
        msg = f"columns {', '.join(taken)} belong to the view `images`; rename yours."
        raise BadColumns(msg)
    if len(names) == 1:
        msg = f"the table has only {on!r}; give it the columns to add."
        raise BadColumns(msg)


def _matched(connection: duckdb.DuckDBPyConnection, on: str) -> ColumnsAdded:
    numbers = connection.execute(
        """SELECT count(*), count(DISTINCT image_id), (SELECT count(*) FROM image) FROM matched"""
    ).fetchone()
    rows, images, everything = numbers or (0, 0, 0)
    if rows == 0:
        msg = f"no image of the store has a {on} of the table; nothing was changed."
        raise BadColumns(msg)
    if rows != images:
        msg = f"{rows - images} rows name an image again by {on}; each image may be named once."
        raise BadColumns(msg)
    unmatched = connection.execute(
        f"""SELECT given."{on}"::VARCHAR
            FROM given ANTI JOIN image ON image."{on}" = given."{on}" """
    ).fetchall()
    return ColumnsAdded(images, everything - images, [str(name) for (name,) in unmatched])


def _read(table: Any) -> Any:
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    if isinstance(table, str | os.PathLike):
        path = Path(table)
        try:
            if path.suffix.lower() == ".parquet":
                from pyarrow import parquet

                return parquet.read_table(path)
            from pyarrow import csv

            return csv.read_csv(path)
        except (OSError, pa.ArrowInvalid) as error:
            msg = f"{path} cannot be read as CSV or Parquet: {error}"
            raise BadColumns(msg) from error
    if hasattr(table, "__arrow_c_stream__"):
        return pa.table(table)
    msg = f"columns come as a CSV or Parquet file or a data frame, not {type(table).__name__}."
    raise BadColumns(msg)
