"""From whatever columns a source has to `key`, `label`, `subgroup` and the further ones."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ...schema.errors import DuplicateKeys, ManifestColumnMissing, NoImages

PATH_NAMES: Final = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image_path",
)
KEY_NAMES: Final = ("key", *PATH_NAMES)
IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "data")
LABEL_NAMES: Final = ("label",)
SUBGROUP_NAMES: Final = ("subgroup", "group")


def named(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """The first of `wanted` among `names`, spelled as there; case does not matter."""
    lower = {name.strip().lower(): name for name in reversed(names)}
    return next((lower[name] for name in wanted if name in lower), None)


def image_table(
    keys: pa.ChunkedArray, columns: pa.Table, *, source: str, taken: Sequence[str] = ()
) -> pa.Table:
    """The table of a source: `keys`, then label and subgroup out of `columns`, then the others.

    `taken` names columns to leave out, `source` is what messages call the source.
    Raises `NoImages` without rows and `DuplicateKeys` where two rows share a key.
    """
    if len(keys) == 0:
        msg = f"{source} holds no images"
        raise NoImages(msg)
    _check_unique(keys, source)
    names = [name for name in columns.column_names if name not in taken]
    arrays = {"key": keys}
    for column, wanted in (("label", LABEL_NAMES), ("subgroup", SUBGROUP_NAMES)):
        found = named(names, wanted)
        nothing = pa.chunked_array([pa.nulls(len(keys), pa.string())])
        arrays[column] = as_text(columns.column(found)) if found else nothing
        names = [name for name in names if name != found]
    lower = set(arrays)
    for name in names:
        # SQL knows no case: of Weight and weight, one has to yield.
        spelled = name.strip() or "column"
        number = 2
        while spelled.lower() in lower:
            spelled = f"{name.strip() or 'column'}_{number}"
            number += 1
        lower.add(spelled.lower())
        arrays[spelled] = _plain(columns.column(name))
    return pa.table(arrays)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as strings; whole numbers without a decimal point, nothing as null."""
    column = _plain(column)
    if pa.types.is_floating(column.type):
        numbers = column.drop_null().to_numpy()
        if np.array_equal(numbers, np.trunc(numbers)) and np.abs(numbers).max(initial=0) < 2**53:
            column = column.cast(pa.int64())
    text = column.cast(pa.string())
    if text.index("").as_py() < 0:
        return text
    values = [value or None for value in text.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])


def missing(source: str, names: Sequence[str], *, what: str, wanted: Sequence[str]) -> Exception:
    """The error for a source without one of the columns `wanted`, to be raised."""
    msg = (
        f"{source} has no column for {what}: it has {', '.join(names) or 'none'}; "
        f"name one of them {', '.join(wanted[:-1])} or {wanted[-1]}"
    )
    return ManifestColumnMissing(msg)


def _check_unique(keys: pa.ChunkedArray, source: str) -> None:
    if len(keys.unique()) == len(keys):
        return
    counts: list[dict[str, Any]] = keys.value_counts().to_pylist()
    twice = [f"{item['values']} ({item['counts']} times)" for item in counts if item["counts"] > 1]
    rest = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
    msg = (
        f"{source} names images more than once: {', '.join(twice[:5])}{rest}; "
        "keep one row for each key"
    )
    raise DuplicateKeys(msg)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Categories as their values, and every kind of string as one."""
    if pa.types.is_dictionary(column.type):
        decoded = [_plain_array(chunk.dictionary).take(chunk.indices) for chunk in column.chunks]
        kind = _plain_array(pa.array([], column.type.value_type)).type
        return pa.chunked_array(decoded, kind)
    chunks = [_plain_array(chunk) for chunk in column.chunks]
    return pa.chunked_array(chunks, _plain_array(pa.array([], column.type)).type)


def _plain_array(values: pa.Array) -> pa.Array:
    kind = values.type
    texts = (pa.types.is_null, pa.types.is_large_string, pa.types.is_string_view)
    return values.cast(pa.string()) if any(is_text(kind) for is_text in texts) else values
