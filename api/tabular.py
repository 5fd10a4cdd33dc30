"""Ways out of what is more than a table, by the table that is at its heart."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import torch

    from .result import Result


class Tabular(ABC):
    """What offers its rows in every way that a `Result` does; `table()` says which they are."""

    @abstractmethod
    def table(self) -> Result:
        """The rows that go to other libraries and to files."""

    def df(self) -> pd.DataFrame:
        """The rows as a pandas frame."""
        return self.table().df()

    def pl(self) -> pl.DataFrame:
        """The rows as a polars frame; raises ImportError without polars."""
        return self.table().pl()

    def arrow(self) -> pa.Table:
        """The rows as a pyarrow table."""
        return self.table().arrow()

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts of Python values."""
        return self.table().rows()

    def torch(self, columns: str | Sequence[str] | None = None) -> torch.Tensor:
        """Columns as a tensor, by default all numbers; raises as `Result.torch` does."""
        return self.table().torch(columns)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the rows to a `.parquet`, `.csv` or `.json` file; return its path.

        Raises `BadQuestion` for another suffix.
        """
        return self.table().save(path)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table().__arrow_c_stream__(requested_schema)
