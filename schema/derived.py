"""Derived results: what readers computed after an ingest, kept beside the catalogue.

A result is one Parquet file, `derived/TABLE/FINGERPRINT.parquet`, written under a temporary name
and renamed: any reader may add one, nobody can half-write one, and where nothing can be
written only the cache is lost. The fingerprint covers everything that the result depends on.
"""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import durable
from .layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa

_FACTS = b"lensbase"


@dataclass(frozen=True)
class DerivedResult:
    """One result: its table and fingerprint, and the parameters it was computed from."""

    table: str
    fingerprint: str
    parameters: dict[str, Any]
    path: Path


def fingerprint(parameters: Mapping[str, Any]) -> str:
    """Hash of everything that a result depends on; the order of keys does not matter."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_derived(layout: Layout, table: str, parameters: Mapping[str, Any]) -> pa.Table | None:
    """The rows of a result, or None where it is not kept or its file is damaged."""
    return _rows(layout.derived(table, fingerprint(parameters)), parameters)


def write_derived(
    layout: Layout, table: str, parameters: Mapping[str, Any], *, rows: pa.Table
) -> bool:
    """Keep a result; False where the store cannot be written to, which is no error."""
    from pyarrow import parquet

    path = layout.derived(table, fingerprint(parameters))
    facts = {_FACTS: json.dumps(dict(parameters), sort_keys=True).encode()}
    partial = path.with_name(f"{path.name}.{os.getpid()}{durable.PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(rows.replace_schema_metadata(facts), partial, compression="zstd")
        durable.sync_file(partial)
        partial.replace(path)
        durable.sync_directory(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    return True


def derived_results(layout: Layout, table: str) -> list[DerivedResult]:
    """All whole results of a table, by fingerprint; damaged files are passed over."""
    found: list[DerivedResult] = []
    for path in sorted(layout.derived(table, "").parent.glob("*.parquet")):
        parameters = _parameters(path)
        if parameters is not None:
            found.append(DerivedResult(table, path.stem, parameters, path))
    return found


def _rows(path: Path, parameters: Mapping[str, Any]) -> pa.Table | None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    return table if _decoded(table.schema.metadata) == json.loads(json.dumps(parameters)) else None


def _parameters(path: Path) -> dict[str, Any] | None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return _decoded(parquet.read_schema(path).metadata)
    except (OSError, pa.ArrowException):
        return None


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any] | None:
    try:
        return json.loads((metadata or {})[_FACTS])
    except (KeyError, ValueError):
        return None
