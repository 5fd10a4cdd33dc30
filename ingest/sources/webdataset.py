"""WebDataset shards: tar files in which the members of a sample share a name."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import array
import errno
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from ...schema.errors import SourceUnreadable
from ..images import EXTENSIONS
from .columns import image_table
from .files import absolute, printable, read_part


@dataclass(slots=True)
class _Sample:
    name: str
    image: tuple[int, int] | None = None
    companions: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


class WebDatasetSource:
    """The images of tar shards, read by their offsets.

    A key is the shard's name without `.tar` and the sample's name: `train-0003/n01440764_18`.
    A sample's `.cls` is its label and `.txt` its column `text`; entries of its `.json` become
    columns (`label`, `subgroup` and `group` among them), nested ones as JSON text.
    """

    kind = "webdataset"

    def __init__(self, root: str | Path, shards: Sequence[str | Path]) -> None:
        self.root = absolute(root)
        self._shards = [absolute(shard) for shard in shards]
        self._shard, self._offset, self._size = array.array("i"), array.array("q"), array.array("q")
        keys: list[str] = []
        about: list[dict[str, Any]] = []
        for number, shard in enumerate(self._shards):
            stem = Path(os.path.relpath(shard, self.root)).with_suffix("").as_posix()
            for sample in _samples(shard):
                if sample.image is None:
                    continue
                keys.append(printable(f"{stem}/{sample.name}"))
                about.append(_companions(shard, sample))
                self._shard.append(number)
                self._offset.append(sample.image[0])
                self._size.append(sample.image[1])
        self._table = image_table(
            pa.chunked_array([pa.array(keys, pa.string())]), _columns(about), source=self.root
        )

    def table(self) -> pa.Table:
        """Key, label, subgroup and the companions' columns; see `Source.table`."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one sample's image; raises `OSError`."""
        shard, size = self._shards[self._shard[row]], self._size[row]
        data = read_part(shard, self._offset[row], size)
        if len(data) < size:
            raise OSError(errno.EIO, f"the shard ends {size - len(data)} bytes too soon", shard)
        return data


def _samples(shard: str) -> Iterator[_Sample]:
    """Samples of a shard in its order: members in a row that share a name up to the first dot."""
    sample = _Sample("")
    try:
        with tarfile.open(shard, "r:") as file:
            for member in file:
                parts = re.fullmatch(r"((?:.*/|)[^./]+)[.]([^/]*)", member.name)
                # Tar keeps every header it has seen: of a million members that is gigabytes.
                file.members = []  # pyright: ignore[reportAttributeAccessIssue]
                if parts is None or not member.isreg():
                    continue
                name, ending = parts[1].removeprefix("./"), parts[2].lower()
                if name != sample.name:
                    yield sample
                    sample = _Sample(name)
                place = (member.offset_data, member.size)
                if PurePosixPath(f"image.{ending}").suffix not in EXTENSIONS:
                    sample.companions[ending] = place
                elif sample.image is None:
                    sample.image = place
    except (tarfile.TarError, OSError) as error:
        hint = "copy it again, unpack it where it is compressed, or leave it out"
        msg = f"cannot read the shard {shard}: {error}; {hint}"
        raise SourceUnreadable(msg) from error
    yield sample


def _companions(shard: str, sample: _Sample) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for ending, (offset, size) in sample.companions.items():
        if ending not in ("cls", "txt", "json"):
            continue
        text = read_part(shard, offset, size).decode("utf-8", "replace").strip()
        if ending == "json":
            values |= _entries(text, f"{sample.name}.json of {shard}")
        else:
            values["label" if ending == "cls" else "text"] = text
    return values


def _entries(text: str, name: str) -> dict[str, Any]:
    try:
        entries: Any = json.loads(text)
    except ValueError as error:
        msg = f"cannot read {name} as JSON: {error}"
        raise SourceUnreadable(msg) from error
    if not isinstance(entries, dict):
        return {"json": text}
    return {
        str(key): json.dumps(value) if isinstance(value, dict | list) else value
        for key, value in entries.items()  # pyright: ignore[reportUnknownVariableType]
    }


def _columns(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names or ["label"]})


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        # Samples that disagree on a type still agree that everything can be written down.
        return pa.array([None if value is None else str(value) for value in values], pa.string())
