"""Which images: from ids, keys, paths, frames and SQL expressions to rows of a run's arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSelection, RejectedRow, UnknownImage
from .columns import text_column
from .console import Console
from .sql_text import encodable
from .where import Where, rows_where

Images: TypeAlias = Any
"""An id or key, a list of them, an array, a Result or frame with `image_id`; None for all."""
Rows: TypeAlias = npt.NDArray[np.int64]

_PENDING, _OK, _REJECTED = 0, 1, 2


@dataclass(frozen=True)
class Selection:
    """Chosen images: `rows` of the run's arrays and `image_ids`, both [n], in the same order."""

    rows: Rows
    image_ids: Rows

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _RowMap:
    """Of each row of a run's arrays its image's id and status, both [K]."""

    image_ids: Rows
    status: npt.NDArray[np.uint8]

    @cached_property
    def by_id(self) -> Rows:
        """Rows in the order of their images' ids."""
        return np.argsort(self.image_ids, kind="stable")

    @cached_property
    def everything(self) -> Selection:
        """All committed images that could be read, by id."""
        rows = self.by_id[self.status[self.by_id] == _OK]
        return Selection(rows, self.image_ids[rows])

    def rows_of(self, image_ids: Rows) -> Rows:
        """The row of each image, -1 for images of no row."""
        ordered = self.image_ids[self.by_id]
        place = np.minimum(np.searchsorted(ordered, image_ids), max(len(ordered) - 1, 0))
        if not len(ordered):
            return np.full(len(image_ids), -1, np.int64)
        return np.where(ordered[place] == image_ids, self.by_id[place], -1)


class RunImages:
    """The images of a run as its catalogue knows them."""

    def __init__(
        self, console: Console, run: Mapping[str, Any], *, image_root: Path | None
    ) -> None:
        self._console = console
        self._run = run
        self._image_root = image_root

    def select(self, images: Images = None, where: Where = None) -> Selection:
        """Find rows: those of `images`, in its order, that meet `where`; all images by id for None.

        Rejected and not yet committed images are passed over unless `images` names them. Raises
        `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._map.everything if images is None else self._named(images)
        if where is None:
            return chosen
        allowed = np.zeros(len(self._map.status), np.bool_)
        allowed[rows_where(self._console, self._run["name"], where)] = True
        kept = allowed[chosen.rows]
        return Selection(chosen.rows[kept], chosen.image_ids[kept])

    def one(self, image: Images) -> tuple[int, int]:
        """Row and id of one image; raises as `select` does."""
        chosen = self._named(image)
        if len(chosen) != 1:
            msg = f"{image!r} is {len(chosen)} images; name one by its id or key."
            raise BadSelection(msg)
        return int(chosen.rows[0]), int(chosen.image_ids[0])

    def rows(self, image_ids: Sequence[int]) -> list[int]:
        """The row of each image, -1 where the run has none."""
        return self._map.rows_of(np.asarray(image_ids, np.int64)).tolist()

    def readable(self, image_ids: Rows) -> Rows:
        """The row of each image [n], -1 where the run has none that could be read."""
        rows = self._map.rows_of(image_ids)
        return np.where((rows >= 0) & (self._map.status[rows] == _OK), rows, -1)

    def ids(self, rows: Rows) -> Rows:
        """The ids of the images in some rows."""
        return self._map.image_ids[rows]

    def described(self, image_ids: Rows) -> dict[str, Any]:
        """Columns `image_id`, `key` and `label` of some images, in their order."""
        known = {
            number: (key, label)
            for number, key, label in self._console.rows(
                "SELECT image_id, key, label FROM image "
                "WHERE image_id IN (SELECT unnest(?::BIGINT[]))",
                [image_ids],
            )
        }
        told = [known[number] for number in image_ids.tolist()]
        return {
            "image_id": image_ids,
            "key": text_column([key for key, _ in told]),
            "label": text_column([label for _, label in told]),
        }

    @cached_property
    def _map(self) -> _RowMap:
        found = self._console.columns(
            "SELECT \"row\", image_id, CASE status WHEN 'ok' THEN 1 WHEN 'rejected' THEN 2 "
            "ELSE 0 END::UTINYINT AS status FROM run_image WHERE run_id = ?",
            [self._run["run_id"]],
        )
        image_ids = np.full(self._run["images"], -1, np.int64)
        status = np.zeros(self._run["images"], np.uint8)
        image_ids[found["row"]] = found["image_id"]
        status[found["row"]] = found["status"]
        return _RowMap(image_ids, status)

    def _named(self, images: Images) -> Selection:
        names = image_names(images)
        if isinstance(names, np.ndarray):
            rows = self._map.rows_of(names)
            self._check(rows, names.tolist())
        else:
            rows = self._rows_of_names(names)
            self._check(rows, names)
        return Selection(rows, self._map.image_ids[rows])

    def _rows_of_names(self, names: Sequence[int | str]) -> Rows:
        keys = [name for name in names if isinstance(name, str)]
        by_key = self._rows_of_keys(keys)
        paths = {key: self._as_key(key) for key in keys if key not in by_key}
        by_path = self._rows_of_keys([key for key in paths.values() if key is not None])
        ids = np.array([name for name in names if isinstance(name, int)], np.int64)
        by_id = dict(zip(ids.tolist(), self._map.rows_of(ids).tolist(), strict=True))
        rows: list[int] = []
        for name in names:
            if isinstance(name, int):
                rows.append(by_id[name])
            else:
                rows.append(by_key.get(name, by_path.get(paths.get(name) or "", -1)))
        return np.array(rows, np.int64)

    def _rows_of_keys(self, keys: Sequence[str]) -> dict[str, int]:
        if not keys:
            return {}
        # DuckDB takes no lone surrogates, and a key that holds one is no stored one.
        keys = [key for key in keys if encodable(key)]
        found = self._console.rows(
            'SELECT i.key, x."row" FROM run_image x JOIN image i USING (image_id) '
            "WHERE x.run_id = ? AND i.key IN (SELECT unnest(?::VARCHAR[]))",
            [self._run["run_id"], keys],
        )
        return dict(found)

    def _as_key(self, path: str) -> str | None:
        """A path inside the data set's folder as the key that the store would give it."""
        given = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        roots = [self._image_root, Path(self._run["dataset_root"])]
        for root in filter(None, roots):
            if given.is_relative_to(root.absolute()):
                return given.relative_to(root.absolute()).as_posix()
        return None

    def _check(self, rows: Rows, names: Sequence[int | str]) -> None:
        missing = np.flatnonzero(rows < 0)
        if missing.size:
            more = f" (nor {missing.size - 1} others)" if missing.size > 1 else ""
            msg = (
                f"run {self._run['name']!r} holds no image {names[missing[0]]!r}{more}; "
                'store.sql("SELECT image_id, key FROM images") lists what it holds.'
            )
            raise UnknownImage(msg)
        status = self._map.status[rows]
        if np.all(status == _OK):
            return
        place = int(np.flatnonzero(status != _OK)[0])
        name = names[place]
        if status[place] == _PENDING:
            msg = (
                f"image {name!r} is not ingested yet: run the ingest of run "
                f"{self._run['name']!r} to its end, then open the store again."
            )
            raise UnknownImage(msg)
        ((reason,),) = self._console.rows(
            'SELECT reason FROM run_image WHERE run_id = ? AND "row" = ?',
            [self._run["run_id"], int(rows[place])],
        )
        msg = (
            f"image {name!r} was rejected at ingest: {reason}. "
            "images=None and where= pass over such images."
        )
        raise RejectedRow(msg)


