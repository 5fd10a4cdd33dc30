"""An experiment: whom to classify, as what, and what to ablate; all of it in its address."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from fastapi import Depends, Query, Request

from ...queries.classification import prompt
from ...schema.errors import BadQuestion, TextNotStored
from ..classifier import THESIS_TEMPLATE, Classifier
from ..classifier import classifier as make_classifier
from ..named_components import Components
from ..roles import role
from ..run import RunView
from ..sql_text import quoted
from .asked import AskedRun
from .choosing import images_where
from .kept import inside, made_once
from .sql_process import SqlProcesses

MOST_CLASSES = 200
MOST_PARTS = 400
TEMPLATES = (THESIS_TEMPLATE, "a {}", "a photo of a {}", "{}")
ROLE = "role:"

_LEFT_OUT = frozenset(
    {"run", "image_id", "row", "key", "status", "reason", "width", "height", "sha256", "dataset"}
)
_NAME = 200

Column: TypeAlias = Annotated[str, Query(max_length=_NAME, description="A column of the images.")]
Names: TypeAlias = Annotated[
    list[str] | None,
    Query(max_length=MOST_CLASSES, description="Classes; by default all labels there are."),
]
Template: TypeAlias = Annotated[
    list[str] | None,
    Query(
        max_length=20,
        description="Texts with `{}` for the class, `openai` or `simple`; by default one whose "
        "texts are stored, or `An image of a {}`.",
    ),
]
Groups: TypeAlias = Annotated[
    str, Query(max_length=_NAME, description="The column whose values make groups.")
]
Condition: TypeAlias = Annotated[
    str, Query(max_length=2000, description="A boolean SQL expression over the view `images`.")
]
Parts: TypeAlias = Annotated[
    list[str] | None,
    Query(
        max_length=MOST_PARTS,
        description="Components to ablate: `L5.H3`, `L5.MLP`, `attn`, `mlp`, `role:NAME` ...",
    ),
]
Zero: TypeAlias = Annotated[
    bool, Query(description="Take effects out, instead of putting their means in their place.")
]


@dataclass(frozen=True)
class Experiment:
    """What was asked, checked when it is used."""

    run: RunView
    sql: SqlProcesses
    label: str
    chosen: list[str]
    template: list[str]
    by: str
    where: str
    ablate: list[str]
    zero: bool

    @property
    def asked(self) -> dict[str, Any]:
        """The parameters of its address that are not as they are by default."""
        return {
            "label": None if self.label == "label" else self.label,
            "classes": self.chosen,
            "template": self.template,
            "by": self.by,
            "where": self.where,
            "ablate": self.ablate,
            "zero": "true" if self.zero else None,
        }

    @property
    def classes(self) -> list[str]:
        """The classes: those chosen, or all labels; raises `BadQuestion` for none or too many."""
        if self.chosen:
            return self.chosen
        labels = list(labels_of(self.run, self.label))
        if not labels:
            msg = (
                f"no image has a value in column {self.label!r}; label= names the column that "
                f"holds their classes, such as {', '.join(columns_of(self.run)) or 'none'}."
            )
            raise BadQuestion(msg)
        if len(labels) > MOST_CLASSES:
            msg = (
                f"column {self.label!r} has more labels than the {MOST_CLASSES} classes that are "
                "asked about at once; choose classes=, and leave other images out with where=."
            )
            raise BadQuestion(msg)
        return labels

    @cached_property
    def templates(self) -> list[str]:
        """The templates asked for; by default one whose texts are stored, or the thesis' own."""
        if self.template:
            return self.template
        return [(self.stored_templates or [THESIS_TEMPLATE])[0]]

    @cached_property
    def stored_templates(self) -> list[str]:
        """Common templates whose texts, of these classes, need no text tower."""
        return [one for one in TEMPLATES if self._is_stored(one)]

    @cached_property
    def classifier(self) -> Classifier:
        """Its classifier; raises what `RunView.classifier` raises."""
        listed = self.templates
        named = len(listed) == 1 and "{}" not in listed[0]
        templates = listed[0] if named else listed
        # Whoever asks may make up as many class texts as they like.
        return make_classifier(inside(self.run), self.classes, templates=templates, keep=False)

    @cached_property
    def images(self) -> npt.NDArray[np.int64] | None:
        """The images that meet `condition`; None for all."""
        return images_where(self.sql, self.run, self.condition) if self.condition else None

    @property
    def condition(self) -> str:
        """What is asked of the images: `where`, and to be of the classes chosen, if some are."""
        where = self.where.strip()
        if not self.chosen:
            return where
        listed = ", ".join("'" + one.replace("'", "''") + "'" for one in self.chosen)
        of_them = f"{quoted(self.label)} IN ({listed})"
        return f"({where}) AND {of_them}" if where else of_them

    @property
    def parts(self) -> Components:
        """What is ablated, as the library takes it; raises `BadName` for what is no role's name."""
        return [
            role(one.removeprefix(ROLE)) if one.startswith(ROLE) else one for one in self.ablate
        ]

    @property
    def python(self) -> str:
        """The same question in Python."""
        templates: Any = self.templates[0] if len(self.templates) == 1 else self.templates
        given = {
            "label": None if self.label == "label" else self.label,
            "by": self.by,
            "where": self.condition,
        }
        more = [f", {name}={value!r}" for name, value in given.items() if value]
        if self.ablate:
            listed = [
                f"role({one.removeprefix(ROLE)!r})" if one.startswith(ROLE) else repr(one)
                for one in self.ablate
            ]
            more.append(f", ablate=[{', '.join(listed)}]")
        more += [", zero=True"] if self.zero else []
        clip = f'store.run("{self.run.name}")'
        made = f"{clip}.classifier({self.classes!r}, templates={templates!r})"
        return f"{clip}.accuracy({made}{''.join(more)})"

    def _is_stored(self, template: str) -> bool:
        try:
            inside(self.run).texts.stored([prompt(template, name) for name in self.classes])
        except (TextNotStored, BadQuestion):
            return False
        return True


