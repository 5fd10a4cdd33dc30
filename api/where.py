"""`where=`: one boolean SQL expression over the view `images`, and nothing more than that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSelection
from .console import Console, Parameters

Where: TypeAlias = str | tuple[str, Sequence[Any] | Mapping[str, Any]] | None


def rows_where(console: Console, run: str, where: Where) -> npt.NDArray[np.int64]:
    """The rows of a run whose images meet an expression, in no order.

    Raises `BadSelection` unless it is one boolean expression over the view's columns.
    """
    import duckdb

    expression, parameters = _parts(where)
    # A run's name holds no quote: see `schema.components.check_name`.
    view = f"(SELECT * FROM images WHERE run = '{run}') AS images"
    try:
        check_expression(console, expression)
        typed = f"SELECT (\n{expression}\n) AS wanted FROM {view}"
        kind = console.types(typed, parameters)["wanted"]
        if kind != "BOOLEAN":
            msg = f"where={expression!r} is {kind}, not true or false; compare it with something."
            raise BadSelection(msg)
        found = console.columns(
            f'SELECT images."row" AS "row" FROM {view} WHERE (\n{expression}\n)', parameters
        )
    except duckdb.InterruptException as error:
        msg = f"where={expression!r} took too long and was stopped."
        raise BadSelection(msg) from error
    except (duckdb.Error, TypeError, UnicodeError) as error:
        columns = console.types("SELECT * FROM images")
        msg = (
            f"where={expression!r} is no expression over the images: {error}\n"
            f"The columns are {', '.join(columns)}."
        )
        raise BadSelection(msg) from error
    return np.asarray(found["row"], np.int64)


def _parts(where: Where) -> tuple[str, Parameters]:
    if isinstance(where, str):
        return where, None
    parts: tuple[Any, ...] = where if isinstance(where, tuple) else ()
    if len(parts) == 2 and isinstance(parts[0], str):
        return parts[0], parts[1]
    msg = f"where={where!r} is neither an SQL expression nor (expression, parameters)."
    raise BadSelection(msg)


def check_expression(console: Console, expression: str) -> None:
    """Refuse what only closes the parenthesis it is put in: `true) OR (true`, `1 THEN 1 END`.

    An expression parses between parentheses and in a CASE alike; a text that leaves the one
    does not parse in the other. Raises `BadSelection`, or DuckDB's error for what does not parse.
    """
    for around in ("SELECT 1 WHERE (\n{}\n)", "SELECT CASE WHEN\n{}\nTHEN 1 END"):
        statements = console.statements(around.replace("{}", expression))
        if len(statements) != 1 or statements[0].type.name != "SELECT":
            msg = f"where={expression!r} is more than one expression."
            raise BadSelection(msg)
