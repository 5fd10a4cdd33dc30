"""Rows as JSON and CSV: pages of a result, with what stands around them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from ..result import Result, jsonable

MOST_ROWS = 500

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="How many rows at most.")]
Offset = Annotated[int, Query(ge=0, le=2**31 - 1, description="How many rows to pass over.")]


class Rows(BaseModel):
    """Some rows of a result: those from `offset` on, of `total`."""

    columns: list[str]
    rows: list[dict[str, Any]]
    total: int = Field(description="How many rows there are in all.")
    offset: int = 0
    note: str | None = None


class Problem(BaseModel):
    """What was wrong with a question."""

    error: str = Field(description="The error's class, such as UnknownComponent.")
    message: str


def rows_of(
    result: Result, *, limit: int | None = None, offset: int = 0, total: int | None = None
) -> Rows:
    """A slice of a result; `total` where the result is itself a slice of so many rows."""
    stop = len(result) if limit is None else offset + limit
    part = result if total is not None else result[offset:stop]
    return Rows(
        columns=result.columns,
        rows=[jsonable(row) for row in part.rows()],
        total=len(result) if total is None else total,
        offset=offset,
        note=result.note,
    )
