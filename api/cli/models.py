"""`model`: which models can be ingested."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Csv, Json
from .rows import print_rows

models = typer.Typer(help="Models that can be ingested.")


@models.command("list")
def list_models(
    containing: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only names with this in them.")
    ] = "",
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The model names that `ingest` takes, and their pretrained tags."""
    from ..models import supported_models

    print_rows(supported_models(containing), as_json=as_json, as_csv=as_csv, shown=None)


@models.callback()
def group() -> None:
    """Models that can be ingested."""
