"""`pool`: the texts that heads are explained with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..printing import counted
from ..store import open_store
from .options import Csv, Json, Store
from .rows import print_rows

pools = typer.Typer(help="Text pools: the texts that heads are explained with.")


@pools.command("add")
def add(
    store: Store,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="UTF-8 text, one text a line.")
    ] = None,
    *,
    name: Annotated[str, typer.Option(help="What the pool is called in the store.")],
    words: Annotated[
        int | None, typer.Option(help="Instead of a file: so many of the commonest English words.")
    ] = None,
    random: Annotated[
        int | None, typer.Option(help="Instead of a file: so many random vectors, as a baseline.")
    ] = None,
    seed: Annotated[int, typer.Option(help="What the random vectors are drawn from.")] = 0,
) -> None:
    """Embed the texts of a file, common words or random vectors with every model of the store."""
    from ..pools import add_pool

    added = add_pool(store, file, name=name, words=words, random=random, seed=seed)
    for model, reason in added.skipped.items():
        typer.echo(f"Not embedded by {model}: {reason}.", err=True)
    models = ", ".join(added.models)
    if random is not None:
        what = f"{counted(added.texts, 'random vector')} for {models}"
    else:
        what = f"{counted(added.texts, 'text')}, embedded by {models}"
    typer.echo(f"Pool {added.name}: {what}{'' if added.published else '; nothing to change'}.")


@pools.command("list")
def list_pools(store: Store, as_json: Json = False, as_csv: Csv = False) -> None:
    """The pools of a store, and the models that have embedded them."""
    with open_store(store) as opened:
        print_rows(opened.pools, as_json=as_json, as_csv=as_csv, shown=None)
