"""Batches of preprocessed images, read and decoded by worker processes, in the order asked for.

Each worker makes whole batches, on one thread; `prefetch` of them wait for each worker, which
bounds the memory to `workers * prefetch` batches.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ..schema.errors import PreprocessFailed, WorkerDied
from .images import ImageRecord, describe
from .preprocessing import Preprocessing, thumbnail

if TYPE_CHECKING:
    from .sources import Source


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a source, decoded.

    `rows` int64 [n] are the rows' numbers, `ok` bool [n] is False for rejected ones, `records` has
    n entries and so has `thumbnails` (None for rejected rows); `images` float32 [ok.sum(), 3, H, W]
    holds only the good ones, in order.
    """

    rows: npt.NDArray[np.int64]
    images: torch.Tensor
    ok: npt.NDArray[np.bool_]
    records: list[ImageRecord]
    thumbnails: list[bytes | None]


def batches(
    source: Source,
    rows: Iterable[Sequence[int]],
    *,
    preprocess: Callable[[Any], Any],
    workers: int,
    prefetch: int = 2,
    thumbnails: bool = True,
) -> Generator[Batch]:
    """One `Batch` for each range (or list) of `rows`, in order; close the iterator to stop early.

    `preprocess` takes an RGB `PIL.Image.Image` and gives a float tensor [3, H, W], the same shape
    for every image; with `workers=0` everything happens in this process.
    Images that cannot be read or decoded are rejected in their records and never raise.
    Raises `PreprocessFailed` where `preprocess` fails on a good image, and `WorkerDied` where a
    worker process ends before its work is done.
    """
    work = _Decoding(source, Preprocessing(preprocess), thumbnails=thumbnails)
    if workers == 0:
        yield from (_checked(work[batch]) for batch in rows)
        return
    loader: DataLoader[Any] = DataLoader(
        work,
        batch_size=None,
        sampler=rows,
        num_workers=workers,
        prefetch_factor=prefetch,
        collate_fn=_packed,
        worker_init_fn=functools.partial(_end_with, os.getpid()),
        # Forked workers inherit the source's table; Python's own default is asked elsewhere.
        multiprocessing_context="fork" if _can_fork() else None,
        # Without one of its own, each loader moves the process's random state.
        generator=torch.Generator(),
    )
    with _workers_without_signals(), _garbage_kept():
        results = iter(loader)
    try:
        while True:
            try:
                packed = next(results)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:
                if not _is_death(error):
                    raise
                raise _worker_died() from None
            yield _checked(_unpacked(packed))
            del packed
    finally:
        # A traceback may keep `results` alive long after an error: its workers must not stay.
        results._shutdown_workers()  # pyright: ignore


class _Decoding(Dataset[Any]):
    """What a worker does with one batch of rows."""

    def __init__(self, source: Source, preprocessing: Preprocessing, *, thumbnails: bool) -> None:
        self._source = source
        self._preprocessing = preprocessing
        self._thumbnails = thumbnails

    def __getitem__(self, index: Sequence[int]) -> Batch | _Failure:
        records: list[ImageRecord] = []
        tensors: list[torch.Tensor] = []
        thumbnails: list[bytes | None] = []
        for row in index:
            image, record = self._read(row)
            records.append(record)
            if image is None:
                thumbnails.append(None)
                continue
            try:
                tensor, crop = self._preprocessing(image)
                tensors.append(_shaped(tensor, like=tensors))
            except Exception as error:
                return _Failure(row, f"{type(error).__name__}: {error}")
            kept = crop if self._thumbnails else None
            thumbnails.append(None if kept is None else thumbnail(kept))
        ok = np.array([record.reason is None for record in records], dtype=np.bool_)
        images = _stacked(tensors) if tensors else self._no_images()
        return Batch(np.array(index, dtype=np.int64), images, ok, records, thumbnails)

    def _read(self, row: int) -> tuple[Image.Image | None, ImageRecord]:
        try:
            data = self._source.read(row)
        except OSError as error:
            reason = f"unreadable: {error.strerror or error}"
            return None, ImageRecord(None, None, None, 0, reason)
        return describe(data)

    def _no_images(self) -> torch.Tensor:
        blank, _ = self._preprocessing(Image.new("RGB", (256, 256)))
        return torch.empty((0, *blank.shape), dtype=torch.float32)


