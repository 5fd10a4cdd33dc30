"""`annotate` and `annotations`: roles of components; `compact`: taking them into the catalogue."""

from __future__ import annotations

from typing import Annotated

import typer

from ...schema.components import split_run
from ...schema.errors import BadQuestion
from ..printing import counted
from ..store import open_store
from .options import Csv, Json, Run, Store
from .rows import print_rows


def annotate(
    store: Store,
    components: Annotated[
        list[str], typer.Argument(metavar="COMPONENT...", help="Addresses, such as L21.H11.")
    ],
    role: Annotated[
        str | None, typer.Option(help="What they do, in a word, such as geolocation.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take their role away.")] = False,
    note: Annotated[str | None, typer.Option(help="Anything to remember.")] = None,
    source: Annotated[str, typer.Option(help="Who or which rule says so.")] = "person",
    run: Run = None,
) -> None:
    """Give components a role, which ablations can then name."""
    if (role is None) != remove:
        msg = "give either --role NAME, or --remove to take the role away."
        raise BadQuestion(msg)
    run = run or next(filter(None, (split_run(one)[0] for one in components)), None)
    with open_store(store) as opened:
        name = opened.run(run).name
        had = {row["component"]: row["role"] for row in opened.annotations if row["run"] == name}
        named = opened.annotate(components, role, run=name, note=note, source=source)
    one = len(named) == 1
    none = "has no role now" if one else "have no role now"
    how = none if remove else f"annotated as {role}"
    old = [(address, had[address]) for address in named if had.get(address, role) != role]
    was = ", ".join(
        f"was {before}" if one else f"{address} was {before}" for address, before in old
    )
    typer.echo(f"{', '.join(named)}: {how}{was and f' ({was})'}.")


def list_annotations(store: Store, as_json: Json = False, as_csv: Csv = False) -> None:
    """The roles that components of a store have."""
    with open_store(store) as opened:
        print_rows(opened.annotations, as_json=as_json, as_csv=as_csv, shown=None)


def compact(store: Store) -> None:
    """Take results that readers left beside the catalogue into its next generation."""
    from ..maintenance import compact as compact_store

    done = compact_store(store)
    tables = ("head_text", "neuron_text", "annotation")
    texts, codes, roles = (done.taken_in.get(table, 0) for table in tables)
    typer.echo(
        f"Took {counted(texts, 'TEXTSPAN')}, {counted(codes, 'layer')} of neurons' codes and "
        f"{counted(roles, 'annotation')} into generation {done.generation} of {store}; dropped "
        f"{counted(done.dropped, 'result')} of runs that are gone."
    )
