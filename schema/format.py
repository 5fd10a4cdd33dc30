"""The store's format: which version this is, and whether a folder is a store it reads.

A module of its own, so that opening a store does not import SQLAlchemy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import durable
from .errors import FormatTooNew, FormatTooOld, NotAStore, StoreNotFound
from .layout import Layout

if TYPE_CHECKING:
    import duckdb

FORMAT_MAJOR = 1
FORMAT_MINOR = 3


def check_format(layout: Layout) -> None:
    """Raise `StoreNotFound`, `NotAStore` or `FormatTooNew` unless this version can read it."""
    if not layout.root.exists():
        msg = (
            f"there is no store at {layout.root}; "
            f"`lensbase ingest {layout.root} IMAGES --model MODEL` makes one, "
            "and `lensbase demo` one with the embedded world."
        )
        raise StoreNotFound(msg)
    if not layout.marker.exists():
        msg = f"{layout.root} is not a lensbase store: it has no {layout.marker.name}."
        raise NotAStore(msg)
    marker = durable.read_json(layout.marker)
    if marker["format_major"] > FORMAT_MAJOR:
        msg = (
            f"{layout.root} has format {marker['format_major']}.{marker['format_minor']}, this "
            f"lensbase reads up to {FORMAT_MAJOR}; `pip install --upgrade lensbase`."
        )
        raise FormatTooNew(msg)


def check_catalog(root: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Raise `FormatTooOld` where a catalogue lacks tables or columns that this version reads."""
    found = connection.execute("SELECT format_minor FROM lens_info").fetchone()
    if found is None or found[0] < FORMAT_MINOR:
        minor = found[0] if found else 0
        msg = (
            f"{root} has format {FORMAT_MAJOR}.{minor}, this lensbase reads "
            f"{FORMAT_MAJOR}.{FORMAT_MINOR}; `lensbase upgrade {root}` publishes its catalogue in "
            "that format and leaves the arrays as they are."
        )
        raise FormatTooOld(msg)
