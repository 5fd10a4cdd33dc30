"""`info` and `sql`: what a store holds."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..store import Store as OpenStore
from ..store import open_store
from .options import Csv, Json, Run, Store
from .rows import print_rows
from .watching import watch_runs

_CATALOG = """SELECT relation, "column", type, comment FROM data_dictionary
    WHERE relation IN (SELECT view_name FROM duckdb_views() WHERE NOT internal)
    ORDER BY relation, "column" IS NOT NULL"""


def info(
    store: Store,
    run: Run = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show how far an ingest is until it is complete.")
    ] = False,
    catalog: Annotated[
        bool, typer.Option("--catalog", help="Explain every view and column that SQL can ask.")
    ] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """What a store holds, how far an ingest is, or what SQL can ask about."""
    if watch:
        watch_runs(store, run)
        return
    with open_store(store) as opened:
        if catalog:
            print_rows(opened.sql(_CATALOG), as_json=as_json, as_csv=as_csv, shown=None)
        elif as_csv:
            print_rows(opened.runs, as_json=as_json, as_csv=True)
        elif as_json:
            facts = {"store": opened.info().facts, "runs": _run_facts(opened, run)}
            typer.echo(json.dumps(facts, ensure_ascii=False, indent=1))
        else:
            names = opened.runs["run"].tolist() if run is None else [run]
            cards = [opened.info(), *(opened.run(name).info() for name in names)]
            typer.echo("\n\n".join(map(str, cards)))


def sql(
    store: Store,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT on the views.")],
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Answer an SQL query on the store's views and tables."""
    with open_store(store) as opened:
        print_rows(opened.sql(query), as_json=as_json, as_csv=as_csv)


def _run_facts(store: OpenStore, run: str | None) -> dict[str, dict[str, str]]:
    names = store.runs["run"].tolist() if run is None else [run]
    return {name: store.run(name).info().facts for name in names}
