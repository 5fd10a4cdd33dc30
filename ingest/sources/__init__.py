"""Where images come from: `open_source` recognizes what it is given."""

from __future__ import annotations

import difflib
import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ...schema.errors import BadManifest, NoImages, SourceNotFound, UnknownSource
from ..images import EXTENSIONS
from .files import absolute
from .folder import FolderSource, list_images
from .huggingface import HuggingFaceSource, is_saved_dataset
from .manifest import CSV_ENDINGS, ManifestSource, read_csv, read_parquet
from .parquet import ParquetSource, image_column
from .paths import PathsSource
from .protocol import Source
from .selection import select
from .webdataset import WebDatasetSource

__all__ = ["Source", "open_source"]

PARQUET_ENDINGS: Final = (".parquet", ".pq")
SHARD_ENDINGS: Final = (".tar",)
KINDS: Final = (
    "a folder of images, a CSV or Parquet manifest, Parquet with image bytes, WebDataset .tar "
    "shards, a Hugging Face data set saved to disk, or a list of image files"
)


def open_source(images: object, *, limit: int | None = None, where: str | None = None) -> Source:
    """The images of a folder, manifest, Parquet file, tar shards, saved data set or list of paths.

    `images` is a path of any of these (shards and Parquet files also as `shard-{00..03}.tar` or
    `*.parquet`), a list of paths, or a table in memory (Arrow, pandas, polars) with a column
    `path`, relative to the working directory.
    A folder that holds image files is read as a folder, whatever else lies in it; a manifest in it
    is given by its own path.
    `where` is a boolean SQL expression over the columns of the source's table; of the rows for
    which it holds, the first `limit` are taken.
    Raises `SourceNotFound`, `SourceUnreadable`, `UnknownSource`, `AmbiguousSource`,
    `ManifestColumnMissing`, `BadManifest`, `DuplicateKeys`, `ExtraMissing`, `BadWhere` and
    `NoImages`, each saying what to do.
    """
    return select(_recognized(images), limit=limit, where=where)


def _recognized(images: object) -> Source:
    if isinstance(images, str | Path):
        return _from_path(str(images))
    if isinstance(images, pa.Table) or hasattr(images, "__arrow_c_stream__"):
        table = images if isinstance(images, pa.Table) else pa.table(cast("Any", images))
        return ManifestSource(table, Path.cwd(), name="the table of images")
    if isinstance(images, Sequence):
        paths = cast("Sequence[object]", images)
        if all(isinstance(path, str | os.PathLike) for path in paths):
            return _from_list([str(path) for path in paths])
    msg = f"images= got {type(images).__name__}: give {KINDS}"
    raise UnknownSource(msg)


def _from_list(paths: Sequence[str]) -> Source:
    for endings in (SHARD_ENDINGS, PARQUET_ENDINGS):
        if paths and all(path.lower().endswith(endings) for path in paths):
            return _from_files(paths)
    return PathsSource(paths)


def _from_path(name: str) -> Source:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|pipe:", name):
        msg = f"{name} is not on this machine: download it, then give its path"
        raise UnknownSource(msg)
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(path)
    if path.exists():
        return _from_file(path)
    if names := _expanded(str(path)):
        return _from_files(names)
    near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3)
    hint = f"the working directory is {Path.cwd()}"
    if near:
        hint = f"did you mean {', '.join(str(path.parent / other) for other in near)}?"
    msg = f"there is no {name}: {hint}"
    raise SourceNotFound(msg)


def _from_folder(folder: Path) -> Source:
    if is_saved_dataset(folder):
        return HuggingFaceSource(folder)
    if names := list_images(absolute(folder)):
        return FolderSource(folder, names)
    for endings in (PARQUET_ENDINGS, SHARD_ENDINGS):
        if names := list_images(absolute(folder), frozenset(endings)):
            return _from_files([str(folder / name) for name in names], root=folder)
    msg = f"{folder} holds no images: expected {KINDS}; image files end in "
    raise NoImages(msg + ", ".join(sorted(EXTENSIONS)))


def _from_file(path: Path) -> Source:
    ending = path.suffix.lower()
    if ending in CSV_ENDINGS:
        return ManifestSource(read_csv(path), path.parent, name=str(path))
    if ending in PARQUET_ENDINGS:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid as error:
            msg = f"{path} cannot be read as Parquet: {error}"
            raise BadManifest(msg) from error
        if image_column(schema, path) is None:
            return ManifestSource(read_parquet(path), path.parent, name=str(path))
        return ParquetSource(path, [path])
    if ending in SHARD_ENDINGS:
        return WebDatasetSource(path.parent, [path])
    if ending in EXTENSIONS:
        return PathsSource([path])
    packed = path.name.lower().endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.zst", ".zip"))
    hint = "unpack it first" if packed else f"expected {KINDS}"
    msg = f"{path} is no source of images: {hint}"
    raise UnknownSource(msg)


def _from_files(names: Sequence[str], root: Path | None = None) -> Source:
    """Several shards or Parquet files."""
    lost = [name for name in names if not Path(name).is_file()]
    if lost:
        rest = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        msg = f"{len(lost)} of {len(names)} files are not there: {', '.join(lost[:5])}{rest}"
        raise SourceNotFound(msg)
    parents = [str(Path(absolute(name)).parent) for name in names]
    root = root or Path(os.path.commonpath(parents))
    endings = {Path(name).suffix.lower() for name in names}
    if endings <= set(SHARD_ENDINGS):
        return WebDatasetSource(root, names)
    if endings <= set(PARQUET_ENDINGS):
        return ParquetSource(root, names)
    if endings <= EXTENSIONS:
        return PathsSource(list(names))
    msg = f"files ending in {', '.join(sorted(endings))} are no source of images: expected {KINDS}"
    raise UnknownSource(msg)


def _expanded(pattern: str) -> list[str]:
    """The files that `{00..03}`, `{a,b}`, `*`, `?` and `[...]` stand for; none without these."""
    if not re.search(r"[*?\[]|\{[^{}]*\}", pattern):
        return []
    names: list[str] = []
    for name in _braces(pattern):
        if re.search(r"[*?\[]", name):
            # A Path can't glob patterns that begin at the root.
            names += sorted(glob.glob(name), key=os.fsencode)  # noqa: PTH207
        else:
            names.append(name)
    return names


def _braces(pattern: str) -> list[str]:
    parts = re.split(r"(\{[^{}]*\})", pattern)
    choices: list[list[str]] = []
    for part in parts:
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", part)
        if span:
            low, high = span[1], span[2]
            numbers = range(int(low), int(high) + 1)
            choices.append([str(number).zfill(len(low)) for number in numbers])
        elif part.startswith("{") and "," in part:
            choices.append(part[1:-1].split(","))
        else:
            choices.append([part])
    return ["".join(items) for items in itertools.product(*choices)]


def _names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
