"""Rows and named columns: what every query gives that is not numbers per image."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion, UnknownColumn
from .columns import arrow_column
from .optional import library

if TYPE_CHECKING:
    import os

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import torch
    from matplotlib.axes import Axes
    from rich.console import Console, ConsoleOptions, RenderResult

Thumbnails: TypeAlias = Callable[[Sequence[int]], list[bytes | None]]
"""From image ids to their WebP thumbnails, None where there is none."""


class Result:
    """A table: print it, iterate over its rows as dicts, or take it elsewhere.

    `note` is a remark to the whole, such as why there are fewer rows than asked for.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        note: str | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self._table = table
        self.note = note
        self._thumbnails = thumbnails

    @classmethod
    def of(
        cls,
        columns: dict[str, Any],
        *,
        note: str | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> Result:
        """Make a result of columns of equal length: arrays or lists."""
        import pyarrow as pa

        made = {name: arrow_column(values) for name, values in columns.items()}
        return cls(pa.table(made), note=note, thumbnails=thumbnails)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._table.column_names)

    def arrow(self) -> pa.Table:
        """The rows as a pyarrow table."""
        return self._table

    def df(self) -> pd.DataFrame:
        """The rows as a pandas frame; raises ImportError without pandas."""
        library("pandas")
        return self._table.to_pandas()

    def pl(self) -> pl.DataFrame:
        """The rows as a polars frame; raises ImportError without polars."""
        return library("polars").from_arrow(self._table)

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts of Python values.

        Raises `BadQuestion` for dates beyond the years 1 to 9999, which Python has none for.
        """
        return _as_python(self._table)

    def torch(self, columns: str | Sequence[str] | None = None) -> torch.Tensor:
        """A column as a tensor [n], or several (by default all numbers) as float32 [n, columns].

        Raises ImportError without torch and `BadQuestion` for a column that holds no numbers.
        """
        torch = library("torch")
        if isinstance(columns, str):
            return torch.from_numpy(np.array(self._numbers(columns)))
        if columns is None:
            columns = [name for name in self.columns if self.is_number(name)]
        chosen = [self._numbers(name).astype(np.float32) for name in columns]
        return torch.from_numpy(np.stack(chosen, 1) if chosen else np.empty((len(self), 0), "f4"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the rows to a `.parquet`, `.csv` or `.json` file; return its path.

        Raises `BadQuestion` for another suffix.
        """
        path = Path(path)
        if path.suffix not in WRITERS:
            raise no_format(path, list(WRITERS))
        WRITERS[path.suffix](self, path)
        return path

    def plot(self, *, ax: Axes | None = None, limit: int = 20) -> Axes:
        """Plot the first rows with matplotlib: pictures where it has any, bars otherwise.

        Raises `BadQuestion` where there is neither an image nor a number.
        """
        from .plots import plot_result

        return plot_result(self, ax=ax, limit=limit)

    def pictures(self, rows: int) -> list[bytes | None] | None:
        """WebP thumbnails of the first rows; None where rows are not images of a known run."""
        if self._thumbnails is None or "image_id" not in self.columns:
            return None
        ids = self._table.column("image_id").slice(0, rows).to_pylist()
        known = [one for one in ids if one is not None]
        found = dict(zip(known, self._thumbnails(known), strict=True))
        return [found.get(one) for one in ids]

    def is_number(self, name: str) -> bool:
        """Whether a column holds numbers or truth values."""
        import pyarrow.types as kinds

        kind = self._table.schema.field(name).type
        known = (kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_decimal)
        return any(is_kind(kind) for is_kind in known)

    def _numbers(self, name: str) -> npt.NDArray[Any]:
        if name not in self.columns or not self.is_number(name):
            numbers = [column for column in self.columns if self.is_number(column)]
            msg = f"{name!r} is no column of numbers; there are {', '.join(numbers) or 'none'}."
            raise BadQuestion(msg)
        values = self[name]
        if values.dtype == object:  # decimals, or truth values of which some are missing
            return self._table.column(name).cast("float64").to_numpy()
        return values

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in self._table.to_batches(max_chunksize=1024):
            yield from _as_python(batch)

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> Result: ...
    @overload
    def __getitem__(self, key: str) -> npt.NDArray[Any]: ...
    def __getitem__(self, key: int | slice | str) -> dict[str, Any] | Result | npt.NDArray[Any]:
        """A row by number, rows by slice, or a column by name."""
        if isinstance(key, str):
            if key not in self.columns:
                msg = f"there is no column {key!r}; there are {', '.join(self.columns)}."
                raise UnknownColumn(msg)
            return self._table.column(key).to_numpy()
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step == 1:
                part = self._table.slice(start, max(stop - start, 0))
            else:
                part = self._table.take(list(range(start, stop, step)))
            return type(self)(part, note=self.note, thumbnails=self._thumbnails)
        if not -len(self) <= key < len(self):
            msg = f"there is no row {key}: the result has {len(self)}."
            raise IndexError(msg)
        return _as_python(self._table.slice(key % len(self), 1))[0]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from .printing import renderables

        yield from renderables(self, options.max_width)

    def __str__(self) -> str:
        from .printing import to_text

        return to_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .printing import to_html

        return to_html(self)


def _as_python(values: pa.Table | pa.RecordBatch | pa.ChunkedArray) -> list[Any]:
    try:
        return values.to_pylist()
    except OverflowError as error:
        msg = (
            "the rows hold dates or times beyond the years 1 to 9999, which Python has no values "
            "for; let the query CAST them to VARCHAR, or take the rows by .arrow() or .pl()."
        )
        raise BadQuestion(msg) from error


def _write_parquet(result: Result, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(result.arrow(), path)


def _write_csv(result: Result, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv as pc

    table = result.arrow()
    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            # A field of a CSV is one text: lists and bytes are written as JSON.
            texts = [
                None if value is None else json.dumps(jsonable(value), ensure_ascii=False)
                for value in _as_python(table.column(place))
            ]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    pc.write_csv(table, path)


def _write_json(result: Result, path: Path) -> None:
    rows = [jsonable(row) for row in result.rows()]
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def no_format(path: Path, suffixes: Sequence[str]) -> BadQuestion:
    """What to raise for a file whose suffix names no format that can be written."""
    *most, last = suffixes
    return BadQuestion(f"{path.name!r} names no format; end it in {', '.join(most)} or {last}.")


def jsonable(value: Any) -> Any:
    """The nearest JSON: NaN and infinity become null, bytes base64, dates ISO texts.

    Decimals, which is what SQL takes `0.5` for, become numbers.
    """
    from base64 import b64encode
    from decimal import Decimal

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value.as_tuple().exponent == 0 else float(value)
    if isinstance(value, dict):
        return {str(name): jsonable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(one) for one in value]
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".json": _write_json}
