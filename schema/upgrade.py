"""Bringing the catalogue of an older minor version up to this one: tables and columns are added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rosetta_tables import metadata

if TYPE_CHECKING:
    from sqlalchemy import Column, Connection


def upgrade_catalog(connection: Connection) -> None:
    """Add every table and column that a catalogue being published still lacks."""
    known: dict[str, set[str]] = {}
    for table, column in connection.exec_driver_sql(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
    ):
        known.setdefault(table, set()).add(column)
    for table in metadata.sorted_tables:
        if table.name not in known:
            table.create(connection)
            continue
        for column in table.columns:
            if column.name not in known[table.name]:
                kind = f"{column.type.compile(connection.dialect)}{_default(column)}"
                connection.exec_driver_sql(
                    f'ALTER TABLE "{table.name}" ADD COLUMN "{column.name}" {kind}'
                )


def _default(column: Column[object]) -> str:
    if column.server_default is None:
        return ""
    argument = getattr(column.server_default, "arg", None)
    return f" DEFAULT '{getattr(argument, 'text', argument)}'"
