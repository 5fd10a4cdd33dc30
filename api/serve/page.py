"""Registering a page once: its facts as JSON under `/api/`, and rendered at the same path."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel

from .answers import CSV_ROWS, Format, add_links, address_of, csv_response, has_rows, main_rows
from .rendering import render

Facts = TypeVar("Facts", bound=Callable[..., BaseModel])

REQUEST = "request_of_page"
FORMAT = "format"
SEE_OTHER = 303
_REQUIRED = inspect.Parameter.empty
_DEFAULTS = {FORMAT: "json"}


class AnswerRoute(APIRoute):
    """A JSON route; where its model is `Rows`, or has a field `rows` of them, two things more.

    It takes `?format=csv`, which gives all rows (`CSV_ROWS` at most) where no `limit` is asked for,
    and its rows are told the addresses of those before and after them,
    where the function has a parameter `offset`.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        model = inspect.signature(endpoint, eval_str=True).return_annotation
        if has_rows(model):
            endpoint = _with_rows(endpoint)
            described = {"content": {"text/csv": {"schema": {"type": "string"}}}}
            options["responses"] = {200: described} | (options.get("responses") or {})
        super().__init__(path, endpoint, **options)


class Pages:
    """Routes of the dashboard: `json`, to be mounted under `/api`, and `html`.

    Nothing has to be done for CSV and paging links: see `AnswerRoute`.
    """

    def __init__(self, tag: str) -> None:
        self.json = APIRouter(tags=[tag], route_class=AnswerRoute)
        self.html = APIRouter(include_in_schema=False)

    def page(self, path: str, template: str, *, json: bool = True) -> Callable[[Facts], Facts]:
        """Serve what a function gives at `/api` + path as JSON, and at path as a page.

        The function's parameters are the route's; its return annotation is the JSON's schema.
        Without `json` it is a page only, and what answers at `/api` + path another function. A
        function that sets `request.state.status` gives its page that status, one that sets
        `request.state.instead` leads from its page to that path.
        """

        def register(facts: Facts) -> Facts:
            if json:
                self.json.get(path)(facts)
            self.html.get(path, response_class=HTMLResponse)(_rendered(facts, template))
            return facts

        return register


def _rendered(facts: Callable[..., BaseModel], template: str) -> Callable[..., Response]:
    @functools.wraps(facts)
    def page(**given: Any) -> Response:
        request = _taken(facts, given)
        found = facts(**given)
        if hasattr(request.state, "instead"):
            return RedirectResponse(request.state.instead, SEE_OTHER)
        add_links(found, request, given)
        environment = request.app.state.environment
        link = environment.globals["link"]
        data = link(f"/api{address_of(request)}")
        csv = link(f"/api{address_of(request, limit=None, offset=None, format='csv')}")
        further = {"request": request, "data": data, "csv": csv, "most": CSV_ROWS}
        content = render(environment, template, found, **further)
        return HTMLResponse(content, getattr(request.state, "status", 200))

    asked = {REQUEST: Request}
    page.__signature__ = _extended(facts, asked, returns=HTMLResponse)  # pyright: ignore[reportAttributeAccessIssue]
    return page


def _with_rows(facts: Callable[..., BaseModel]) -> Callable[..., BaseModel | Response]:
    @functools.wraps(facts)
    def answer(**given: Any) -> BaseModel | Response:
        request = _taken(facts, given)
        wanted = given.pop(FORMAT)
        if wanted == "csv" and "limit" in given and "limit" not in request.query_params:
            # A file is not read by pages: it has all rows unless somebody says how many.
            given["limit"] = CSV_ROWS
        found = facts(**given)
        rows = main_rows(found)
        if wanted == "csv" and rows is not None:
            return csv_response(rows, request)
        add_links(found, request, given)
        return found

    asked = {REQUEST: Request, FORMAT: Format}
    answer.__signature__ = _extended(facts, asked)  # pyright: ignore[reportAttributeAccessIssue]
    return answer


@functools.cache
def _own_request(facts: Callable[..., Any]) -> str | None:
    """The parameter by which a function takes the request itself, if it does."""
    parameters = inspect.signature(facts, eval_str=True).parameters
    return next((name for name, one in parameters.items() if one.annotation is Request), None)


def _taken(facts: Callable[..., Any], given: dict[str, Any]) -> Request:
    """The request, out of what is given unless the function takes it."""
    own = _own_request(facts)
    return given.pop(REQUEST) if own is None else given[own]


def _extended(
    facts: Callable[..., Any], asked: dict[str, Any], *, returns: Any = None
) -> inspect.Signature:
    """A function's signature, all by keyword, with some parameters more."""
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.signature(facts, eval_str=True)
    if _own_request(facts) is not None:
        # FastAPI gives the request to one parameter only.
        asked = {name: one for name, one in asked.items() if one is not Request}
    own = [one.replace(kind=kind) for one in signature.parameters.values()]
    more = [
        inspect.Parameter(name, kind, annotation=asks, default=_DEFAULTS.get(name, _REQUIRED))
        for name, asks in asked.items()
    ]
    return signature.replace(
        parameters=[*own, *more],
        return_annotation=signature.return_annotation if returns is None else returns,
    )
