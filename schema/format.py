"""The store's format: which version this is, and whether a folder is a store it reads.

A module of its own, so that opening a store does not import SQLAlchemy.
"""

from __future__ import annotations

from . import durable
from .errors import FormatTooNew, NotAStore, StoreNotFound
from .layout import Layout

FORMAT_MAJOR = 1
FORMAT_MINOR = 0


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
