"""Long work while it goes on: a bar for who watches, lines in the log for who reads later.

Bars are drawn on a terminal's stderr and in notebooks, and nowhere else. What is said goes through
`logging`, at level INFO, to the logger of the module at work (`lensbase.ingest.job` and so on).
"""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from logging import Logger

    from tqdm import tqdm

Tell: TypeAlias = Callable[[int, int], None]
"""Is told how many are done, and of how many."""

Progress: TypeAlias = Tell | bool | None
"""Whether a bar is shown: by itself (None), always, or never; or a function told instead."""

_FORMAT = (
    "{desc}{percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt}{unit}, {rate_fmt}, {remaining} left"
)
_CELL_WIDTH = 90  # characters, of a bar in a notebook
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_drawing: ContextVar[Stage | None] = ContextVar("drawing", default=None)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", {})


def is_watched() -> bool:
    """Whether somebody would see a bar: in a notebook, or where stderr is a terminal."""
    # A process without a console has no stderr at all.
    error: object = sys.stderr
    return in_notebook() or (error is not None and sys.stderr.isatty())


def spare_widget_warning() -> None:
    """In a notebook, let no library warn that widgets for its progress bars are missing.

    `tqdm.auto` does when it is first imported, and libraries of models import it.
    """
    if in_notebook():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("tqdm.auto")


@contextmanager
def quiet(silent: bool = True) -> Generator[None]:
    """Show no bar of any work within, unless it is asked for there."""
    token = _quiet.set(silent or _quiet.get())
    try:
        yield
    finally:
        _quiet.reset(token)


class Stage:
    """One piece of long work: `tell` how far it is, `say` what begins."""

    def __init__(
        self,
        log: Logger,
        unit: str,
        *,
        progress: Progress = None,
        notice: Callable[[str], None] | None = None,
        delay: float = 0,
    ) -> None:
        self._log, self._unit, self._delay = log, unit, delay
        self._notice = notice
        self._told = progress if callable(progress) else None
        if progress is None:
            self._shown = is_watched() and not _quiet.get()
        else:
            self._shown = progress is True
        self._what = ""
        self._bar: tqdm[NoReturn] | None = None

    def tell(self, done: int, total: int, what: str = "") -> None:
        """Show how many are done; another total, fewer done, or another name, begin a new bar.

        What was there at a bar's first call does not count towards its rate.
        """
        if self._told is not None:
            self._told(done, total)
        if not self._shown:
            return
        bar = self._bar
        if bar is not None and (total, what) == (bar.total, self._what) and done >= bar.n:
            bar.update(done - bar.n)
            return
        # Work within other work follows below its bar.
        for drawn in (self, _drawing.get()):
            if drawn is not None:
                drawn.close()
        _drawing.set(self)
        self._what = what
        self._bar = self._new(done, total)

    def say(self, message: str) -> None:
        """Log what begins or is noticed, and show it below the bar of what has ended."""
        self._log.info("%s", message)
        if self._notice is not None:
            self._notice(message)
        if self._shown:
            self.close()
            if in_notebook():
                _Cell().write(message)
            else:
                sys.stderr.write(f"{message}\n")

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _new(self, done: int, total: int) -> tqdm[NoReturn]:
        from tqdm import tqdm

        cell = in_notebook()
        return tqdm(
            total=total,
            initial=done,
            desc=f"{self._what}: " if self._what else None,
            unit=f" {self._unit}s",
            bar_format=_FORMAT,
            delay=self._delay,
            dynamic_ncols=not cell,
            ncols=_CELL_WIDTH if cell else None,
            mininterval=0.25 if cell else 0.1,
            file=_Cell() if cell else sys.stderr,
        )


@contextmanager
def stage(
    log: Logger,
    what: str,
    *,
    unit: str,
    progress: Progress = None,
    notice: Callable[[str], None] | None = None,
    delay: float = 0,
) -> Generator[Stage]:
    """Do long work: log what begins and how long it took, show a bar of so many `unit`s meanwhile.

    `delay` are seconds before a bar appears, for work that may be short. `notice` is told what is
    said, beside the log.
    """
    found = Stage(log, unit, progress=progress, notice=notice, delay=delay)
    log.info("%s", what)
    began = time.perf_counter()
    ended = "stopped after"
    try:
        with quiet(progress is False or callable(progress)):
            yield found
        ended = "took"
    finally:
        found.close()
        log.info("%s %s %.1f s", what, ended, time.perf_counter() - began)


class _Cell:
    """A file whose last line stands in a notebook's output, as text: no widget has to be there."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._shown = f"lensbase-{id(self)}-{time.monotonic_ns()}"
        self._begun = False

    def write(self, text: str) -> int:
        """Show a line in place of the one before."""
        line = text.strip("\r\n ")
        if line:
            from IPython.display import publish_display_data

            publish_display_data(
                {"text/plain": line}, transient={"display_id": self._shown}, update=self._begun
            )
            self._begun = True
        return len(text)

    def flush(self) -> None:
        """Nothing waits to be shown."""
