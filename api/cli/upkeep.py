"""Keeping a store: verifying, copying, undoing, adding columns."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ..printing import counted
from ..result import Result
from ..store import open_store
from .options import Csv, Json, Store
from .rows import print_rows

# Importing SQLAlchemy takes a fifth of a second: only commands that write to a catalogue do.
if TYPE_CHECKING:
    from ..verify import Level, VerifyReport

runs = typer.Typer(help="Runs: one model over one data set.")
columns = typer.Typer(help="Columns of the images, such as labels that came later.")

_FOUND_PROBLEMS = 1
_NAMED = 5


def verify(
    store: Store,
    level: Annotated[
        str,
        typer.Option(help="manifests, checksums, identities or model; each includes those before."),
    ] = "identities",
    sample: Annotated[
        int, typer.Option(help="Images (and neurons) of each run that are recomputed.")
    ] = 64,
    seed: Annotated[int, typer.Option(help="Which images those are.")] = 0,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget",
            help="Take what is damaged out, so that ingest or finalize makes it again.",
        ),
    ] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Check a store; exits 1 where something is wrong."""
    from ..verify import forget_damaged
    from ..verify import verify as verify_store

    report = verify_store(store, level=cast("Level", level), sample=sample, seed=seed)
    if as_json or as_csv:
        print_rows(_problems(report), as_json=as_json, as_csv=as_csv)
    else:
        typer.echo(str(report))
    if forget and not report.ok:
        taken = forget_damaged(store, report)
        segments = [one for one in taken if one[1] is not None]
        typer.echo(f"Took {counted(len(segments), 'damaged segment')} out of {store}.", err=True)
        for run, segment in taken:
            if segment is None:
                again = f"lensbase finalize {shlex.quote(str(store))} --run {run}"
                typer.echo(f"Run {run} is to be completed again: {again}", err=True)
    if not report.ok:
        raise typer.Exit(_FOUND_PROBLEMS)


def copy(
    store: Store,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The new store.")],
    run: Annotated[
        list[str] | None, typer.Option(help="Only this run; may be given several times.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only images for which this SQL expression over `images` holds."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out token, head_token, thumbnail, neuron or neuron_input; several times "
            "or with commas."
        ),
    ] = None,
) -> None:
    """Copy a store, or some of its runs, images and arrays, to share it."""
    from ..copying import copy_store

    left_out = [name for names in without or () for name in names.split(",")]
    made = copy_store(store, dest, runs=run or None, where=where, without=left_out)
    typer.echo(f"Copied {store} to {made}.")


def rollback(
    store: Store,
    generation: Annotated[
        int | None, typer.Option(help="The generation to go back to; by default the one before.")
    ] = None,
) -> None:
    """Go back to an earlier generation of a store."""
    from ..maintenance import rollback as roll_back

    number = roll_back(store, generation)
    before = "the generation before" if generation is None else f"generation {generation}"
    typer.echo(f"{store} is again as in {before}, published as generation {number}.")


def upgrade(store: Store) -> None:
    """Publish a store of an older format in this one's."""
    from ...schema.catalog import current_generation
    from ...schema.layout import Layout
    from ..maintenance import upgrade as upgrade_store

    before = current_generation(Layout(store))
    number = upgrade_store(store)
    if number == before:
        typer.echo(f"{store} is in today's format already; nothing to change.")
    else:
        typer.echo(f"{store} is in today's format, published as generation {number}.")


@runs.command("list")
def list_runs(store: Store, as_json: Json = False, as_csv: Csv = False) -> None:
    """The runs of a store, with their settings."""
    with open_store(store) as opened:
        print_rows(opened.runs, as_json=as_json, as_csv=as_csv, shown=None)


@runs.command("drop")
def drop(
    store: Store, run: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
) -> None:
    """Undo an ingest."""
    from ..maintenance import drop_run

    drop_run(store, run)
    typer.echo(f"Dropped run {run}; `lensbase rollback {store}` brings it back.")


@columns.command("add")
def add(
    store: Store,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or Parquet, one row an image.")],
    on: Annotated[
        str, typer.Option(help="Its column that finds the image: key or image_id.")
    ] = "key",
) -> None:
    """Add columns to the images of a store."""
    from ..maintenance import add_columns

    added = add_columns(store, file, on=on)
    typer.echo(f"Added columns to {counted(added.images, 'image')}; the view `images` shows them.")
    if added.unmatched:
        first = ", ".join(added.unmatched[:_NAMED]) + ", ..." * (len(added.unmatched) > _NAMED)
        typer.echo(f"{counted(len(added.unmatched), 'row')} found no image: {first}")
    if added.without:
        typer.echo(f"{counted(added.without, 'image')} of the store got no row.")


@columns.callback()
def columns_group() -> None:
    """Columns of the images, such as labels that came later."""


def _problems(report: VerifyReport) -> Result:
    return Result.of(
        {
            "run": [one.run for one in report.problems],
            "segment": [one.segment for one in report.problems],
            "what": [one.what for one in report.problems],
            "remedy": [one.remedy for one in report.problems],
        }
    )
