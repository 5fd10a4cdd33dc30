"""The application: all commands under one name."""

from __future__ import annotations

from typing import Annotated

import typer

from . import (
    adversarial,
    classes,
    demo,
    exporting,
    heads,
    images,
    ingesting,
    looking,
    models,
    neurons,
    pools,
    roles,
    rosetta,
    serving,
    upkeep,
)
from .failures import CommandLine

app = typer.Typer(
    name="lensbase",
    cls=CommandLine,
    help="Ingest a vision model's inner workings once; answer every question after that offline.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"lensbase {version('lensbase')}")
        raise typer.Exit


def _log(wanted: bool) -> None:
    if wanted:
        import logging

        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
        logger = logging.getLogger("lensbase")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


@app.callback()
def lensbase(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    __: Annotated[
        bool,
        typer.Option(
            "--log", callback=_log, help="Log to stderr what begins and how long it took."
        ),
    ] = False,
) -> None:
    """Ingest a vision model's inner workings once; answer every question after that offline."""


app.command("demo")(demo.demo)
app.command("ingest")(ingesting.ingest)
app.command("finalize")(ingesting.finalize)
app.command("info")(looking.info)
app.command("sql")(looking.sql)
app.command("serve")(serving.serve)
app.command("find")(neurons.find)
app.command("accuracy")(classes.accuracy)
app.command("adversarial")(adversarial.adversarial)
app.command("verify")(upkeep.verify)
app.command("copy")(upkeep.copy)
app.command("export")(exporting.export)
app.command("annotate")(roles.annotate)
app.command("annotations")(roles.list_annotations)
app.command("compact")(roles.compact)
app.command("rollback")(upkeep.rollback)
app.command("upgrade")(upkeep.upgrade)
for name, group in {
    "run": upkeep.runs,
    "pool": pools.pools,
    "columns": upkeep.columns,
    "model": models.models,
    "head": heads.heads,
    "neuron": neurons.neurons,
    "image": images.images,
    "rosetta": rosetta.rosetta,
}.items():
    app.add_typer(group, name=name)
