"""A data set of Hugging Face `datasets`, saved to disk."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...schema.errors import AmbiguousSource, BadManifest, ExtraMissing
from .columns import IMAGE_NAMES, KEY_NAMES, as_text, image_table, missing, named
from .files import absolute, read_file
from .parquet import class_names


class HuggingFaceSource:
    """The images of a folder that `save_to_disk` wrote.

    Of several splits one is chosen by its folder: `DIR/test`.
    Keys are the column `key` (or path, file, ...), else the images' paths where every row has its
    own, else row numbers; class numbers become names.
    """

    kind = "huggingface"

    def __init__(self, folder: str | Path) -> None:
        self.root = absolute(folder)
        datasets = _library()
        try:
            data: Any = datasets.load_from_disk(self.root, keep_in_memory=False)
        except (OSError, ValueError, pa.ArrowException) as error:
            msg = f"{self.root} cannot be read with datasets.load_from_disk: {error}"
            raise BadManifest(msg) from error
        if isinstance(data, datasets.DatasetDict):
            data = _only_split(data, self.root)
        image = _image_column(data, datasets.Image, self.root)
        if isinstance(data.features[image], datasets.Image):
            data = data.cast_column(image, datasets.Image(decode=False))
        self._column = image
        self._images: Any = data.select_columns([image]).with_format(None)
        others = [name for name in data.column_names if not _is_bulky(data.features[name])]
        columns = pa.table({"label": pa.nulls(len(data), pa.string())})
        if others:
            columns = data.select_columns(others).with_format("arrow")[:]
            columns = _named_classes(columns, data.features)
        name = named(columns.column_names, KEY_NAMES)
        keys = as_text(columns.column(name)) if name else _own_paths(self._images, image)
        if keys is None or keys.null_count:
            numbers = pa.array([str(row) for row in range(len(data))], pa.string())
            keys, name = pa.chunked_array([numbers]), None
        taken = [name] if name else []
        self._table = image_table(keys, columns, source=self.root, taken=taken)

    def table(self) -> pa.Table:
        """Key, label, subgroup and the data set's further columns; see `Source.table`."""
        return self._table

    def read(self, row: int) -> bytes:
        """The bytes of one image; raises `OSError`."""
        value: Any = self._images[row][self._column]
        if isinstance(value, dict):
            data: Any = value.get("bytes")
            path: Any = value.get("path")
            value = read_file(Path(self.root, path)) if data is None and path else data
        if not isinstance(value, bytes):
            raise OSError(errno.ENODATA, f"no bytes in row {row}", self.root)
        return value


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file()
    )


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        msg = (
            "reading a Hugging Face data set needs the library datasets: "
            "pip install 'lensbase[datasets]'"
        )
        raise ExtraMissing(msg) from error
    return datasets


def _only_split(splits: Any, root: str) -> Any:
    names = list(splits)
    if len(names) > 1:
        listed = ", ".join(f"{root}/{name}" for name in names)
        msg = f"{root} holds several splits; give one of them: {listed}"
        raise AmbiguousSource(msg)
    return splits[names[0]]


def _image_column(data: Any, image: type, root: str) -> str:
    names = [name for name, feature in data.features.items() if isinstance(feature, image)]
    names = names or [
        name for name, feature in data.features.items() if "binary" in getattr(feature, "dtype", "")
    ]
    if not names:
        raise missing(root, data.column_names, what="images", wanted=IMAGE_NAMES)
    found = names[0] if len(names) == 1 else named(names, IMAGE_NAMES)
    if found is None:
        msg = f"{root} has several columns of images ({', '.join(names)}): name one of them image"
        raise AmbiguousSource(msg)
    return found


def _is_bulky(feature: Any) -> bool:
    """Images, sounds and other bytes: nothing for a table of metadata."""
    kind = type(feature).__name__
    return kind in ("Image", "Audio", "Video", "Pdf") or "binary" in str(
        getattr(feature, "dtype", "")
    )


def _named_classes(columns: pa.Table, features: Any) -> pa.Table:
    for index, name in enumerate(columns.column_names):
        names = getattr(features[name], "names", None)
        if names:
            columns = columns.set_column(index, name, class_names(columns.column(name), names))
    return columns


def _own_paths(images: Any, column: str) -> pa.ChunkedArray | None:
    """The images' own paths, where each row has one and no two are the same."""
    values: pa.ChunkedArray = images.flatten_indices().data.column(column)
    if not pa.types.is_struct(values.type) or values.type.get_field_index("path") < 0:
        return None
    paths = pa.chunked_array([chunk.field("path") for chunk in values.chunks], pa.string())
    distinct = not paths.null_count and len(paths.unique()) == len(paths)
    return as_text(paths) if distinct else None
