"""`export`: a store's pages and views as files, for people and tools that have no lensbase."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...schema.errors import BadQuestion
from ..exporting import export_html, export_parquet
from ..printing import counted, human_bytes
from ..store import open_store
from ..written_folder import check_folder
from .options import Store


def export(
    store: Store,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A new folder, or with --force any.")
    ],
    html: Annotated[
        bool, typer.Option("--html", help="Write pages that open without a server.")
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Write every view as a Parquet file.")
    ] = False,
    limit_neurons: Annotated[
        int,
        typer.Option(min=0, help="Neurons of each run that get a page, by mean norm."),
    ] = 200,
    limit_concepts: Annotated[
        int, typer.Option(min=0, help="Concepts of each Rosetta zoo that get a page.")
    ] = 200,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write into a folder with files, replacing those of the same names."
        ),
    ] = False,
) -> None:
    """Write a store as web pages that open without a server, or as Parquet."""
    if not html and not parquet:
        msg = "say what to write: --html for pages, --parquet for tables, or both."
        raise BadQuestion(msg)
    check_folder(directory, force=force)
    with open_store(store) as opened:
        if html:
            site = export_html(
                opened, directory, limit_neurons, concepts=limit_concepts, force=force
            )
            typer.echo(
                f"{directory / 'index.html'}: {counted(site.pages, 'page')}, "
                f"{counted(site.pictures, 'picture')}, {human_bytes(site.bytes)}"
            )
        if parquet:
            # The folder was looked at before the pages were in it.
            rows = export_parquet(opened, directory, force=force or html)
            size = sum((directory / f"{view}.parquet").stat().st_size for view in rows)
            typer.echo(
                f"{directory}/*.parquet: {counted(len(rows), 'view')}, "
                f"{sum(rows.values()):,} rows, {human_bytes(size)}"
            )
