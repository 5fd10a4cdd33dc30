"""Derived results in SQL: shown beside the catalogue's own rows where a query asks for them."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.codes import CODE_VERSION
from ..schema.derived import DerivedResult, derived_result, run_content
from ..schema.layout import Layout
from ..schema.role_files import ANNOTATION, annotation_columns

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

HEAD_TEXT, NEURON_TEXT, DERIVED = "head_text", "neuron_text", "derived"

# What makes a row of the catalogue and one of a file the same. The coefficients of a code belong
# together, and all codes of a layer are written at once.
KEYS = {
    ANNOTATION: ("run_id", "component", "created_at"),
    HEAD_TEXT: ("run_id", "layer", "head", "pool_id", "rank"),
    NEURON_TEXT: ("run_id", "layer", "pool_id", "m", "centered", "version"),
    DERIVED: ("relation", "fingerprint"),
}
# Relations that a query may name, and the table that they are views of.
_ASKED = {
    "annotation": ANNOTATION,
    "annotations": ANNOTATION,
    "head_text": HEAD_TEXT,
    "head_texts": HEAD_TEXT,
    "heads": HEAD_TEXT,
    "neuron_text": NEURON_TEXT,
    "neuron_texts": NEURON_TEXT,
    "neurons": NEURON_TEXT,
    "derived": DERIVED,
    "derived_results": DERIVED,
}
_NAMES = re.compile(rf"\b({'|'.join(_ASKED)})\b", re.IGNORECASE)
# Parameters that say which run a result is of, and the columns they must agree with.
_SAME_RUN = {
    "run_id": "run_id",
    "run_fingerprint": "fingerprint",
    "keys_sha256": "keys_sha256",
    "weights_sha256": "weights_sha256",
}


@dataclass(frozen=True)
class Known:
    """The runs and pools of one catalogue, by name: what results must fit to be shown in it."""

    layout: Layout
    runs: Mapping[str, Mapping[str, Any]]
    pools: Mapping[str, tuple[int, str]]
    contents: dict[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, layout: Layout, connection: duckdb.DuckDBPyConnection) -> Known:
        """Read them from an open catalogue of a store."""
        found = connection.execute(
            """SELECT r.name, r.run_id, r.folder, r.fingerprint, r.keys_sha256, r.status,
                      r.finished_at, m.weights_sha256,
                      (SELECT list(segment ORDER BY segment) FROM segment s
                       WHERE s.run_id = r.run_id) AS segments
               FROM run r JOIN model m USING (model_id)"""
        )
        names = [column[0] for column in found.description or ()]
        runs = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        pools = connection.execute("SELECT name, pool_id, sha256 FROM pool").fetchall()
        by_name = {run["name"]: run for run in runs}
        return cls(layout, by_name, {row[0]: row[1:] for row in pools})

    def run_of(self, result: DerivedResult) -> Mapping[str, Any] | None:
        """The run that a result was computed from, as it is now; None where it is another."""
        run = self.runs.get(str(result.parameters.get("run")))
        if run is None:
            return None
        given = result.parameters
        agrees = (run[own] == given.get(name, run[own]) for name, own in _SAME_RUN.items())
        if not all(agrees):
            return None
        # Results of before it was written down may be of images that have changed since.
        content = given.get("content", None if result.table == ANNOTATION else "")
        return run if content is None or content == self._content(run) else None

    def pool_of(self, result: DerivedResult) -> int | None:
        """The catalogue's number of the very pool that a result's texts come from."""
        number, sha256 = self.pools.get(str(result.parameters.get("pool")), (None, None))
        return number if result.parameters.get("pool_sha256") == sha256 else None

    def _content(self, run: Mapping[str, Any]) -> str:
        name = run["name"]
        if name not in self.contents:
            self.contents[name] = run_content(
                self.layout,
                run["folder"],
                segments=run["segments"] or (),
                finished_at=run["finished_at"],
            )
        return self.contents[name]


def catalog_rows(
    table: str, results: Iterable[DerivedResult], known: Known
) -> tuple[pa.Table | None, list[DerivedResult]]:
    """Rows of results as the catalogue's table has them, and the results that fit into it."""
    found = {ANNOTATION: _annotations, HEAD_TEXT: _head_texts, NEURON_TEXT: _neuron_texts}
    return found[table](results, known)


