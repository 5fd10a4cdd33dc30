"""Parts of a page that a run may lack: their rows, or how to keep what they need."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, Field

from ...schema.errors import (
    HeadNotStored,
    HeadTokensNotStored,
    NeuronInputNotStored,
    NeuronsNotStored,
    RunIncomplete,
    TextNotStored,
    TokensNotStored,
    UnknownPool,
)
from ..result import Result
from .answers import Rows, rows_of

_LACKING = (
    HeadNotStored,
    HeadTokensNotStored,
    NeuronInputNotStored,
    NeuronsNotStored,
    RunIncomplete,
    TextNotStored,
    TokensNotStored,
    UnknownPool,
)


class Section(BaseModel):
    """Rows, or what is missing for them."""

    rows: Rows | None = None
    missing: str | None = Field(
        default=None, description="Why there are no rows, and how to get them."
    )


def section(ask: Callable[[], Result]) -> Section:
    """Ask for rows that a run may have kept nothing for; other errors are the caller's."""
    try:
        return Section(rows=rows_of(ask()))
    except _LACKING as error:
        return Section(missing=str(error))


def lacking(need: Callable[[], object]) -> str | None:
    """Why something cannot be had, or None where it can."""
    try:
        need()
    except _LACKING as error:
        return str(error)
    return None
