"""SQL on the store's read-only, locked connection: one query at a time, each on its own cursor."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSQL
from ..schema.snapshot import QUERY_MEMORY
from .printing import human_bytes
from .statements import only_query

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from .derived_views import DerivedViews
    from .sql_functions import SqlFunctions

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any] | None

SECONDS = 60.0
_BATCH = 1_000  # rows
_LESS = (
    "queries may take: ask for fewer rows or columns, or let the query add them up. DuckDB's own "
    "clients open current/lens.duckdb without this limit."
)
_RAISED = re.compile(
    r".*?Python exception occurred while executing the UDF: \w+: (?P<message>.*)", re.DOTALL
)


@dataclass(frozen=True)
class Most:
    """How much of an answer is taken."""

    rows: int
    bytes: int


class Console:
    """Runs queries; safe to use from several threads.

    What is somebody's query sees `derived` results and `functions` of ours.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        derived: DerivedViews | None = None,
        functions: SqlFunctions | None = None,
    ) -> None:
        self._connection = connection
        self._derived = derived
        self._functions = functions

    def query(
        self, sql: str, parameters: Parameters = None, *, seconds: float = SECONDS
    ) -> pa.Table:
        """Run somebody's query, which sees derived results beside the catalogue's own.

        Raises `BadSQL` for what is no query, fails or takes long.
        """
        return self._asked(sql, parameters, seconds=seconds, take=_answer)

    def query_some(
        self, sql: str, parameters: Parameters = None, *, most: Most, seconds: float = SECONDS
    ) -> tuple[pa.Table, bool]:
        """The first rows of somebody's query, no more than `most`, and whether there are more.

        Raises what `query` raises, and `BadSQL` for a row that is too large by itself.
        """
        cut = False

        def some(found: Any) -> pa.Table:
            nonlocal cut
            table, cut = _first(found, most)
            return table

        return self._asked(sql, parameters, seconds=seconds, take=some), cut

    def _asked(
        self, sql: str, parameters: Parameters, *, seconds: float, take: Callable[[Any], pa.Table]
    ) -> pa.Table:
        import duckdb

        cursor = self._connection.cursor()
        try:
            statement = only_query(cursor, sql)
            if self._derived is not None:
                self._derived.show(cursor, sql)
            if self._functions is not None:
                self._functions.show(cursor, sql)
            with time_limit(cursor, seconds):
                found = take(cursor.sql(statement, params=_plain(parameters)))
        except duckdb.OutOfMemoryException as error:
            msg = f"the query needs more than the {human_bytes(QUERY_MEMORY)} that {_LESS}"
            raise BadSQL(msg) from error
        except duckdb.InterruptException as error:
            msg = f"the query took longer than {seconds:g} s and was stopped; ask for less."
            raise BadSQL(msg) from error
        except duckdb.Error as error:
            raise BadSQL(_told(error)) from error
        except BadSQL:
            raise
        except (TypeError, ValueError) as error:
            msg = f"this is no query with parameters that DuckDB can take: {error}"
            raise BadSQL(msg) from error
        finally:
            cursor.close()
        return _without_wide_integers(_with_own_names(found))

    @contextmanager
    def stream(self, sql: str, *, rows: int) -> Generator[pa.RecordBatchReader]:
        """Read a query of ours in batches of so many rows, derived results among them."""
        cursor = self._connection.cursor()
        try:
            if self._derived is not None:
                self._derived.show(cursor, sql)
            yield cursor.sql(sql).to_arrow_reader(rows)
        finally:
            cursor.close()

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


def _size(batch: pa.RecordBatch, rows: int) -> int:
    return batch.slice(0, rows).nbytes


def _first(found: Any, most: Most) -> tuple[pa.Table, bool]:
    import pyarrow as pa

    reader = found.limit(most.rows + 1).to_arrow_reader(_BATCH)
    batches: list[pa.RecordBatch] = []
    left = Most(most.rows, most.bytes)
    for batch in reader:
        rows = min(batch.num_rows, left.rows)
        if batch.nbytes > left.bytes:
            rows = bisect_right(range(rows + 1), left.bytes, key=partial(_size, batch)) - 1
        if rows < batch.num_rows and not rows and not batches:
            msg = f"one row takes more than {most.bytes:,} bytes; ask for fewer columns."
            raise BadSQL(msg)
        part = batch.slice(0, rows)
        batches.append(part)
        if rows < batch.num_rows:
            return pa.Table.from_batches(batches, reader.schema), True
        left = Most(left.rows - rows, left.bytes - part.nbytes)
    return pa.Table.from_batches(batches, reader.schema), False


def _answer(found: Any) -> pa.Table:
    """All rows of a query; raises `BadSQL` where they are more than may be held."""
    import pyarrow as pa

    reader = found.to_arrow_reader(_BATCH)
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in reader:
        size += batch.nbytes
        if size > QUERY_MEMORY:
            msg = f"the answer is larger than the {human_bytes(QUERY_MEMORY)} that {_LESS}"
            raise BadSQL(msg)
        batches.append(batch)
    return pa.Table.from_batches(batches, reader.schema)


def _told(error: duckdb.Error) -> str:
    """DuckDB's message, or that of a function of ours, which DuckDB quotes."""
    own = _RAISED.match(str(error))
    return own["message"] if own else f"DuckDB cannot run this query: {error}"


def _plain(parameters: Parameters) -> Any:
    """NumPy numbers as Python ones, which DuckDB binds by value and type."""
    if parameters is None:
        return None
    if isinstance(parameters, Mapping):
        return {name: _plain_value(value) for name, value in parameters.items()}
    return [_plain_value(value) for value in parameters]


def _plain_value(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _with_own_names(table: pa.Table) -> pa.Table:
    """Columns of one name told apart as DuckDB does it: `run`, `run_1`."""
    taken = set(table.column_names)
    if len(taken) == table.num_columns:
        return table
    names: list[str] = []
    for name in table.column_names:
        own, number = name, 1
        while own in names or (own != name and own in taken):
            own, number = f"{name}_{number}", number + 1
        names.append(own)
    return table.rename_columns(names)


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
