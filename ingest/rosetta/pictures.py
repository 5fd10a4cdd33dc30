"""The pictures that a zoo is mined with: a data set's, or samples of the zoo's generator.

Every member is shown the same square, so that a place in one member's map is the same place in
another's: only the size differs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...schema.errors import NoImages, RejectedImage
from ..images import decode
from .units import Batch

if TYPE_CHECKING:
    from ..sources import Source
    from .units import GeneratorMember

_THREADS = 4
_AHEAD = 4  # batches that wait, decoded, for the models
_NAMED = 3  # files that cannot be read, of all that cannot
_SUBMITTED = 4096  # pictures that threads are told of at once: each takes memory


class Pictures(Protocol):
    """Pictures in a fixed order."""

    @property
    def batch_size(self) -> int:
        """Pictures in a batch; the last one may have fewer."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """What each picture is called where it comes from."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Where they come from, in JSON: `kind`, `root`, and what else decides them."""
        ...

    def __len__(self) -> int: ...

    def from_image(self, start: int) -> Iterator[Batch]:
        """Batches of `batch_size` pictures from the given one on."""
        ...

    def at(self, positions: Sequence[int]) -> Batch:
        """Single pictures as one batch."""
        ...


def keys_sha256(keys: Sequence[str]) -> str:
    """Hash of the names of all pictures in order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def square(image: Image.Image) -> Image.Image:
    """The central square of a picture, as large as its shorter side."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class SourcePictures:
    """The readable pictures of a source: their keys and rows.

    `rejected` are keys and reasons of the others; `sha256` is of all that is in the files.
    """

    source: Source
    keys: tuple[str, ...]
    rows: tuple[int, ...]
    rejected: tuple[tuple[str, str], ...]
    sha256: str
    batch_size: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def facts(self) -> dict[str, Any]:
        """Kind and root of the source, how many images could not be read, what the others are."""
        return {
            "kind": self.source.kind,
            "root": self.source.root,
            "rejected": len(self.rejected),
            "sha256": self.sha256,
        }

    def left_out(self) -> str | None:
        """Which images cannot be read, and why, for people; None where all can."""
        count = len(self.rejected)
        if not count:
            return None
        said = (
            "1 image cannot be read and is"
            if count == 1
            else f"{count:,} images cannot be read and are"
        )
        named = "; ".join(f"{key} ({reason})" for key, reason in self.rejected[:_NAMED])
        more = f"; and {count - _NAMED:,} more" if count > _NAMED else ""
        return f"{said} left out: {named}{more}"

    def from_image(self, start: int) -> Iterator[Batch]:
        """Batches from a picture on, decoded ahead by a few threads."""
        starts = range(start, len(self), self.batch_size)
        read = _Reader(self.source)
        waiting: deque[list[Future[Image.Image]]] = deque()
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in starts:
                rows = self.rows[first : first + self.batch_size]
                waiting.append([pool.submit(read, row) for row in rows])
                if len(waiting) > _AHEAD:
                    yield Batch([one.result() for one in waiting.popleft()])
            while waiting:
                yield Batch([one.result() for one in waiting.popleft()])

    def at(self, positions: Sequence[int]) -> Batch:
        """Single pictures as one batch."""
        read = _Reader(self.source)
        return Batch([read(self.rows[position]) for position in positions])


def readable_pictures(
    source: Source, *, batch_size: int, progress: Callable[[int, int], None] | None = None
) -> SourcePictures:
    """The pictures of a source that can be decoded; each is decoded once to know.

    A mining run needs to know its pictures before it starts: one that fails on the way would
    leave two passes with different ones. Raises `NoImages` where none can be read.
    """
    every: list[str] = source.table().column("key").to_pylist()
    count = len(every)
    good: list[int] = []
    bad: list[tuple[str, str]] = []
    content = hashlib.sha256()
    reader = _Reader(source)
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, count, _SUBMITTED):
            rows = range(start, min(start + _SUBMITTED, count))
            for row, digest in zip(rows, pool.map(reader.digest, rows), strict=True):
                if isinstance(digest, str):
                    bad.append((every[row], digest))
                else:
                    good.append(row)
                    content.update(digest)
                if progress is not None:
                    progress(row + 1, count)
    if not good:
        first = f", the first of which is {bad[0][0]} ({bad[0][1]})" if bad else ""
        msg = (
            f"none of the {count} images of {source.root} can be read{first}; nothing can be mined."
        )
        raise NoImages(msg)
    keys = tuple(every[row] for row in good)
    return SourcePictures(source, keys, tuple(good), tuple(bad), content.hexdigest(), batch_size)


class _Reader:
    """Decoded squares of a source; files are read one at a time, since sources keep them open."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()

    def __call__(self, row: int) -> Image.Image:
        return square(decode(self._file(row)))

    def digest(self, row: int) -> bytes | str:
        """The hash of an image's file; the reason where it cannot be decoded."""
        try:
            data = self._file(row)
            decode(data)
        except RejectedImage as error:
            return error.reason
        except OSError as error:
            return error.strerror or type(error).__name__
        return hashlib.sha256(data).digest()

    def _file(self, row: int) -> bytes:
        with self._lock:
            return self._source.read(row)


@dataclass(frozen=True)
class SampledPictures:
    """Samples of a generator: latents drawn at once from a seed, whatever the batch size."""

    generator: GeneratorMember
    samples: int
    seed: int
    batch_size: int

    def __len__(self) -> int:
        return self.samples

    @cached_property
    def latents(self) -> Tensor:
        """All latents [samples, *latent]."""
        return self.generator.sample(self.samples, self.seed)

    @property
    def keys(self) -> list[str]:
        """`sample 0` and so on."""
        return [f"sample {number}" for number in range(self.samples)]

    @property
    def facts(self) -> dict[str, Any]:
        """The generator, and the seed of its samples."""
        return {
            "kind": "samples",
            "root": self.generator.name,
            "seed": self.seed,
            "weights_sha256": self.generator.weights_sha256,
            "preprocessing": self.generator.preprocessing,
        }

    def from_image(self, start: int) -> Iterator[Batch]:
        """Batches from a sample on."""
        for first in range(start, self.samples, self.batch_size):
            yield self._batch(self.latents[first : first + self.batch_size])

    def at(self, positions: Sequence[int]) -> Batch:
        """Single samples as one batch."""
        return self._batch(self.latents[torch.as_tensor(list(positions))])

    @torch.no_grad()
    def _batch(self, latents: Tensor) -> Batch:
        return Batch(as_pictures(self.generator.generate(latents)), latents)


def as_pictures(images: Tensor) -> list[Image.Image]:
    """Square pictures of images [n, 3, H, W] in [0, 1], to the nearest of 256 levels."""
    levels = (images.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return [square(Image.fromarray(one)) for one in levels.permute(0, 2, 3, 1).numpy()]


def as_array(pictures: Sequence[Image.Image], side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pictures as uint8 [n, side, side, 3], resized where they are larger or smaller."""
    sized = [one if one.size == (side, side) else one.resize((side, side)) for one in pictures]
    return np.stack([np.asarray(one.convert("RGB")) for one in sized])
