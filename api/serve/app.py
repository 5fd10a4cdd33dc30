"""The application that `lensbase serve` runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from ...schema.errors import LensbaseError
from .answers import Problem
from .opened import ServedStore
from .pages import runs
from .problems import status_of
from .rendering import HERE, make_environment, render

_PAGES = (runs.pages,)


def create_app(path: Path, *, image_root: Path | None = None) -> FastAPI:
    """Serve one store: JSON under `/api/`, pages beside it; nothing can be written.

    Raises what `open_store` raises.
    """
    served = ServedStore(path, image_root=image_root)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        served.close()

    app = FastAPI(
        title="lensbase",
        version=version("lensbase"),
        description="A vision model's inner workings, from one store.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={status: {"model": Problem} for status in (404, 422)},
    )
    app.state.served = served
    app.state.environment = make_environment(lambda path: path)
    api = APIRouter(prefix="/api")
    for pages in _PAGES:
        api.include_router(pages.json)
        app.include_router(pages.html)
    app.include_router(api)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(LensbaseError, _ours)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    return app


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, LensbaseError)
    return _problem(request, status_of(error), type(error).__name__, str(error))


def _malformed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()]
    return _problem(request, 422, "BadQuestion", "; ".join(told))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(request, error.status_code, "HTTPException", str(error.detail))


def _problem(request: Request, status: int, name: str, message: str) -> Response:
    problem = Problem(error=name, message=message)
    if request.url.path.startswith("/api/"):
        return JSONResponse(problem.model_dump(), status)
    page = render(
        request.app.state.environment, "problem.html", problem, request=request, status=status
    )
    return HTMLResponse(page, status)
