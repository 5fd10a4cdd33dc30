"""Experiments: zero-shot accuracy before and after ablating what was ticked."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from ....schema.errors import LensbaseError, ServerBusy, TextNotStored
from ...ablation_curve import LayerKind
from ...accuracy import Accuracy
from ...result import Result
from ...run import RunView
from ..answers import Rows, rows_of
from ..asked import Asked, AskedRun
from ..experiments import (
    ROLE,
    TEMPLATES,
    AskedExperiment,
    Experiment,
    columns_of,
    labels_of,
)
from ..kept import inside
from ..page import Pages
from .run import heads_of, roles_of

pages = Pages("experiments")

GROUPS = 200
SHOWN = 50
KINDS = {
    "attn": "all attention",
    "mlp": "all MLPs",
    "embed": "the class token's input",
    "cls-token": "what the class token attends from itself",
}

K = Annotated[int, Query(ge=1, le=50, description="How many heads are proposed.")]
Kind = Annotated[LayerKind, Query(description="Layers that are ablated one after the other.")]


class Share(BaseModel):
    """An accuracy: of all images, and of the worst group where there are groups."""

    overall: float
    worst_group: float | None


class Outcome(BaseModel):
    """What an experiment measured."""

    images: int
    classes: int
    accuracy: Share
    before: Share | None = Field(description="With nothing ablated.")
    random: Share | None = Field(description="The best draw of as many random heads.")
    draws: int
    ablated: list[str]
    by: str | None
    rows: Rows = Field(description="Groups: images, accuracy, and `before` where ablated.")
    note: str | None


class Tick(BaseModel):
    """A component that can be ablated."""

    component: str
    ticked: bool
    text: str | None = None
    role: str | None = None


class TickRow(BaseModel):
    """A layer's components: heads (None where they are not kept), attention, MLP."""

    layer: int
    heads: list[Tick | None]
    attention: Tick
    mlp: Tick


class SetTick(BaseModel):
    """A set of components that can be ablated: a kind of them, or a role."""

    components: str
    meaning: str
    ticked: bool


class ClassChoice(BaseModel):
    """A label that may be a class."""

    label: str
    images: int
    ticked: bool


class ExperimentsPage(BaseModel):
    """The form, and what came out of it."""

    run: str
    label: str
    columns: list[str] = Field(description="Columns that could hold classes or groups.")
    classes: list[ClassChoice]
    template: str
    templates: list[str] = Field(description="Templates to choose from.")
    by: str
    where: str
    zero: bool
    heads: int = Field(description="Heads of each layer.")
    layers: list[TickRow]
    sets: list[SetTick]
    others: list[str] = Field(description="What is ablated and is none of these.")
    asked: dict[str, Any]
    outcome: Outcome | None
    problem: str | None
    instead: list[str] = Field(
        description="Where the problem is that texts are not stored: templates whose texts are."
    )
    python: str | None


class Point(BaseModel):
    """A point of a curve, in hundredths of the picture."""

    layers: int
    accuracy: float
    x: float
    y: float


class CurvePage(BaseModel):
    """Accuracy against layers ablated, of both kinds."""

    run: str
    curves: dict[str, list[Point]]
    layers: int
    asked: dict[str, Any]
    note: str | None
    problem: str | None


class SpuriousPage(BaseModel):
    """Heads proposed for ablation."""

    run: str
    by: str
    k: int
    rows: Rows | None
    ticked: list[str]
    all: list[str] = Field(description="What is ablated, and what is proposed.")
    asked: dict[str, Any]
    problem: str | None


@pages.page("/runs/{run}/experiments", "experiments.html")
def experiments_page(store: Asked, run: AskedRun, experiment: AskedExperiment) -> ExperimentsPage:
    """Accuracy overall, of each group and of the worst, before and after an ablation."""
    outcome, problem = None, None
    stored: list[str] = []
    instead: list[str] = []
    python = None
    try:
        stored = experiment.stored_templates
        if any(experiment.asked.values()) or stored:
            outcome = _outcome(experiment, limit=SHOWN)
        python = experiment.python
    except ServerBusy:
        raise
    except LensbaseError as error:
        problem = str(error)
        instead = stored if isinstance(error, TextNotStored) else []
    roles = roles_of(store, run)
    ticked = set(experiment.ablate)
    layers = _layers(run, roles, ticked)
    meanings = KINDS | {f"{ROLE}{name}": f"role {name}" for name in sorted(set(roles.values()))}
    listed = {one.component for row in layers for one in _ticks(row)} | {*meanings}
    return ExperimentsPage(
        run=run.name,
        label=experiment.label,
        columns=columns_of(run),
        classes=_choices(experiment),
        template=(experiment.template or stored or list(TEMPLATES))[0],
        templates=[*dict.fromkeys([*stored, *TEMPLATES]), "openai", "simple"],
        by=experiment.by,
        where=experiment.where,
        zero=experiment.zero,
        heads=inside(run).shape.heads,
        layers=layers,
        sets=[
            SetTick(components=one, meaning=meaning, ticked=one in ticked)
            for one, meaning in meanings.items()
        ],
        others=[one for one in experiment.ablate if one not in listed],
        asked=experiment.asked,
        outcome=outcome,
        problem=problem,
        instead=instead,
        python=python,
    )


