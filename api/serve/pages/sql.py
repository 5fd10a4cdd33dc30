"""The SQL console: any query on the store's views, run in a process that can be ended."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field

from ....schema.errors import LensbaseError
from ...store import Store
from ..answers import Offset, Problem, Rows, rows_of
from ..asked import Asked
from ..page import Pages
from ..problems import status_of
from ..sql_process import MOST, SECONDS, SqlProcesses

pages = Pages("sql")

SHOWN = 50
MOST_SECONDS = 30.0

_VIEWS = """SELECT relation AS view, min(comment) FILTER ("column" IS NULL) AS comment,
    list({name: "column", type: type, comment: comment} ORDER BY position)
        FILTER ("column" IS NOT NULL) AS columns
    FROM (SELECT *, row_number() OVER () AS position FROM data_dictionary)
    WHERE relation IN (SELECT view_name FROM duckdb_views() WHERE NOT internal)
    GROUP BY relation ORDER BY relation"""

_EXAMPLES = (
    ("What can be asked", 'SELECT relation, "column", type, comment FROM data_dictionary'),
    ("Runs", "SELECT run, model, images, status FROM runs"),
    ("Images by label", "SELECT label, count(*) AS images FROM images GROUP BY label ORDER BY ALL"),
    (
        "Heads by what they write",
        "SELECT run, component, mean_norm, mean_share FROM heads ORDER BY mean_norm DESC",
    ),
    (
        "Texts of heads",
        "SELECT run, component, rank, text FROM head_texts ORDER BY run, component, rank",
    ),
)

Seconds = Annotated[
    float, Query(gt=0, le=MOST_SECONDS, allow_inf_nan=False, description="Stopped after that.")
]
RowLimit = Annotated[int, Query(ge=1, le=MOST.rows, description="How many rows at most.")]
Sql = Annotated[
    str,
    Query(
        max_length=6000,
        description="One SELECT on the views; POST takes longer ones.",
        examples=["SELECT run, images FROM runs"],
    ),
]
Value = str | int | float | bool | None


class SqlQuestion(BaseModel):
    """A query with its parameters."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"query": "SELECT run FROM runs WHERE images > ?", "params": [10]}]
        },
    )

    query: str = Field(max_length=50_000, description="One SELECT on the views.")
    params: list[Value | list[Value]] | dict[str, Value | list[Value]] | None = Field(
        default=None, description="Values of `?` (a list) or `$name` (an object)."
    )
    seconds: float = Field(default=SECONDS, gt=0, le=MOST_SECONDS, allow_inf_nan=False)
    limit: int = Field(default=SHOWN, ge=1, le=MOST.rows)
    offset: int = Field(default=0, ge=0, le=2**31 - 1)


class SqlColumn(BaseModel):
    """A column of a view."""

    name: str
    type: str
    comment: str | None


class SqlView(BaseModel):
    """A view that queries can ask."""

    view: str
    comment: str | None
    columns: list[SqlColumn]


class SqlExample(BaseModel):
    """A query to begin with."""

    title: str
    query: str


class SqlPage(BaseModel):
    """The console: what was asked, its rows or what was wrong with it, and what can be asked."""

    query: str
    rows: Rows | None
    problem: Problem | None
    python: str
    views: list[SqlView]
    examples: list[SqlExample]


@pages.json.get("/sql")
def ask_sql(
    request: Request,
    *,
    query: Sql,
    seconds: Seconds = SECONDS,
    limit: RowLimit = SHOWN,
    offset: Offset = 0,
) -> Rows:
    """Answer an SQL query on the store's views; it can reach nothing else.

    No more than the first 10,000 rows or 16 MiB are taken; the note says where there are more.
    """
    found = _processes(request).query(query, seconds=seconds)
    return rows_of(found, limit=limit, offset=offset)


@pages.json.post("/sql")
def post_sql(request: Request, question: SqlQuestion) -> Rows:
    """Answer an SQL query with parameters, or one too long for an address."""
    found = _processes(request).query(question.query, question.params, seconds=question.seconds)
    return rows_of(found, limit=question.limit, offset=question.offset)


@pages.json.get("/sql/views")
def sql_views(store: Asked) -> list[SqlView]:
    """The views that SQL can ask, and their columns."""
    return _views(store)


@pages.page("/sql", "sql.html", json=False)
def sql_page(request: Request, store: Asked, *, query: Sql = "", offset: Offset = 0) -> SqlPage:
    """The SQL console."""
    rows: Rows | None = None
    problem: Problem | None = None
    if query.strip():
        try:
            rows = rows_of(_processes(request).query(query), limit=SHOWN, offset=offset)
        except LensbaseError as error:
            problem = Problem(error=type(error).__name__, message=str(error))
            request.state.status = status_of(error)
    return SqlPage(
        query=query,
        rows=rows,
        problem=problem,
        python=_call(query.strip()) if rows is not None else "",
        views=_views(store),
        examples=[SqlExample(title=title, query=sql) for title, sql in _EXAMPLES],
    )


def _call(query: str) -> str:
    # Lines stay lines where nothing in them would end the text or mean another character.
    plain = '"""' not in query and "\\" not in query and not query.endswith('"')
    return f'store.sql("""{query}""")' if plain else f"store.sql({query!r})"


def _processes(request: Request) -> SqlProcesses:
    return request.app.state.sql


def _views(store: Store) -> list[SqlView]:
    return [SqlView.model_validate(row) for row in store.sql(_VIEWS).rows()]
