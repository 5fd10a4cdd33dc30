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
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
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

    @cached_property
    def rows(self) -> pa.Table | None:
        """Its rows, read once; None where its file is gone or damaged by then."""
        return _rows(self.path, self.parameters)


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
        # A read-only file system refuses to remove even what is not there.
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    return True


def derived_results(layout: Layout, table: str) -> list[DerivedResult]:
    """All whole results of a table, by fingerprint; damaged files are passed over."""
    paths = sorted(layout.derived(table, "").parent.glob("*.parquet"))
    return [found for path in paths if (found := derived_result(path)) is not None]


def derived_result(path: Path) -> DerivedResult | None:
    """What one file under `derived/TABLE` is; None where it is gone or damaged."""
    parameters = _parameters(path)
    if parameters is None:
        return None
    return DerivedResult(path.parent.name, path.stem, parameters, path)


def run_content(
    layout: Layout, folder: str, *, segments: Iterable[int], finished_at: datetime | None
) -> str:
    """Hash of what a run holds: the manifests of its segments, and when it was completed.

    A segment that is made again from changed images has another manifest. The time tells a
    reader who opened the run before from one who opened it after.
    """
    found = hashlib.sha256(str(finished_at).encode())
    for segment in segments:
        found.update(b"%d:" % segment)
        with suppress(OSError):
            found.update(hashlib.sha256(layout.manifest(folder, segment).read_bytes()).digest())
    return found.hexdigest()


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
        found = json.loads((metadata or {})[_FACTS])
    except (KeyError, ValueError):
        return None
    return found if isinstance(found, dict) else None
