"""The application that `lensbase serve` runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from .answers import Problem
from .caching import Caching
from .guards import Guards
from .opened import ServedStore
from .pages import (
    experiments,
    heads,
    images,
    neurons,
    pictures,
    rosetta,
    rosetta_rows,
    run,
    runs,
    search,
    sql,
)
from .problems import answer_problems
from .rendering import HERE, make_environment
from .sql_process import SqlProcesses

PAGES = (
    runs.pages,
    run.pages,
    heads.pages,
    neurons.pages,
    images.pages,
    pictures.pages,
    search.pages,
    experiments.pages,
    rosetta.pages,
    rosetta_rows.pages,
    sql.pages,
)

_PROBLEMS = {
    400: "The address or the body is malformed.",
    401: "The server was started with a token, and this request brings none or another.",
    403: "The request comes from another site's page, or names another host.",
    404: "Something that the address names is not there.",
    413: "The body is too long.",
    414: "The address is too long.",
    422: "The question cannot be answered; the message says what can.",
    503: "The store is damaged, or the server busy.",
}


class Address(BaseModel):
    """One address that answers in JSON."""

    path: str
    methods: list[str]
    summary: str


class Addresses(BaseModel):
    """What can be asked, and where the document of it all is."""

    title: str
    version: str
    generation: int
    openapi: str
    addresses: list[Address]


def create_app(
    path: Path,
    *,
    image_root: Path | None = None,
    token: str | None = None,
    loopback: bool = False,
    new_texts: bool = True,
) -> FastAPI:
    """Serve one store: JSON under `/api/`, pages beside it; nothing can be written.

    Every request has to bring the `token`, where there is one. `loopback` says that only this
    machine can ask. Without `new_texts` no model is loaded, so texts have to be stored ones.
    Raises what `open_store` raises.
    """
    served = ServedStore(path, image_root=image_root, load_models=new_texts)
    processes = SqlProcesses(path)

    def get_ready() -> None:
        for name in app.state.environment.list_templates(extensions=["html"]):
            app.state.environment.get_template(name)
        served.warm()
        processes.start()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        # Nothing is listened to before, so that whoever asks first need not wait for imports.
        await anyio.to_thread.run_sync(get_ready)
        yield
        processes.close()
        served.close()

    app = FastAPI(
        title="lensbase",
        version=version("lensbase"),
        description="A vision model's inner workings, from one store.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        # The guards look at the token; this tells the document of it.
        dependencies=[] if token is None else [Depends(HTTPBearer(auto_error=False))],
        generate_unique_id_function=_operation,
        responses={
            status: {"model": Problem, "description": told} for status, told in _PROBLEMS.items()
        },
    )
    app.state.path = str(path)
    app.state.served = served
    app.state.sql = processes
    app.state.environment = make_environment(lambda path: path)
    api = APIRouter(prefix="/api")
    for pages in PAGES:
        api.include_router(pages.json)
        app.include_router(pages.html)
    app.include_router(api)
    app.get("/api", tags=["store"])(api_root)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    answer_problems(app)
    app.add_middleware(Caching, secret=token is not None)
    app.add_middleware(Guards, token=token, loopback=loopback)
    return app


def api_root(request: Request) -> Addresses:
    """List what can be asked in JSON."""
    app: FastAPI = request.app
    document = app.openapi()
    served: ServedStore = app.state.served
    with served.current() as store:
        generation = store.generation
    return Addresses(
        title=app.title,
        version=app.version,
        generation=generation,
        openapi=str(app.openapi_url),
        addresses=[
            Address(
                path=path,
                methods=[method.upper() for method in asked],
                summary=next(iter(asked.values()))["description"].partition("\n")[0],
            )
            for path, asked in document["paths"].items()
        ],
    )


def _operation(route: APIRoute) -> str:
    return route.name
