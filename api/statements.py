"""What somebody's SQL may be: one query, or the plan of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..schema.errors import BadSQL

if TYPE_CHECKING:
    import duckdb

# Possessive: whatever a comment holds, there is one way only to read it.
_SPACE = r"(?>\s|--[^\r\n]*+|/\*.*?\*/)*+"
_EXPLAIN = re.compile(
    rf"{_SPACE}EXPLAIN\b{_SPACE}(?P<analyze>ANALYZE\b)?{_SPACE}"
    r"(?:\((?P<options>\s*(?:ANALYZE|FORMAT)\b[\w\s,]*)\))?",
    re.IGNORECASE | re.DOTALL,
)


def only_query(cursor: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """The one statement of a query, parsed; raises `BadSQL` for anything else.

    `duckdb.Error` for what cannot be parsed is the caller's to name.
    """
    import duckdb

    kinds = duckdb.StatementType
    statement = _single(cursor, sql)
    if statement.type == kinds.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains, be it a COPY into one of the catalogue's files.
        prefix, rest = _split_explain(sql)
        if _single(cursor, rest).type == kinds.SELECT:
            return _single(cursor, f"{prefix}\n{rest}")
        msg = "EXPLAIN takes a query: write EXPLAIN SELECT, or EXPLAIN ANALYZE SELECT."
        raise BadSQL(msg)
    if statement.type == kinds.SELECT:
        return statement
    if statement.type == kinds.MULTI:
        msg = "a PIVOT has to name its columns: write PIVOT ... ON label IN ('circle', 'square')."
        raise BadSQL(msg)
    msg = (
        f"a store is read-only and answers queries, not {statement.type.name} statements: "
        "write SELECT, FROM, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN."
    )
    raise BadSQL(msg)


def _single(cursor: duckdb.DuckDBPyConnection, sql: str) -> Any:
    statements = cursor.extract_statements(sql)
    if len(statements) != 1:
        msg = f"this holds {len(statements)} statements; ask one query at a time."
        raise BadSQL(msg)
    return statements[0]


def _split_explain(sql: str) -> tuple[str, str]:
    """An EXPLAIN as words of ours that do the same, and what it explains."""
    match = _EXPLAIN.match(sql)
    if match is None:
        msg = "EXPLAIN takes a query: write EXPLAIN SELECT, or EXPLAIN ANALYZE SELECT."
        raise BadSQL(msg)
    options = f" ({match['options']})" if match["options"] else ""
    return f"EXPLAIN{' ANALYZE' if match['analyze'] else ''}{options}", sql[match.end() :]