def _experiment(
    request: Request,
    run: AskedRun,
    *,
    label: Column = "label",
    classes: Names = None,
    template: Template = None,
    by: Groups = "",
    where: Condition = "",
    ablate: Parts = None,
    zero: Zero = False,
) -> Experiment:
    return Experiment(
        run=run,
        sql=request.app.state.sql,
        label=label or "label",
        chosen=list(dict.fromkeys(classes or ())),
        template=[one for one in dict.fromkeys(template or ()) if one.strip()],
        by=by,
        where=where,
        ablate=[one for one in dict.fromkeys(ablate or ()) if one.strip()],
        zero=zero,
    )


AskedExperiment = Annotated[Experiment, Depends(_experiment)]


def columns_of(run: RunView) -> list[str]:
    """Columns of the images that could hold classes or groups: of 2 to 200 values, not all new."""

    def counted() -> list[str]:
        console = inside(run).console
        kinds = console.types("SELECT * FROM images")
        named = [
            name
            for name, kind in kinds.items()
            if name not in _LEFT_OUT
            and (kind in ("VARCHAR", "BOOLEAN") or kind.endswith("INT") or kind == "INTEGER")
        ]
        if not named:
            return []
        shown = ", ".join(["count(*)", *(f"count(DISTINCT {quoted(name)})" for name in named)])
        ((images, *counts),) = console.rows(f"SELECT {shown} FROM images WHERE run = ?", [run.name])
        most = min(MOST_CLASSES, images // 2)
        return [name for name, count in zip(named, counts, strict=True) if 2 <= count <= most]

    return made_once(run, "columns of classes", counted)


def labels_of(run: RunView, column: str) -> dict[str, int]:
    """A column's values as texts, with how many images have each; raises `BadQuestion`."""

    def counted() -> dict[str, int]:
        console = inside(run).console
        known = console.types("SELECT * FROM images")
        if column not in known:
            msg = f"the images have no column {column!r}; they have {', '.join(known)}."
            raise BadQuestion(msg)
        return dict(
            console.rows(
                f"SELECT CAST({quoted(column)} AS VARCHAR) AS value, count(*) FROM images "
                "WHERE run = ? AND status = 'ok' AND value IS NOT NULL "
                f"GROUP BY value ORDER BY value LIMIT {10 * MOST_CLASSES}",
                [run.name],
            )
        )

    return made_once(run, f"labels in {column}", counted)
