"""What every page and answer is given: the store of this request, and the run that it names."""

from __future__ import annotations

from collections.abc import Generator
from typing import Annotated

from fastapi import Depends, Path, Request

from ..run import RunView
from ..store import Store
from .opened import ServedStore


def _store(request: Request) -> Generator[Store]:
    served: ServedStore = request.app.state.served
    with served.current() as store:
        yield store


Asked = Annotated[Store, Depends(_store)]


def _run(store: Asked, run: Annotated[str, Path(description="A run's name.")]) -> RunView:
    return store.run(run)


AskedRun = Annotated[RunView, Depends(_run)]
