"""What a command says when it cannot go on: one line on stderr, and an exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from ...schema.errors import LensbaseError

FAILED = 2
INTERRUPTED = 130

_RESUMABLE = ("demo", "ingest", "finalize")
_MODEL_LIBRARIES = ("open_clip", "safetensors", "timm", "torch", "torchvision")
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CommandLine(TyperGroup):
    """All commands; what they raise on purpose, or the system does, becomes one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        words = list(ctx.args)  # behind the first; Click forgets them as it goes on
        with _heard_interrupts() as asked:
            try:
                result = super().invoke(ctx)
                sys.stdout.flush()
            except KeyboardInterrupt:
                raise _interrupted(ctx, words) from None
            except BrokenPipeError:
                # Whoever read our output has seen enough; nothing is left to flush at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except Exception as error:
                if asked:
                    raise _interrupted(ctx, words) from None
                message = _explained(error)
                if message is None:
                    raise
                _say(f"Error: {message}")
                raise typer.Exit(FAILED) from None
        return result


def one_line(message: str) -> str:
    """A message without line breaks, and without the excerpt that DuckDB points into."""
    return " ".join(re.sub(r"\n+LINE \d+:.*\n[\s^]*", "\n", message).split())


@contextlib.contextmanager
def _heard_interrupts() -> Generator[list[int]]:
    """Collect the Ctrl-C's of this command.

    DuckDB and Arrow take a KeyboardInterrupt that comes in the middle of a call for themselves,
    and raise an error of their own.
    """
    asked: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.default_int_handler(number, frame)

    before = signal.getsignal(signal.SIGINT)
    heard = before is signal.default_int_handler
    if heard:
        signal.signal(signal.SIGINT, hear)
    try:
        yield asked
    finally:
        if heard:
            signal.signal(signal.SIGINT, before)


def _interrupted(ctx: Any, words: list[str]) -> typer.Exit:
    stays = "what was committed stays, and the same command goes on from there"
    command = ctx.invoked_subcommand
    resumable = command in _RESUMABLE or (command, *words[:1]) == ("rosetta", "mine")
    _say(f"Interrupted{f': {stays}' if resumable else ''}.")
    return typer.Exit(INTERRUPTED)


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _explained(error: Exception) -> str | None:
    """Say what is wrong where that is no bug of ours; None where it is."""
    if any(_is_full(one) for one in _chain(error)):
        return (
            "the disk is full. What was committed stays: make room, and the same command again "
            "goes on from there."
        )
    if isinstance(error, LensbaseError):
        return one_line(str(error))
    if isinstance(error, ImportError):
        library = (error.name or "").partition(".")[0]
        if library in _MODEL_LIBRARIES:
            return (
                f"this command needs a model, and {library} is not installed; "
                '`pip install "lensbase[ingest]"` installs it.'
            )
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return one_line(f"{error.strerror}{where}")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full(error: BaseException) -> bool:
    # DuckDB's and Arrow's own errors carry the system's message, not its number.
    number = getattr(error, "errno", None)
    return number in _FULL or "No space left on device" in str(error)
