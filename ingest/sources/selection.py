"""Some rows of a source: by a SQL condition, by number, or both."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...schema.errors import BadWhere, NoImages
from .protocol import Source

Rows = npt.NDArray[np.int64]


class Selection:
    """Rows of another source, in its order; otherwise the same."""

    def __init__(self, source: Source, rows: Rows) -> None:
        self.kind, self.root = source.kind, source.root
        self._source, self._rows = source, rows
        self._table = source.table().take(pa.array(rows))

    def table(self) -> pa.Table:
        """The selected rows of the source's table."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one selected image; raises `OSError`."""
        return self._source.read(int(self._rows[row]))


def select(source: Source, *, limit: int | None = None, where: str | None = None) -> Source:
    """The rows of `source` for which `where` holds, and of these the first `limit`.

    `where` is a boolean SQL expression over the columns of `source.table()`; `"group"` and `path`
    are other names of `subgroup` and `key`, and subqueries may read the table as `images`.
    Raises `BadWhere` with the database's message, and `NoImages` where nothing is left.
    """
    if limit is not None and limit < 1:
        msg = f"a limit of {limit} leaves no images: give at least 1"
        raise NoImages(msg)
    rows = np.arange(source.table().num_rows, dtype=np.int64)
    if where is not None:
        rows = matching(source.table(), where)
        if not len(rows):
            msg = f"no image of {source.root} matches where={where!r}"
            raise NoImages(msg)
    rows = rows[:limit]
    return source if len(rows) == source.table().num_rows else Selection(source, rows)


def matching(table: pa.Table, where: str) -> Rows:
    """Numbers of the rows of `table` for which `where` holds, int64 [n], ascending."""
    names = {name.lower() for name in table.column_names}
    aliases = [
        f'"{column}" AS "{alias}"'
        for column, alias in (("subgroup", "group"), ("key", "path"))
        if column in names and alias not in names
    ]
    number = "row"
    while number in names:
        number = f"_{number}"
    numbered = table.append_column(number, pa.array(np.arange(table.num_rows)))
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "enable_external_access": "false",
        "python_enable_replacements": "false",
        "threads": "1",
    }
    with duckdb.connect(":memory:", config=settings) as connection:
        connection.register("images", table)
        connection.register("numbered", numbered)
        columns = ", ".join(["*", *aliases])

        def answer() -> Rows:
            relation = connection.sql(f"SELECT {columns} FROM numbered").filter(where)
            found = relation.select(duckdb.ColumnExpression(number)).fetchnumpy()[number]
            return np.sort(np.asarray(found, dtype=np.int64))

        try:
            rows = answer()
            again = answer()
        except duckdb.Error as error:
            listed = ", ".join(table.column_names)
            told = str(error).strip()
            msg = f"where={where!r} is no condition on the columns {listed}: {told}"
            raise BadWhere(msg) from error
    if not np.array_equal(rows, again):
        msg = f"where={where!r} does not choose the same rows each time: it must not be random"
        raise BadWhere(msg)
    return rows
