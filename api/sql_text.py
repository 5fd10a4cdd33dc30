"""Texts and names as DuckDB can take them."""

from __future__ import annotations


def encodable(text: str) -> bool:
    """Whether a text has UTF-8: a lone surrogate, as of an argument with broken bytes, has none."""
    return text.encode(errors="replace").decode() == text


def quoted(name: str) -> str:
    """A column's name as SQL writes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'