@dataclass(frozen=True, slots=True)
class _Failure:
    row: int
    message: str


def _checked(result: Batch | _Failure) -> Batch:
    if isinstance(result, Batch):
        return result
    msg = (
        f"preprocessing failed on row {result.row}, a good image: {result.message}; "
        "preprocess= takes an RGB PIL image and gives a float tensor [3, H, W]"
    )
    raise PreprocessFailed(msg)


def _shaped(tensor: object, *, like: list[torch.Tensor]) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != 3 or len(tensor) != 3:
        what = f"a tensor {list(tensor.shape)}" if isinstance(tensor, torch.Tensor) else tensor
        msg = f"it gave {what}"
        raise TypeError(msg)
    if not tensor.is_floating_point():
        msg = f"it gave a tensor of {tensor.dtype}"
        raise TypeError(msg)
    if like and tensor.shape != like[0].shape:
        msg = f"it gave {list(tensor.shape)} after {list(like[0].shape)}"
        raise ValueError(msg)
    return tensor


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    images = torch.empty((len(tensors), *tensors[0].shape), dtype=torch.float32)
    for index, tensor in enumerate(tensors):
        images[index] = tensor
    return images


def _is_death(error: Exception) -> bool:
    """Whether this is how the loss of a worker shows: told, or by a connection that broke off."""
    told = str(error)
    if isinstance(error, RuntimeError):
        return told.startswith("DataLoader worker") and ("exited" in told or "killed" in told)
    return isinstance(error, EOFError | ConnectionError | FileNotFoundError)


def _worker_died() -> WorkerDied:
    msg = (
        "a decoding process ended before its work was done, mostly because memory (or /dev/shm, "
        "through which batches travel) ran out; run the same command again with fewer --workers, "
        "or with --workers 0"
    )
    return WorkerDied(msg)


def _packed(result: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """A result as two tensors, which travel in shared memory.

    What goes through the pipe must be small: a worker killed in the middle of a long message would
    leave its reader waiting for the rest for ever.
    """
    if isinstance(result, Batch):
        images = result.images
        rest = pickle.dumps((result.rows, result.ok, result.records, result.thumbnails))
    else:
        images, rest = torch.empty(0), pickle.dumps(result)
    return images, torch.frombuffer(bytearray(rest), dtype=torch.uint8)


def _unpacked(packed: tuple[torch.Tensor, torch.Tensor]) -> Batch | _Failure:
    images, rest = packed
    parts: Any = pickle.loads(rest.numpy().data)
    if isinstance(parts, _Failure):
        return parts
    rows, ok, records, thumbnails = parts
    return Batch(rows, images, ok, records, thumbnails)


def _can_fork() -> bool:
    # macOS has fork, but its system libraries break in the child.
    return "fork" in multiprocessing.get_all_start_methods() and os.uname().sysname != "Darwin"


@contextlib.contextmanager
def _workers_without_signals() -> Generator[None]:
    """Starts workers that leave Ctrl-C to their parent, and errors to the iterator.

    A signal mask is inherited where a handler set by the worker itself would come too late.
    DataLoader's own handler raises wherever the main thread happens to be when a worker dies;
    without it, the iterator notices within five seconds.
    """
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGCHLD, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _garbage_kept() -> Generator[None]:
    """Starts workers that leave their parent's garbage alone.

    A forked process that collects, say, a database of its parent waits for threads that it does
    not have, or crashes.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _end_with(parent: int, _worker: int) -> None:
    """Ends this worker when its parent is gone, killed without a chance to say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