@pages.page("/runs/{run}/ablation-curve", "curve.html", json=False)
def curve_page(experiment: AskedExperiment) -> CurvePage:
    """Accuracy after ablating the layers of a kind up to each one, drawn."""
    curves: dict[str, list[Point]] = {}
    note, problem = None, None
    try:
        for kind in ("attn", "mlp"):
            found = _curve(experiment, kind)
            note = found.note
            last = max(len(found) - 1, 1)
            curves[kind] = [
                Point(
                    layers=row["layers"],
                    accuracy=row["accuracy"],
                    x=100 * row["layers"] / last,
                    y=100 - 100 * row["accuracy"],
                )
                for row in found
            ]
    except ServerBusy:
        raise
    except LensbaseError as error:
        problem = str(error)
    return CurvePage(
        run=experiment.run.name,
        curves=curves,
        layers=inside(experiment.run).shape.layers,
        asked=experiment.asked,
        note=note,
        problem=problem,
    )


@pages.page("/runs/{run}/spurious-heads", "spurious.html", json=False)
def spurious_page(experiment: AskedExperiment, k: K = 10) -> SpuriousPage:
    """Heads that carry what a group does to the logits: candidates to ablate."""
    rows, problem = None, None
    try:
        rows = rows_of(_spurious(experiment, k))
    except ServerBusy:
        raise
    except LensbaseError as error:
        problem = str(error)
    proposed = [row["component"] for row in rows.rows] if rows else []
    return SpuriousPage(
        run=experiment.run.name,
        by=experiment.by,
        k=k,
        rows=rows,
        ticked=experiment.ablate,
        all=list(dict.fromkeys([*experiment.ablate, *proposed])),
        asked=experiment.asked,
        problem=problem,
    )


@pages.json.get("/runs/{run}/accuracy")
def run_accuracy(experiment: AskedExperiment) -> Outcome:
    """Zero-shot accuracy, overall, of each group and of the worst, and before an ablation."""
    return _outcome(experiment, limit=GROUPS)


@pages.json.get("/runs/{run}/ablation-curve")
def ablation_curve(experiment: AskedExperiment, kind: Kind = "attn") -> Rows:
    """Accuracy after ablating all layers of a kind up to each one, accumulated (Figure 2.2)."""
    return rows_of(_curve(experiment, kind))


@pages.json.get("/runs/{run}/spurious-heads")
def run_spurious_heads(experiment: AskedExperiment, k: K = 10) -> Rows:
    """Heads that carry the effect of groups (`by`) on the class logits (Table 2.3)."""
    return rows_of(_spurious(experiment, k))


def _outcome(experiment: Experiment, *, limit: int) -> Outcome:
    found = experiment.run.accuracy(
        experiment.classifier,
        label=experiment.label,
        by=experiment.by or None,
        ablate=experiment.parts,
        images=experiment.images,
        zero=experiment.zero,
    )
    groups = found.groups
    return Outcome(
        images=found.images,
        classes=len(found.classifier),
        accuracy=_share(found, grouped=bool(experiment.by)),
        before=_maybe(found.before, grouped=bool(experiment.by)),
        random=_maybe(found.random, grouped=bool(experiment.by)),
        draws=len(found.drawn),
        ablated=[*found.asked],
        by=experiment.by or None,
        rows=rows_of(groups[:limit], total=len(groups)),
        note=found.note,
    )


def _share(found: Accuracy, *, grouped: bool) -> Share:
    return Share(overall=found.overall, worst_group=found.worst_group if grouped else None)


def _maybe(found: Accuracy | None, *, grouped: bool) -> Share | None:
    return None if found is None else _share(found, grouped=grouped)


def _curve(experiment: Experiment, kind: LayerKind) -> Result:
    return experiment.run.ablation_curve(
        experiment.classifier,
        kind=kind,
        label=experiment.label,
        images=experiment.images,
        zero=experiment.zero,
    )


def _spurious(experiment: Experiment, k: int) -> Result:
    return experiment.run.spurious_heads(
        experiment.classifier,
        experiment.by or "subgroup",
        k,
        label=experiment.label,
        images=experiment.images,
    )


def _choices(experiment: Experiment) -> list[ClassChoice]:
    try:
        found = labels_of(experiment.run, experiment.label)
    except LensbaseError:
        return []
    ticked = set(experiment.chosen)
    listed = list(found.items())[:GROUPS]
    return [ClassChoice(label=one, images=n, ticked=one in ticked) for one, n in listed]


def _layers(run: RunView, roles: dict[str, str], ticked: set[str]) -> list[TickRow]:
    shape = inside(run).shape
    texts = {row["component"]: (row["texts"] or [None])[0] for row in heads_of(run)}

    def tick(component: str) -> Tick:
        return Tick(
            component=component,
            ticked=component in ticked,
            text=texts.get(component),
            role=roles.get(component),
        )

    return [
        TickRow(
            layer=layer,
            heads=[
                tick(f"L{layer}.H{head}") if layer in shape.head_layers else None
                for head in range(shape.heads)
            ],
            attention=tick(f"L{layer}.ATTN"),
            mlp=tick(f"L{layer}.MLP"),
        )
        for layer in range(shape.layers)
    ]


def _ticks(row: TickRow) -> list[Tick]:
    return [one for one in (*row.heads, row.attention, row.mlp) if one is not None]
