"""SQL of whoever asks, in processes of their own, which can be ended whatever they are doing."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import logging
import multiprocessing
import queue
import resource
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...schema import errors
from ...schema.errors import BadSQL, LensbaseError, ServerBusy
from ...schema.layout import Layout
from ...schema.snapshot import published_generation
from ..console import Most, Parameters
from ..result import Result

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    import pyarrow as pa

PROCESSES = 2
WAITING = 8  # questions that may wait; each holds one of the server's threads
PATIENCE = 10.0  # seconds that one waits for a process
GRACE = 2.0  # seconds past its limit after which a query that does not stop is ended
SECONDS = 10.0
MOST = Most(rows=10_000, bytes=16 * 2**20)

_MEMORY = 4 * 2**30  # what DuckDB itself is allowed, its result and Python
_BEGINNING = 60.0  # seconds that a new process may take until it listens
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Question:
    sql: str
    parameters: Parameters
    seconds: float


class SqlProcesses:
    """A few processes that each answer one query at a time, on the newest generation.

    One that does not stop in time is killed, and the next question gets a new one. Nothing is
    started before `start` or the first question.
    """

    def __init__(self, path: Path, *, count: int = PROCESSES) -> None:
        self._path = path
        self._admitted = threading.BoundedSemaphore(count + WAITING)
        self._free: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._all = [_Process(path) for _ in range(count)]
        for process in self._all:
            self._free.put(process)

    def start(self) -> None:
        """Start all processes; they get ready while the server goes on."""
        for process in self._all:
            process.start()

    def query(self, sql: str, parameters: Parameters = None, *, seconds: float = SECONDS) -> Result:
        """At most `MOST` rows and bytes of what `store.sql` gives; the note says if there are more.

        Raises `BadSQL` as that does, and `ServerBusy` where too many ask at once.
        """
        if not self._admitted.acquire(blocking=False):
            raise _busy()
        try:
            try:
                process = self._free.get(timeout=PATIENCE)
            except queue.Empty:
                raise _busy() from None
            try:
                table, cut = process.answer(_Question(sql, parameters, seconds))
            finally:
                self._free.put(process)
        finally:
            self._admitted.release()
        note = None
        if cut:
            note = (
                f"these are the first {table.num_rows:,} rows of more; ask for fewer, "
                "or open the store in Python for all."
            )
        return Result(table, note=note)

    def close(self) -> None:
        """End all processes."""
        for process in self._all:
            process.close()


class _Process:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._ready = False
        self._closed = False

    def start(self) -> None:
        with self._lock:
            if self._closed or (self._process is not None and self._process.is_alive()):
                return
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve_queries, args=(self._path, theirs), name="lensbase-sql", daemon=True
            )
            # Ctrl-C is for the server, which closes the pipe; a process inherits what is blocked.
            # Starting multiprocessing's own tracker would unblock it again.
            resource_tracker.ensure_running()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            except BaseException:
                ours.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                theirs.close()
            self._process, self._pipe, self._ready = process, ours, False

    def answer(self, question: _Question) -> tuple[pa.Table, bool]:
        import pyarrow as pa

        self.start()
        pipe = self._pipe
        if pipe is None:
            msg = "the server is about to end."
            raise ServerBusy(msg)
        try:
            if not self._ready:
                # Importing is no part of the query's time.
                if not pipe.poll(_BEGINNING):
                    self.end()
                    msg = "the process that runs queries does not begin; ask again."
                    raise ServerBusy(msg)
                self._ready = pipe.recv() == "ready"
            pipe.send(question)
            if not pipe.poll(question.seconds + GRACE):
                self.end()
                msg = (
                    f"the query took longer than {question.seconds:g} s and did not stop, so its "
                    "process was ended; ask for less."
                )
                raise BadSQL(msg)
            kind, *told = pipe.recv()
        except (EOFError, OSError) as error:
            self.end()
            msg = "the process that ran the query ended, most likely out of memory; ask for less."
            raise BadSQL(msg) from error
        if kind == "rows":
            return pa.ipc.open_stream(told[0]).read_all(), told[1]
        raise _error(told[0], told[1])

    def close(self) -> None:
        self._closed = True
        self.end()

    def end(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.join()
            if self._pipe is not None:
                self._pipe.close()
            self._process = self._pipe = None


def serve_queries(path: Path, pipe: Connection) -> None:
    """Answer the queries that come through a pipe, one after the other, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    from ..store import open_store

    store = None
    with suppress(LensbaseError):
        store = open_store(path)
    with suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            question = cast("_Question", pipe.recv())
            try:
                generation = published_generation(Layout(path))
                if store is None or store.generation != generation:
                    if store is not None:
                        store.close()
                    store = open_store(path)
                answer = _answer(store, question)
            except LensbaseError as error:
                answer = ("error", type(error).__name__, str(error))
            except MemoryError:
                answer = ("error", "BadSQL", "the query takes too much memory; ask for less.")
            except Exception as error:
                _LOG.exception("a query failed")
                answer = ("error", "BadSQL", f"the query cannot be run: {error}")
            pipe.send(answer)


def _answer(store: Any, question: _Question) -> tuple[str, bytes, bool]:
    import pyarrow as pa

    table, cut = store._console.query_some(
        question.sql, question.parameters, most=MOST, seconds=question.seconds
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return "rows", sink.getvalue().to_pybytes(), cut


def _error(name: str, message: str) -> LensbaseError:
    kind = getattr(errors, name, BadSQL)
    return kind(message) if issubclass(kind, LensbaseError) else BadSQL(message)


def _busy() -> ServerBusy:
    msg = "other SQL queries are running; ask again in some seconds."
    return ServerBusy(msg)
