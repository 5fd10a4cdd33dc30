"""`head`: what an attention head writes, in texts and in images."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer

from ...queries.textspan import Score
from ...schema.components import split_run
from ..head import HeadView
from ..store import open_store
from .classes import Classes, Label, Templates, classifier_of
from .options import Count, Csv, Json, Normalize, Run, Store, Where
from .rows import print_rows

heads = typer.Typer(
    help="Attention heads: the texts that explain them, the images they tell apart."
)

Address = Annotated[str, typer.Argument(metavar="HEAD", help="The head, such as L22.H8.")]


@heads.command("texts")
def texts(
    store: Store,
    head: Address,
    m: Annotated[int, typer.Option("-m", help="How many texts.")] = 20,
    pool: Annotated[str | None, typer.Option(help="The pool; by default the run's own.")] = None,
    where: Where = None,
    normalize: Normalize = False,
    score: Annotated[
        str, typer.Option(help="variance, as in Algorithm 1, or explained.")
    ] = "variance",
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The texts that explain a head, by TEXTSPAN."""
    with _opened(store, head, run) as view:
        found = view.textspan(pool, m, where=where, normalize=normalize, score=cast("Score", score))
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@heads.command("images")
def images(
    store: Store,
    head: Address,
    text: Annotated[str | None, typer.Option(help="Along this text.")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Along the head's TEXTSPAN text of this rank, from 1.")
    ] = None,
    k: Count = 10,
    where: Where = None,
    normalize: Normalize = False,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The images in which a head writes most along a text."""
    with _opened(store, head, run) as view:
        found = view.top_images(text, rank=rank, k=k, where=where, normalize=normalize)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@heads.command("nearest")
def nearest(
    store: Store,
    head: Address,
    to: Annotated[str, typer.Argument(metavar="IMAGE", help="The image: its id, key or path.")],
    k: Count = 10,
    where: Where = None,
    normalize: Normalize = False,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The images for which a head writes most along what it writes for one."""
    with _opened(store, head, run) as view:
        found = view.nearest_images(image_named(to), k, where=where, normalize=normalize)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@heads.command("spurious")
def spurious(
    store: Store,
    by: Annotated[list[str], typer.Option(metavar="COLUMN", help="A column that makes groups.")],
    classes: Classes = None,
    templates: Templates = None,
    label: Label = "label",
    k: Annotated[int, typer.Option("-k", help="How many heads.")] = 10,
    where: Where = None,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The heads that carry what a group does to the class logits: candidates to ablate."""
    with open_store(store) as opened:
        view = opened.run(run)
        made = classifier_of(opened, view, classes, templates=templates, label=label, by=by)
        found = view.spurious_heads(made, by, k, label=label, where=where)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


def image_named(name: str) -> int | str:
    """An image's id, where that is what a word of the command line is; else its key or path."""
    return int(name) if name.isascii() and name.isdigit() else name


@contextmanager
def _opened(store: Path, head: str, run: str | None) -> Generator[HeadView]:
    named, _ = split_run(head)
    with open_store(store) as opened:
        yield opened.run(run or named).head(head)
