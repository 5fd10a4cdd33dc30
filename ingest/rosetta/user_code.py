"""Errors of code that is not ours, such as a user's own constructor: what was raised, and where."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from ...schema.errors import LensbaseError
from ...schema.zoo_errors import ForwardFailed

_OURS: Final = Path(__file__).resolve().parent.parent
_LONGEST = 300


def raised(error: BaseException) -> str:
    """What an error says on one line, and the last line of a user's file that led to it.

    Such as `RuntimeError: my own bug (tiny_zoo.py, line 24)`; without a place where only installed
    libraries' lines led there.
    """
    if isinstance(error, SyntaxError) and error.filename:
        text, place = error.msg, (error.filename, error.lineno)
    else:
        text, place = str(error), _place(error)
    first = text.strip().partition("\n")[0][:_LONGEST]
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return said if place is None else f"{said} ({Path(place[0]).name}, line {place[1]})"


@contextmanager
def forward_of(name: str, *, over: str) -> Generator[None]:
    """Raise `ForwardFailed` for what a model raises in a forward pass `over` some pictures.

    Errors of ours and of a lack of memory stay what they are.
    """
    try:
        yield
    except (LensbaseError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        msg = (
            f"{name}: the forward pass over {over} raised {raised(error)}; check its input size "
            "and what it takes."
        )
        raise ForwardFailed(msg) from error


def _place(error: BaseException) -> tuple[str, int | None] | None:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        installed = {"site-packages", "dist-packages"} & set(path.parts)
        if not frame.filename.startswith("<") and not installed and _OURS not in path.parents:
            return frame.filename, frame.lineno
    return None
