"""SQL on the store's read-only, locked connection: one query at a time, each on its own cursor."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSQL

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from .derived_views import DerivedViews

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any] | None

SECONDS = 60.0


class Console:
    """Runs queries; safe to use from several threads."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, *, derived: DerivedViews | None = None
    ) -> None:
        self._connection = connection
        self._derived = derived

    def query(
        self, sql: str, parameters: Parameters = None, *, seconds: float = SECONDS
    ) -> pa.Table:
        """Run somebody's query, which sees derived results beside the catalogue's own.

        Raises `BadSQL` for what is no query, fails or takes long.
        """
        import duckdb

        cursor = self._connection.cursor()
        try:
            statement = _only_query(cursor, sql)
            if self._derived is not None:
                self._derived.show(cursor, sql)
            with time_limit(cursor, seconds):
                found = cursor.sql(statement, params=_plain(parameters)).to_arrow_table()
        except duckdb.InterruptException as error:
            msg = f"the query took longer than {seconds:g} s and was stopped; ask for less."
            raise BadSQL(msg) from error
        except duckdb.Error as error:
            msg = f"DuckDB cannot run this query: {error}"
            raise BadSQL(msg) from error
        except (TypeError, UnicodeError) as error:
            msg = f"this is no query with parameters that DuckDB can take: {error}"
            raise BadSQL(msg) from error
        finally:
            cursor.close()
        return _without_wide_integers(found)

    def rows(self, sql: str, parameters: Parameters = None) -> list[tuple[Any, ...]]:
        """Rows of a query of ours."""
        cursor = self._connection.cursor()
        try:
            return cursor.execute(sql, _plain(parameters)).fetchall()
        finally:
            cursor.close()

    def columns(
        self, sql: str, parameters: Parameters = None, *, seconds: float = SECONDS
    ) -> dict[str, npt.NDArray[Any]]:
        """Columns of a query of ours as arrays."""
        cursor = self._connection.cursor()
        try:
            with time_limit(cursor, seconds):
                found = cursor.execute(sql, _plain(parameters)).fetchnumpy()
            return {name: np.asarray(column) for name, column in found.items()}
        finally:
            cursor.close()

    def types(self, sql: str, parameters: Parameters = None) -> dict[str, str]:
        """The columns of a query of ours and their DuckDB types, without running it."""
        cursor = self._connection.cursor()
        try:
            cursor.execute(f"SELECT * FROM ({sql}) LIMIT 0", _plain(parameters))
            return {column[0]: str(column[1]) for column in cursor.description or ()}
        finally:
            cursor.close()

    def statements(self, sql: str) -> list[Any]:
        """Parse SQL into its statements, running none of it."""
        cursor = self._connection.cursor()
        try:
            return list(cursor.extract_statements(sql))
        finally:
            cursor.close()


@contextmanager
def time_limit(cursor: duckdb.DuckDBPyConnection, seconds: float) -> Generator[None]:
    """Interrupt what a cursor runs after some seconds; raises `duckdb.InterruptException` then."""
    # No daemon: one that is about to end must not hold a cursor while the interpreter ends.
    timer = threading.Timer(seconds, cursor.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _only_query(cursor: duckdb.DuckDBPyConnection, sql: str) -> Any:
    import duckdb

    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        msg = f"this holds {len(statements)} statements; ask one query at a time."
        raise BadSQL(msg)
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        msg = (
            f"a store is read-only and answers queries, not {kind.name} statements: "
            "write SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN."
        )
        raise BadSQL(msg)
    return statements[0]


def _plain(parameters: Parameters) -> Any:
    """NumPy numbers as Python ones, which DuckDB binds by value and type."""
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        return {name: _plain_value(value) for name, value in parameters.items()}
    return [_plain_value(value) for value in parameters]


def _plain_value(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _without_wide_integers(table: pa.Table) -> pa.Table:
    """DuckDB's sums are 128 bits wide and would come out as decimals."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            try:
                narrow = table.column(place).cast(pa.int64())
            except pa.ArrowInvalid:
                continue
            table = table.set_column(place, field.name, narrow)
    return table
