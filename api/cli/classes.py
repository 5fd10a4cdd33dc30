"""`accuracy`: zero-shot classification, by group and after ablations; and options about classes."""

from __future__ import annotations

from typing import Annotated

import typer

from ...schema.components import split_run
from ...schema.errors import BadSelection
from ..classifier import Classifier
from ..roles import role
from ..run import RunView
from ..store import Store as OpenStore
from ..store import open_store
from .options import Csv, Json, Run, Store, Where
from .rows import print_rows

Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class", metavar="NAME", help="A class; by default all values of the label column."
    ),
]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--template", metavar="TEXT", help="A prompt with {} for the class, or openai or simple."
    ),
]
Label = Annotated[
    str, typer.Option(metavar="COLUMN", help="The column of `images` that holds the classes.")
]


def accuracy(
    store: Store,
    classes: Classes = None,
    templates: Templates = None,
    label: Label = "label",
    by: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column that makes groups.")
    ] = None,
    ablate: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Without its effect, such as L21.H11 or mlp."),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", help="Without the effects of components that have this role."),
    ] = None,
    where: Where = None,
    zero: Annotated[
        bool, typer.Option("--zero", help="Ablate effects to zero, not to their means.")
    ] = False,
    draws: Annotated[
        int, typer.Option(help="Draws of as many random heads, to compare an ablation with.")
    ] = 5,
    run: Run = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """How many images are classified right, in each group, and after an ablation."""
    ablated = [*(ablate or []), *map(role, roles or [])]
    run = run or next(filter(None, (split_run(one)[0] for one in ablate or [])), None)
    with open_store(store) as opened:
        view = opened.run(run)
        made = classifier_of(opened, view, classes, templates=templates, label=label, by=by)
        found = view.accuracy(
            made, label=label, by=by, ablate=ablated, where=where, zero=zero, draws=draws
        )
        if as_json or as_csv:
            print_rows(found.groups, as_json=as_json, as_csv=as_csv)
        else:
            typer.echo(str(found))


def classifier_of(
    store: OpenStore,
    view: RunView,
    classes: list[str] | None,
    *,
    templates: list[str] | None,
    label: str,
    by: list[str] | None,
) -> Classifier:
    """The classifier that options ask for; without classes, of all labels of the run's images.

    Raises what `RunView.classifier` raises, `UnknownColumn`, or `BadSelection` without any label.
    """
    # Before prompts are embedded, which may load a model.
    known = store.sql("SELECT * FROM images LIMIT 0")
    for column in (label, *(by or [])):
        known[column]  # raises `UnknownColumn`
    named = templates[0] if templates and len(templates) == 1 else templates or None
    return view.classifier(classes or _labels(store, view, label), named)


def _labels(store: OpenStore, view: RunView, label: str) -> list[str]:
    """The values of a column of the run's images, as texts and in order."""
    column = '"' + label.replace('"', '""') + '"'
    found = store.sql(
        f"SELECT DISTINCT CAST({column} AS VARCHAR) AS name FROM images "
        f"WHERE run = ? AND status = 'ok' AND {column} IS NOT NULL ORDER BY name",
        [view.name],
    )
    if not len(found):
        msg = (
            f"no image of run {view.name!r} has a value in column {label!r}, so there are no "
            "classes: name another column with --label, or add one with `lensbase columns add`."
        )
        raise BadSelection(msg)
    return list(found["name"])
