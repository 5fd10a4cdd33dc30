"""Numbers per image or per text, with the names of what they are about."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .columns import arrow_column
from .optional import library
from .printing import counted
from .result import WRITERS, Result, Thumbnails, no_format

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import torch
    from matplotlib.axes import Axes

_FEW = 8  # numbers of an image that are shown one by one


class Values:
    """An array [n, ...] whose first axis is images (`image_ids`) or `texts`.

    `components` names the second axis where that is components of the model. `numpy.asarray`,
    `.torch()`, `.df()`, `.pl()`, `.arrow()` and `.save(path)` take it elsewhere.
    """

    def __init__(
        self,
        values: npt.NDArray[Any],
        *,
        image_ids: npt.NDArray[np.int64] | None = None,
        texts: Sequence[str] | None = None,
        components: Sequence[str] | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self.values: npt.NDArray[np.float32] = np.ascontiguousarray(values, np.float32)
        self.image_ids = image_ids
        self.texts = None if texts is None else list(texts)
        self.components = None if components is None else list(components)
        self._thumbnails = thumbnails

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.values.shape

    def torch(self) -> torch.Tensor:
        """The array as a float32 tensor on the CPU, sharing its memory; raises ImportError."""
        return library("torch").from_numpy(self.values)

    def df(self) -> pd.DataFrame:
        """The array as a pandas frame: an index of image ids (or texts), and of components.

        The last axis makes the columns.
        """
        pd = library("pandas")
        axes = self._axes()
        index = (
            pd.Index(next(iter(axes.values())), name=next(iter(axes)))
            if len(axes) == 1
            else pd.MultiIndex.from_product(list(axes.values()), names=list(axes))
        )
        named = self.components if self.values.ndim == 2 else None
        return pd.DataFrame(self._flat(), index=index, columns=named)

    def arrow(self) -> pa.Table:
        """The array as a pyarrow table: a row for each of its vectors along the last axis.

        Columns `image_id` (or `text`), then `component` where the second axis is not the last one;
        then one for each component where it is, and otherwise the list `values`.
        """
        import pyarrow as pa

        axes, flat = self._axes(), self._flat()
        sizes = [len(keys) for keys in axes.values()]
        columns: dict[str, Any] = {}
        for place, (name, keys) in enumerate(axes.items()):
            within = int(np.prod(sizes[place + 1 :], dtype=np.int64))
            before = int(np.prod(sizes[:place], dtype=np.int64))
            at = np.tile(np.repeat(np.arange(sizes[place]), within), before)
            columns[name] = arrow_column(keys).take(arrow_column(at))
        if self.values.ndim == 1:
            columns["value"] = arrow_column(flat[:, 0])
        elif self.values.ndim == 2 and self.components is not None:
            columns |= {name: arrow_column(flat[:, at]) for at, name in enumerate(self.components)}
        else:
            numbers = arrow_column(flat.reshape(-1))
            columns["values"] = pa.FixedSizeListArray.from_arrays(numbers, flat.shape[1])
        return pa.table(columns)

    def pl(self) -> pl.DataFrame:
        """The rows of `arrow` as a polars frame; raises ImportError without polars."""
        return self._result().pl()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `arrow` as dicts of Python values."""
        return self._result().rows()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the array to a `.npy` file, or the rows of `arrow` as `Result.save` does.

        Returns the path; raises `BadQuestion` for another suffix than `.npy`, `.parquet`, `.csv`
        or `.json`.
        """
        path = Path(path)
        if path.suffix == ".npy":
            np.save(path, self.values)
        elif path.suffix in WRITERS:
            self._result().save(path)
        else:
            raise no_format(path, [".npy", *WRITERS])
        return path

    def plot(self, *, ax: Axes | None = None, limit: int = 20) -> Axes:
        """Plot the first images or texts with matplotlib.

        Components are shaded by the length of their vectors; without any, there are the images in
        the order they have, with the lengths, or bars of these.
        """
        from .plots import plot_matrix, plot_result

        first = self.values[:limit]
        if self.components is None or first.ndim < 2:
            return plot_result(self._lengths(), ax=ax, limit=limit)
        shades = (
            first
            if first.ndim == 2
            else np.linalg.norm(first.reshape(*first.shape[:2], -1), axis=2)
        )
        names = [str(key) for key in list(self._keys())[:limit]]
        return plot_matrix(shades, rows=names, columns=self.components, ax=ax)

    def _result(self) -> Result:
        return Result(self.arrow(), thumbnails=self._thumbnails)

    def _lengths(self) -> Result:
        """A row an image or text: its few numbers, or the length of its many."""
        flat = self.values.reshape(len(self), -1) if len(self) else np.empty((0, 1), np.float32)
        columns: dict[str, Any] = {self._name: self._keys()}
        if self.components is not None and self.values.ndim == 2 and flat.shape[1] <= _FEW:
            columns |= {name: flat[:, at] for at, name in enumerate(self.components)}
        else:
            columns["length"] = np.linalg.norm(flat, axis=1)
        return Result.of(columns, note=repr(self), thumbnails=self._thumbnails)

    @property
    def _name(self) -> str:
        return "text" if self.texts is not None else "image_id"

    def _axes(self) -> dict[str, Any]:
        """The names along each axis but the last; along the only one, where there is one."""
        axes: dict[str, Any] = {self._name: self._keys()}
        if self.values.ndim > 2:
            axes["component"] = self.components or np.arange(self.values.shape[1])
        for axis in range(2, self.values.ndim - 1):
            axes[f"axis{axis}"] = np.arange(self.values.shape[axis])
        return axes

    def _flat(self) -> npt.NDArray[np.float32]:
        """The vectors along the last axis, one a row."""
        width = self.shape[-1] if self.values.ndim > 1 else 1
        rows = int(np.prod(self.shape[:-1] if self.values.ndim > 1 else self.shape))
        return self.values.reshape(rows, width)

    def _keys(self) -> Any:
        if self.texts is not None:
            return self.texts
        return np.arange(len(self)) if self.image_ids is None else self.image_ids

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.arrow().__arrow_c_stream__(requested_schema)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return iter(self.values)

    def __repr__(self) -> str:
        return f"Values {list(self.shape)} float32 of {self._what()}"

    def _repr_html_(self) -> str:
        return self._lengths()._repr_html_()  # pyright: ignore[reportPrivateUsage]

    def _what(self) -> str:
        things = [counted(len(self), "image" if self.texts is None else "text")]
        if self.components is not None:
            first, last = self.components[:1], self.components[-1:]
            through = "" if len(self.components) < 2 else f" .. {last[0]}"
            things.append(f"{len(self.components)} components {''.join(first)}{through}")
        return ", ".join(things)
