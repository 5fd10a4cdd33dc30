"""Pictures of a run's images: the thumbnails in the store, and the original files beside it."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.errors import ImageFileMissing, StoreCorrupt
from ..schema.layout import Layout

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

_SEGMENTS_KEPT = 32  # memory maps, open at once
_FILES = ("folder", "manifest", "paths")
"""Kinds of data sets whose images are files of their own."""


class RunPictures:
    """Reads thumbnails and originals of one run."""

    def __init__(self, layout: Layout, run: Mapping[str, Any], *, image_root: Path | None) -> None:
        self._layout = layout
        self._run = run
        self._image_root = image_root
        self._open: OrderedDict[int, pa.Table] = OrderedDict()

    def thumbnails(self, rows: Sequence[int]) -> list[bytes | None]:
        """WebP files of the crops that the model saw; None where there is none.

        Raises `StoreCorrupt` where a segment's file is cut short.
        """
        if not self._run["thumbnails"]:
            return [None] * len(rows)
        height = self._run["segment_rows"]
        found: list[bytes | None] = []
        for row in rows:
            table, within = self._segment(row // height), row % height
            if table is None:
                found.append(None)
                continue
            if within >= table.num_rows or table["row"][within].as_py() != row:
                raise self._damaged(row // height, f"row {row} is not in its place")
            found.append(table["webp"][within].as_py())
        return found

    def thumbnail(self, row: int) -> Image:
        """The crop that the model saw, 224 pixels at most; raises `ImageFileMissing`."""
        (webp,) = self.thumbnails([row])
        if webp is None:
            msg = (
                f"run {self._run['name']!r} keeps no thumbnail of row {row}; "
                "ingest without --no-thumbnails to keep them."
            )
            raise ImageFileMissing(msg)
        from PIL import Image

        return Image.open(BytesIO(webp)).convert("RGB")

    def original(self, key: str) -> Image | None:
        """The whole image, upright and RGB, if it is a file and still where it was."""
        root = Path(self._run["dataset_root"])
        if self._image_root is not None:
            root = self._image_root
        elif self._run["dataset_kind"] not in _FILES:
            return None
        path = (root.parent if root.is_file() else root) / key
        if not path.is_file():
            return None
        from PIL import Image, ImageOps

        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")

    @property
    def source(self) -> dict[str, Any]:
        """The run's row, with where its images are now to be read from again."""
        if self._image_root is None:
            return dict(self._run)
        # As for `original`: keys are paths below that folder.
        return {**self._run, "dataset_root": str(self._image_root), "dataset_kind": "folder"}

    def picture(self, row: int, key: str) -> Image:
        """The original if it is there, else the thumbnail; raises `ImageFileMissing`."""
        if (image := self.original(key)) is not None:
            return image
        try:
            return self.thumbnail(row)
        except ImageFileMissing as error:
            root = self._image_root or self._run["dataset_root"]
            msg = (
                f"{key!r} is no file under {root}, and {error} "
                "Where the images have moved, `open_store(path, image_root=...)` says where to."
            )
            raise ImageFileMissing(msg) from error

    def _segment(self, segment: int) -> pa.Table | None:
        if (known := self._open.get(segment)) is not None:
            return known
        import pyarrow as pa

        path = self._layout.thumbnails(self._run["folder"], segment)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except FileNotFoundError:
            return None  # none of its images has a thumbnail
        except (OSError, pa.ArrowInvalid) as error:
            raise self._damaged(segment, str(error)) from error
        self._open[segment] = table
        while len(self._open) > _SEGMENTS_KEPT:
            self._open.popitem(last=False)
        return table

    def _damaged(self, segment: int, why: str) -> StoreCorrupt:
        msg = (
            f"the thumbnails of segment {segment} of run {self._run['name']!r} are damaged "
            f"({why}); `lensbase verify {self._layout.root}` says what else is."
        )
        return StoreCorrupt(msg)
