"""Writing segments in the background, one at a time: back-pressure blocks, nothing is dropped."""

from __future__ import annotations

import queue
import threading
from types import TracebackType
from typing import Self

from .segment import SegmentBuffer


class SegmentWriter:
    """A thread that writes and commits segments in order.

    One segment is filled while the one before it is written, so memory stays bounded whatever
    the number of images. A failure (a full disk) is raised by the next `submit` or at the end.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[SegmentBuffer | None] = queue.Queue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="segment-writer", daemon=True)
        self._thread.start()

    def submit(self, segment: SegmentBuffer) -> None:
        """Hand over a filled segment; blocks while the one before it is written."""
        self._queue.join()
        self._raise_failure()
        self._queue.put(segment)

    def __enter__(self) -> Self:
        """Start of use; the thread already runs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until what was handed over is committed, then raise the writer's failure."""
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (segment := self._queue.get()) is not None:
            # After a failure the queue is still emptied, so that nobody waits on it for ever.
            if self._failure is None:
                try:
                    segment.write()
                except BaseException as error:
                    self._failure = error
            del segment
            self._queue.task_done()
