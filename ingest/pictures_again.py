"""Stored images, read and preprocessed again from where a run found them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.errors import UnknownImage
from .loading import batches
from .sources import open_source

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from .loading import Batch
    from .models import Preprocess
    from .sources import Source

_FILES = ("folder", "manifest", "paths")


def pictures_again(
    run: dict[str, Any],
    keys: Sequence[str],
    *,
    preprocess: Preprocess,
    batch_size: int = 64,
    workers: int = 0,
) -> Generator[Batch]:
    """Batches of a run's images, in the order of their `keys`; opens the source at once.

    `run` is the run's row of the catalogue. One that can no longer be decoded is False in its
    batch's `ok`; `Batch.rows` are the source's numbers, not the run's. Raises `open_source`'s
    errors where the source has gone, and UnknownImage for a key that it lost.
    """
    source, places = _opened(run, keys)
    parts = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
    return batches(source, parts, preprocess=preprocess, workers=workers, thumbnails=False)


def _opened(run: dict[str, Any], keys: Sequence[str]) -> tuple[Source, list[int]]:
    root = Path(run["dataset_root"])
    if run["dataset_kind"] in _FILES:
        return open_source([root / key for key in keys]), list(range(len(keys)))
    source = open_source(root)
    places = {key: row for row, key in enumerate(source.table()["key"].to_pylist())}
    lost = [key for key in keys if key not in places]
    if lost:
        msg = f"{root} no longer holds {lost[0]!r} ({len(lost)} of {len(keys)} images are gone)"
        raise UnknownImage(msg)
    return source, [places[key] for key in keys]
