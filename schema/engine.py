"""The SQLAlchemy engine that drafts of the catalogue are written through."""

from __future__ import annotations

import atexit
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Engine


def open_engine(path: Path) -> Engine:
    """Open a database file for writing, on one connection."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    _end_quietly()
    return create_engine(f"duckdb:///{path}", poolclass=StaticPool)


@cache
def _end_quietly() -> None:
    # Where torch is loaded, the dialect's module outlives the interpreter, and DuckDB's bindings
    # print every object that it still holds as leaked.
    atexit.register(lambda: vars(sys.modules["duckdb_sqlalchemy"]).clear())