def image_names(images: Images) -> Rows | list[int | str]:
    """Ids as an array, or ids and keys as a list, out of everything that may name images.

    Raises `BadSelection` for anything else.
    """
    if isinstance(images, str | os.PathLike):
        return [os.fspath(images)]
    if isinstance(images, int | np.integer) and not isinstance(images, bool):
        return _checked_names([images])
    column = _id_column(images)
    if column is None and not isinstance(images, Iterable) and not hasattr(images, "__array__"):
        msg = f"{images!r} names no images: give ids, keys, or a table with an `image_id` column."
        raise BadSelection(msg)
    source = images if column is None else column
    if hasattr(source, "__array__"):
        array = np.asarray(source)
        if array.ndim > 1:
            msg = f"an array of shape {array.shape} names no images; give one id an image."
            raise BadSelection(msg)
        if array.dtype.kind == "i" or not array.size:
            return array.astype(np.int64).reshape(-1)
        source = array.reshape(-1).tolist()
    return _checked_names(list(cast("Iterable[Any]", source)))


def _id_column(images: Images) -> Any:
    """The `image_id` column of a row, Result, frame or Arrow table; the ids of Values or a view."""
    columns = images if isinstance(images, Mapping) else None
    for attribute in ("column_names", "columns"):
        if columns is None:
            columns = getattr(images, attribute, None)
    if columns is not None and not callable(columns):
        if "image_id" in columns:
            return _iterable(images["image_id"])
        listed = ", ".join(map(str, columns))
        msg = f"a table without an `image_id` column names no images; it has {listed}."
        raise BadSelection(msg)
    for attribute in ("image_ids", "image_id"):
        if (found := getattr(images, attribute, None)) is not None:
            return _iterable(found)
    return None


def _iterable(value: Any) -> Any:
    return value if isinstance(value, Iterable) and not isinstance(value, str) else [value]


def _checked_names(names: Sequence[Any]) -> Rows | list[int | str]:
    checked: list[int | str] = []
    for name in names:
        if isinstance(name, str | os.PathLike):
            checked.append(os.fspath(name))
        elif isinstance(name, int | np.integer) and not isinstance(name, bool):
            if not -(2**63) <= int(name) < 2**63:
                msg = f"no image has the number {name}."
                raise UnknownImage(msg)
            checked.append(int(name))
        else:
            msg = f"{name!r} names no image; an image has a whole number (its id) or a key."
            raise BadSelection(msg)
    if all(isinstance(name, int) for name in checked):
        return np.array(checked, np.int64)
    return checked
