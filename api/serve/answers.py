"""Rows as JSON and CSV: pages of a result, with what stands around them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Query, Request, Response
from pydantic import BaseModel, Field

from ..result import Result, jsonable

MOST_ROWS = 500
CSV_ROWS = 10_000
"""How many rows a CSV file has where nothing is said: as many as the SQL console takes."""

Limit = Annotated[int, Query(ge=1, le=MOST_ROWS, description="How many rows at most.")]
Offset = Annotated[int, Query(ge=0, le=2**31 - 1, description="How many rows to pass over.")]
Format: TypeAlias = Annotated[
    Literal["json", "csv"], Query(description="The same rows as JSON, or as CSV to download.")
]


class Rows(BaseModel):
    """Some rows of a result: those from `offset` on, of `total`.

    `next` and `prev` are filled by `Pages` where the question has an `offset`.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    total: int = Field(description="How many rows there are in all.")
    offset: int = 0
    note: str | None = None
    next: str | None = Field(default=None, description="The address of the rows after these.")
    prev: str | None = Field(default=None, description="The address of the rows before these.")


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


def address_of(request: Request, **changed: Any) -> str:
    """The path and query that a request asked for, as a link, with other values of some names.

    None takes a name away.
    """
    asked = parse_qsl(request.scope["query_string"].decode("ascii"), keep_blank_values=True)
    kept = [(name, value) for name, value in asked if name not in changed]
    query = urlencode(kept + [(n, v) for n, v in changed.items() if v is not None])
    return quote(request.scope["path"], safe="/:@!$&'()*+,;=~") + (f"?{query}" if query else "")


def main_rows(answer: BaseModel) -> Rows | None:
    """The rows that an answer is about: itself, or its field `rows`."""
    found = answer if isinstance(answer, Rows) else getattr(answer, "rows", None)
    return found if isinstance(found, Rows) else None


def has_rows(model: Any) -> bool:
    """Whether answers of this model have `main_rows`."""
    if not isinstance(model, type) or not issubclass(model, BaseModel):
        return False
    if issubclass(model, Rows):
        return True
    field = model.model_fields.get("rows")
    kinds = () if field is None else get_args(field.annotation) or (field.annotation,)
    return any(isinstance(kind, type) and issubclass(kind, Rows) for kind in kinds)


def add_links(answer: BaseModel, request: Request, asked: Mapping[str, Any]) -> None:
    """Say where the rows before and after an answer's are, where one can page through them."""
    rows = main_rows(answer)
    if rows is None or request.method != "GET" or not isinstance(asked.get("offset"), int):
        return
    step = asked.get("limit")
    step = step if isinstance(step, int) else max(len(rows.rows), 1)
    after = rows.offset + len(rows.rows)
    if rows.rows and after < rows.total:
        rows.next = address_of(request, offset=after)
    if rows.offset > 0:
        before = max(min(rows.offset, rows.total) - step, 0)
        rows.prev = address_of(request, offset=before or None)


def csv_response(rows: Rows, request: Request) -> Response:
    """Rows as a CSV file to download, named by the last word of the address.

    Lists and the like are written as JSON, what is missing as nothing.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(rows.columns)
    writer.writerows([_field(row[name]) for name in rows.columns] for row in rows.rows)
    word = request.scope["path"].rstrip("/").rpartition("/")[2]
    name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in word)
    return Response(
        out.getvalue().encode("utf-8", "replace"),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name or "rows"}.csv"',
            "X-Total-Count": str(rows.total),
        },
    )


def _field(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
