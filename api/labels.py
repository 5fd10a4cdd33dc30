"""Which class and which group each image is in, from columns of the view `images`."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion, BadSelection, UnknownColumn, UnknownLabel
from .classifier import Classifier
from .open_run import OpenRun
from .printing import counted
from .selection import Selection
from .sql_text import quoted

if TYPE_CHECKING:
    import pyarrow as pa

I64 = npt.NDArray[np.int64]

_LISTED = 8
_OWN_COLUMNS = ("images", "accuracy", "before")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images with a label among a classifier's classes, by row; and the groups they are in.

    `rows`, `image_ids`, `labels` (places among the classes) and `groups` are [k]; `names` has a
    column for each column of `by` and a row for each group.
    """

    rows: I64
    image_ids: I64
    labels: I64
    groups: I64
    names: dict[str, Any]
    count: int
    note: str | None


def labelled(
    run: OpenRun,
    made: Classifier,
    chosen: Selection,
    *,
    label: str,
    by: str | Sequence[str] | None = None,
) -> Labelled:
    """Match the labels of chosen images with a classifier's classes, and find their groups.

    Images without a label are passed over. Raises `UnknownColumn`, `UnknownLabel` or
    `BadSelection`.
    """
    columns = _columns_of(by)
    _check_columns(run, label, columns)
    order = np.argsort(chosen.rows, kind="stable")
    rows, image_ids = chosen.rows[order], chosen.image_ids[order]
    if not len(rows):
        msg = (
            "no image is selected, so there is nothing to classify; see images and where (--where)."
        )
        raise BadSelection(msg)
    table = _facts_of(run, label, columns)
    codes, values = _encoded(table, 1, run, rows)
    classes = {name: place for place, name in enumerate(made.classes)}
    _check_labels(values, codes, classes, label)
    place_of = np.array([*(classes.get(value, -1) for value in values), -1], np.int64)
    labels = place_of[codes]
    known = labels >= 0
    if not known.any():
        raise no_labels(run, len(rows), label)
    passed = int((~known).sum())
    if passed:
        rows, image_ids, labels = rows[known], image_ids[known], labels[known]
    groups, names, count = _groups(table, columns, run, rows)
    return Labelled(rows, image_ids, labels, groups, names, count, passed_over(passed, label))


def passed_over(images: int, label: str) -> str | None:
    """What is noted about images that have no label; None where there are none."""
    if not images:
        return None
    were = "was" if images == 1 else "were"
    return f"{counted(images, 'image')} without a value in column {label!r} {were} passed over"


def no_labels(run: OpenRun, images: int, label: str) -> BadSelection:
    """The error where no image at all has a label."""
    msg = (
        f"none of the {counted(images, 'image')} has a value in column {label!r}; label (--label) "
        f"names the column that holds their classes, one of {', '.join(_columns(run))}."
    )
    return BadSelection(msg)


def _facts_of(run: OpenRun, label: str, columns: Sequence[str]) -> pa.Table:
    """The rows of the run's readable images, with labels as texts and columns as they are."""
    groups = [f"{quoted(column)} AS by_{place}" for place, column in enumerate(columns)]
    shown = ", ".join(['"row"', f"CAST({quoted(label)} AS VARCHAR) AS label", *groups])
    sql = f"SELECT {shown} FROM images WHERE run = ? AND status = 'ok'"
    return run.console.query(sql, [run.name])


def _encoded(table: pa.Table, column: int, run: OpenRun, rows: I64) -> tuple[I64, list[Any]]:
    """A column's values at some rows as numbers, -1 for none, and what these stand for."""
    encoded = table.column(column).combine_chunks().dictionary_encode()
    codes = np.full(run.shape.images, -1, np.int64)
    codes[table.column(0).to_numpy()] = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes[rows], encoded.dictionary.to_pylist()


def _groups(
    table: pa.Table, columns: Sequence[str], run: OpenRun, rows: I64
) -> tuple[I64, dict[str, Any], int]:
    """The group of each row, and each group's values; groups in the order of their values."""
    import pyarrow as pa

    if not columns:
        return np.zeros(len(rows), np.int64), {}, 1
    encoded = [_encoded(table, 2 + place, run, rows) for place in range(len(columns))]
    combined = np.zeros(len(rows), np.int64)
    sorted_values: list[list[Any]] = []
    for codes, values in encoded:
        order = sorted(range(len(values)), key=lambda place, values=values: values[place])
        # No value comes last, as a group of its own.
        place_of = np.empty(len(values) + 1, np.int64)
        place_of[order] = np.arange(len(values))
        place_of[-1] = len(values)
        sorted_values.append([*(values[place] for place in order), None])
        combined = combined * (len(values) + 1) + place_of[codes]
    found, groups = np.unique(combined, return_inverse=True)
    count = len(found)
    names: dict[str, Any] = {}
    for place in reversed(range(len(columns))):
        values = sorted_values[place]
        found, at = np.divmod(found, len(values))
        kind = table.column(2 + place).type
        names[columns[place]] = pa.array([values[one] for one in at], kind)
    return groups, dict(reversed(names.items())), count


def _check_labels(values: list[str], codes: I64, classes: dict[str, int], label: str) -> None:
    used = np.bincount(codes[codes >= 0], minlength=len(values))
    unknown = [value for place, value in enumerate(values) if used[place] and value not in classes]
    if not unknown:
        return
    images = sum(int(used[place]) for place, value in enumerate(values) if value not in classes)
    have = "has" if images == 1 else "have"
    msg = (
        f"{counted(images, 'image')} {have} a value in column {label!r} that is no class: "
        f"{listed(sorted(unknown))}. The classifier has the classes {listed(list(classes))}. "
        "Make one with all of them, from a mapping where labels are no names, or leave these "
        "images out with where=."
    )
    raise UnknownLabel(msg)


def _columns_of(by: Any) -> list[str]:
    if by is None or isinstance(by, str):
        return [] if by is None else [by]
    listed = list(by) if isinstance(by, Iterable) else [by]
    if not all(isinstance(column, str) for column in listed):
        msg = f"by={by!r} names no columns of the images; give a name or a list of names."
        raise BadQuestion(msg)
    return listed


def _check_columns(run: OpenRun, label: str, columns: Sequence[str]) -> None:
    known = run.console.types("SELECT * FROM images")
    for column in (label, *columns):
        if column not in known:
            msg = f"the images have no column {column!r}; they have {', '.join(known)}."
            raise UnknownColumn(msg)
    for column in columns:
        if column in _OWN_COLUMNS:
            msg = (
                f"by={column!r}: a result has a column {column!r} of its own; add yours under "
                "another name with `lensbase columns add`."
            )
            raise BadQuestion(msg)
        if known[column].endswith("]") or known[column].startswith(("STRUCT", "MAP", "UNION")):
            msg = f"by={column!r} is {known[column]}: groups are made of single values."
            raise BadQuestion(msg)


def _columns(run: OpenRun) -> list[str]:
    return list(run.console.types("SELECT * FROM images"))


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
