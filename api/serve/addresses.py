"""Addresses of pages with their questions: `/runs/r/images?text=a+red+circle&offset=60`."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode


def part(name: object) -> str:
    """One segment of a path, quoted."""
    return quote(str(name), safe="")


def segments(name: object) -> str:
    """Several segments of a path, quoted: a unit's address has slashes and colons of its own."""
    return quote(str(name), safe="/:@,")


def address(path: str, asked: dict[str, Any] | None = None, **more: Any) -> str:
    """A path with a query; what is None, empty, False or 0 is left out, lists are repeated."""
    given = {name: value for name, value in ((asked or {}) | more).items() if value}
    query = urlencode(given, doseq=True)
    return f"{path}?{query}" if query else path