class DerivedViews:
    """Lets a query's cursor see derived results as rows of the catalogue's tables and views."""

    def __init__(self, layout: Layout, connection: duckdb.DuckDBPyConnection) -> None:
        self._layout = layout
        self._connection = connection
        # Results never change: a file is read once, and stays known after `compact` took it.
        self._results: dict[Path, DerivedResult | None] = {}
        self._rows: dict[str, tuple[frozenset[Path], pa.Table | None]] = {}

    def show(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Put temporary views of the same names before the tables that a query's text names."""
        for table in sorted({_ASKED[name.lower()] for name in _NAMES.findall(sql)}):
            rows = self._rows_of(table)
            if rows is None or not rows.num_rows:
                continue
            own = f'"{self._database}".main."{table}"'
            cursor.register(f"derived_{table}", rows)
            cursor.execute(
                f"""CREATE TEMP VIEW "{table}" AS
                    SELECT * FROM {own} UNION ALL BY NAME
                    SELECT * FROM temp."derived_{table}" ANTI JOIN {own}
                    USING ({", ".join(KEYS[table])})"""
            )

    @cached_property
    def _known(self) -> Known:
        return Known.of(self._layout, self._connection.cursor())

    @cached_property
    def _database(self) -> str:
        found = self._connection.cursor().execute("SELECT current_database()").fetchone()
        assert found is not None
        return found[0]

    def _rows_of(self, table: str) -> pa.Table | None:
        paths = frozenset(self._seen(table))
        if not paths:
            return None
        if self._rows.get(table, (None, None))[0] != paths:
            results = [found for path in sorted(paths) if (found := self._results[path])]
            shown = (
                _of_all(results, self._known)
                if table == DERIVED
                else catalog_rows(table, results, self._known)[0]
            )
            self._rows[table] = (paths, shown)
        return self._rows[table][1]

    def _seen(self, table: str) -> list[Path]:
        """Files of a table that are there or were; of all but annotations for `derived`."""
        folder = self._layout.derived(table, "").parent
        pattern = "*/*.parquet" if table == DERIVED else "*.parquet"
        for path in (folder.parent if table == DERIVED else folder).glob(pattern):
            if path not in self._results:
                self._results[path] = derived_result(path)
        return [
            path
            for path in self._results
            if (path.parent.name != ANNOTATION if table == DERIVED else path.parent == folder)
        ]


def _annotations(
    results: Iterable[DerivedResult], known: Known
) -> tuple[pa.Table | None, list[DerivedResult]]:
    import pyarrow as pa

    found: list[pa.Table] = []
    fitting: list[DerivedResult] = []
    for result in results:
        run = known.run_of(result)
        rows = None if run is None else _fitting(result, annotation_columns())
        if run is None or rows is None:
            continue
        fitting.append(result)
        number = pa.array([run["run_id"]] * rows.num_rows, pa.int32())
        found.append(rows.append_column("run_id", number))
    return (pa.concat_tables(found) if found else None), fitting


def _fitting(result: DerivedResult, columns: pa.Schema) -> pa.Table | None:
    """A result's rows with just these columns; None where it lacks one or has another kind."""
    import pyarrow as pa

    if result.rows is None:
        return None
    # A later minor version may add columns.
    try:
        rows = result.rows.select(columns.names).cast(columns)
    except (KeyError, ValueError, pa.ArrowException):
        return None
    needed = set(columns.names) - {"role", "source", "note"}
    return None if any(rows.column(name).null_count for name in needed) else rows


def _head_texts(
    results: Iterable[DerivedResult], known: Known
) -> tuple[pa.Table | None, list[DerivedResult]]:
    """TEXTSPAN of whole runs as `head_text` has it; of several for one head the longest."""
    import pyarrow as pa

    fitting: list[DerivedResult] = []
    longest: dict[tuple[int, int, int, int], pa.Table] = {}
    for result in results:
        run, pool = known.run_of(result), known.pool_of(result)
        if run is None or pool is None or not _as_in_catalogue(result, run):
            continue
        layer, head = result.parameters.get("layer"), result.parameters.get("head")
        rows = _fitting(result, _span_columns())
        if rows is None or not isinstance(layer, int) or not isinstance(head, int):
            continue
        fitting.append(result)
        key = (int(run["run_id"]), layer, head, pool)
        if key not in longest or rows.num_rows > longest[key].num_rows:
            longest[key] = rows
    found = [_keyed(rows, KEYS[HEAD_TEXT], key) for key, rows in longest.items()]
    return (pa.concat_tables(found) if found else None), fitting


def _neuron_texts(
    results: Iterable[DerivedResult], known: Known
) -> tuple[pa.Table | None, list[DerivedResult]]:
    """Sparse codes of whole layers as `neuron_text` has them, of this version alone."""
    import pyarrow as pa

    fitting: list[DerivedResult] = []
    found: dict[tuple[int, int, int, int, bool, int], pa.Table] = {}
    for result in results:
        run, pool = known.run_of(result), known.pool_of(result)
        if run is None or pool is None or run["status"] != "complete":
            continue
        if result.parameters.get("version") != CODE_VERSION:
            continue
        layer, m, center = (result.parameters.get(name) for name in ("layer", "m", "center"))
        rows = _fitting(result, _code_columns())
        if rows is None or not isinstance(layer, int) or not isinstance(m, int):
            continue
        if not isinstance(center, bool):
            continue
        fitting.append(result)
        found[int(run["run_id"]), layer, pool, m, center, CODE_VERSION] = rows
    keyed = [_keyed(rows, KEYS[NEURON_TEXT], key) for key, rows in found.items()]
    return (pa.concat_tables(keyed) if keyed else None), fitting


def _keyed(rows: pa.Table, names: Sequence[str], key: Sequence[int | bool]) -> pa.Table:
    """Rows with one more column for each part of a key; names past the key's are theirs."""
    import pyarrow as pa

    for name, part in zip(names, key, strict=False):
        kind = pa.bool_() if isinstance(part, bool) else pa.int32()
        rows = rows.append_column(name, pa.array([part] * rows.num_rows, kind))
    return rows


def _span_columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "rank": pa.int32(),
            "position": pa.int32(),
            "explained_variance": pa.float64(),
            "cumulative": pa.float64(),
        }
    )


def _code_columns() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "neuron": pa.int32(),
            "rank": pa.int32(),
            "position": pa.int32(),
            "coefficient": pa.float64(),
        }
    )


def _as_in_catalogue(result: DerivedResult, run: Mapping[str, Any]) -> bool:
    """Whether a TEXTSPAN is of the kind that an ingest computes: whole run, as Algorithm 1."""
    given = result.parameters
    return (
        run["status"] == "complete"
        and given.get("whole_run") is True
        and given.get("normalize") is False
        and given.get("score") == "variance"
    )


def _of_all(results: Sequence[DerivedResult], known: Known) -> pa.Table:
    import pyarrow as pa

    # A classifier belongs to a model, and so to no one run.
    fitting = [one for one in results if "run" not in one.parameters or known.run_of(one)]
    return pa.table(
        {
            "relation": [result.table for result in fitting],
            "fingerprint": [result.fingerprint for result in fitting],
            "parameters": [json.dumps(result.parameters, sort_keys=True) for result in fitting],
        }
    )
