"""Six small images with keys and labels, and what every source of them has to give."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
from broken_images import encoded
from PIL import Image

from lensbase.ingest.sources import Source

LABELS = ["cat", "cat", "dog", "dog", "dog", "emu"]
KEYS = [f"{label}/{i}.png" for i, label in enumerate(LABELS)]
IMAGES = [encoded(Image.new("RGB", (4, 4), (i, 0, 0)), "PNG") for i in range(len(KEYS))]


def write_pets(root: Path) -> Path:
    """A folder of the images, one sub-folder a label."""
    for key, data in zip(KEYS, IMAGES, strict=True):
        write(root / key, data)
    return root


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def column(source: Source, name: str) -> list[Any]:
    return source.table().column(name).to_pylist()


def contents(source: Source) -> list[bytes]:
    return [source.read(row) for row in range(source.table().num_rows)]


def check(source: Source, kind: str, keys: list[str], labels: list[Any]) -> None:
    """What holds for every source; the images are the first ones of `IMAGES`."""
    assert source.kind == kind
    assert Path(source.root).is_absolute()
    assert source.table().column_names[:3] == ["key", "label", "subgroup"]
    assert source.table().schema.types[:3] == [pa.string()] * 3
    assert column(source, "key") == keys
    assert column(source, "label") == labels
    assert contents(source) == IMAGES[: len(keys)]
    # Any order, and in another process.
    assert source.read(len(keys) - 1) == IMAGES[len(keys) - 1]
    assert source.read(0) == IMAGES[0]
    copy: Source = pickle.loads(pickle.dumps(source))
    assert contents(copy) == contents(source)
    assert copy.table().equals(source.table())
