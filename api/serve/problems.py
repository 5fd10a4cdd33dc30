"""Errors as HTTP answers: what was wrong and what would be right, never a traceback."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from ...schema.errors import (
    AmbiguousRun,
    ImageFileMissing,
    LensbaseError,
    ServerBusy,
    StoreCorrupt,
    TextNotStored,
)
from ...schema.zoo_errors import AmbiguousZoo
from .answers import Problem
from .guards import HEADERS
from .rendering import render

NOT_FOUND = 404
REFUSED = 422
UNAVAILABLE = 503


def status_of(error: LensbaseError) -> int:
    """The status that an error of ours stands for: 404, 422 or 503.

    Names that are not there are 404, questions that cannot be answered 422, a store that is
    damaged or a console that is busy 503.
    """
    if isinstance(error, StoreCorrupt | ServerBusy):
        return UNAVAILABLE
    if isinstance(error, TextNotStored | AmbiguousRun | AmbiguousZoo):
        return REFUSED
    if isinstance(error, LookupError | ImageFileMissing):
        return NOT_FOUND
    return REFUSED


def answer_problems(app: FastAPI) -> None:
    """Have an application say what went wrong: as JSON under `/api`, elsewhere as a page."""
    app.add_exception_handler(LensbaseError, _ours)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, LensbaseError)
    return _problem(
        request, status_of(error), Problem(error=type(error).__name__, message=str(error))
    )


def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()]
    return _problem(request, REFUSED, Problem(error="BadQuestion", message="; ".join(told)))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == NOT_FOUND:
        message = f"there is no {request.scope['path']}; / and /api say what there is."
    name = {400: "BadRequest", 404: "NotFound", 405: "MethodNotAllowed"}.get(
        error.status_code, "HTTPException"
    )
    response = _problem(request, error.status_code, Problem(error=name, message=message))
    response.headers.update(error.headers or {})
    return response


def _bug(request: Request, error: Exception) -> Response:
    # Outside all middleware, so it brings the headers itself; the server logs the traceback.
    message = "the server failed at this question; its log says where."
    problem = Problem(error=type(error).__name__, message=message)
    return JSONResponse(problem.model_dump(), 500, HEADERS)


def _problem(request: Request, status: int, problem: Problem) -> Response:
    # What somebody wrote may hold half a surrogate pair, which no answer can.
    problem.message = problem.message.encode("utf-8", "replace").decode()
    if request.scope["path"].startswith("/api/") or request.scope["path"] == "/api":
        headers = {"Retry-After": "5"} if status == UNAVAILABLE else None
        return JSONResponse(problem.model_dump(), status, headers)
    page = render(
        request.app.state.environment, "problem.html", problem, request=request, status=status
    )
    return HTMLResponse(page, status)
