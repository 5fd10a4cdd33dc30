"""Pages from templates: facts in, HTML out, for the server and for files that need none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from ..printing import cell, human_bytes
from .addresses import address, part, segments

HERE = Path(__file__).parent

Link: TypeAlias = Callable[[str], str | None]
"""From a page's path, such as `/runs/r/heads/L6.H2`, to its address; None where it has none."""


def make_environment(link: Link, *, live: bool = True) -> Environment:
    """Templates whose links `link` resolves; values are escaped, missing ones an error.

    Where nobody answers, not `live`, they leave out what asks.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update({"link": link, "address": address, "live": live})  # pyright: ignore[reportCallIssue, reportArgumentType]
    environment.filters["cell"] = cell
    environment.filters["bytes"] = human_bytes
    environment.filters["part"] = part
    environment.filters["segments"] = segments
    environment.filters["literal"] = repr
    return environment


def render(environment: Environment, template: str, facts: Any, **further: Any) -> str:
    """One page; a template sees its facts as `page`, and what else it is given by name."""
    return environment.get_template(template).render(page=facts, **further)
