"""Registering a page once: its facts as JSON under `/api/`, and rendered at the same path."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from .rendering import render

Facts = TypeVar("Facts", bound=Callable[..., BaseModel])

REQUEST = "request_of_page"


class Pages:
    """Routes of the dashboard: `json`, to be mounted under `/api`, and `html`."""

    def __init__(self, tag: str) -> None:
        self.json = APIRouter(tags=[tag])
        self.html = APIRouter(include_in_schema=False)

    def page(self, path: str, template: str) -> Callable[[Facts], Facts]:
        """Serve what a function gives at `/api` + path as JSON, and at path as a page.

        The function's parameters are the route's; its return annotation is the JSON's schema.
        """

        def register(facts: Facts) -> Facts:
            self.json.get(path)(facts)
            self.html.get(path, response_class=HTMLResponse)(_rendered(facts, template))
            return facts

        return register


def _rendered(facts: Callable[..., BaseModel], template: str) -> Callable[..., HTMLResponse]:
    @functools.wraps(facts)
    def page(**given: Any) -> HTMLResponse:
        request: Request = given.pop(REQUEST)
        found = facts(**given)
        environment = request.app.state.environment
        data = f"/api{request.url.path}" + (f"?{request.url.query}" if request.url.query else "")
        return HTMLResponse(render(environment, template, found, request=request, data=data))

    signature = inspect.signature(facts, eval_str=True)
    asked = inspect.Parameter(REQUEST, inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    parameters = [
        *(
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for one in signature.parameters.values()
        ),
        asked,
    ]
    page.__signature__ = signature.replace(  # pyright: ignore[reportAttributeAccessIssue]
        parameters=parameters, return_annotation=HTMLResponse
    )
    return page
