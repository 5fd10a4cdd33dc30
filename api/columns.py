"""Arrow columns from and to buffers: pyarrow's own ways import pandas, a fifth of a second."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_column(values: Any) -> pa.Array:
    """A column of numbers or of texts, with nulls for None; anything else as pyarrow takes it."""
    import pyarrow as pa

    if isinstance(values, pa.Array):
        return values
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "iuf" or values.ndim != 1:
            return pa.array(values)
        kept = np.array(values, order="C")  # Arrow's columns never change, a caller's arrays may
        buffers = [None, pa.py_buffer(kept)]
        return pa.Array.from_buffers(pa.from_numpy_dtype(kept.dtype), len(kept), buffers)
    if isinstance(values, list) and values and _are_texts(cast("list[Any]", values)):
        return text_column(cast("list[str | None]", values))
    if isinstance(values, list) and values and {type(one) for one in values} == {int}:
        return arrow_column(np.array(values, np.int64))
    if isinstance(values, list) and _are_lists_of_texts(cast("list[Any]", values)):
        return _lists_column(cast("list[list[str]]", values))
    return pa.array(values)


def raw_numbers(column: pa.Array, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The numbers of a column [n] where they lie; for nulls, whatever lies there."""
    if not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)]


def nullable_column(values: npt.NDArray[np.floating[Any]]) -> pa.Array:
    """A column of fractions, with nulls for NaN."""
    import pyarrow as pa

    kept = np.array(values, order="C")
    known = np.packbits(~np.isnan(kept), bitorder="little")
    buffers = [pa.py_buffer(known), pa.py_buffer(kept)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(kept.dtype), len(kept), buffers)


def _are_lists_of_texts(values: Sequence[Any]) -> bool:
    return any(values) and all(
        isinstance(one, list | tuple)
        and all(isinstance(text, str) for text in cast("Sequence[Any]", one))
        for one in values
    )


def _lists_column(values: Sequence[Sequence[str]]) -> pa.Array:
    import pyarrow as pa

    ends = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(one) for one in values], out=ends[1:])
    texts = text_column([text for one in values for text in one])
    return pa.ListArray.from_arrays(arrow_column(ends), texts)


def _are_texts(values: Sequence[Any]) -> bool:
    types = {type(value) for value in values}
    return str in types and types <= {str, type(None)}


def text_column(values: Sequence[str | None]) -> pa.Array:
    """A column of texts, with nulls for None."""
    import pyarrow as pa

    encoded = [b"" if value is None else value.encode() for value in values]
    ends = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(text) for text in encoded], out=ends[1:])
    if ends[-1] > np.iinfo(np.int32).max:
        return pa.array(values, pa.large_string())
    present = np.array([value is not None for value in values], np.bool_)
    known = np.packbits(present, bitorder="little")
    offsets, data, valid = (
        pa.py_buffer(part) for part in (ends.astype(np.int32), b"".join(encoded), known)
    )
    return pa.StringArray.from_buffers(len(values), offsets, data, valid)
