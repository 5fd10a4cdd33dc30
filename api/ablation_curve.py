"""Accuracy against ablations, several at once: the thesis' Figure 2.2, Tables 2.1 and A.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from ..schema.components import Attention, Mlp
from ..schema.errors import BadQuestion
from .ablation import prepare
from .accuracy import classify
from .classifier import Classifier, check_classifier
from .labels import labelled
from .named_components import Components, as_given
from .open_run import OpenRun
from .result import Result
from .selection import Images
from .where import Where

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LayerKind: TypeAlias = Literal["attn", "mlp"]

THESIS_SETS: Mapping[str, Components] = {
    "base accuracy": (),
    "+ MLPs ablation": "mlp",
    "+ class token ablation": "cls-token",
    "+ class token and MLPs ablation": ("cls-token", "mlp"),
}
"""What Tables 2.1 and A.1 ablate."""


class AblationCurve(Result):
    """Accuracy against the number of layers ablated; `plot` draws it as a line."""

    def plot(self, *, ax: Axes | None = None, limit: int = 20) -> Axes:
        """Plot the accuracy against how many layers are ablated; `limit` says nothing here."""
        from .plots import new_axes

        ax = ax or new_axes(5, 3.5)
        scores = self["accuracy"]
        ax.plot(self["layers"], scores, marker="o")
        ax.axhline(scores[0], linestyle="--", color="0.6", label="nothing ablated")
        ax.set_ylim(0, 1)
        ax.set_xlabel("layers ablated, from the first one")
        ax.set_ylabel("accuracy")
        ax.legend(loc="lower left")
        return ax


def ablation_curve(
    run: OpenRun,
    made: Classifier,
    *,
    kind: LayerKind = "attn",
    label: str = "label",
    images: Images = None,
    where: Where = None,
    mean_over: Images = None,
    zero: bool = False,
) -> AblationCurve:
    """Ablate the layers of a kind up to each one, accumulated; see `RunView.ablation_curve`."""
    if kind not in get_args(LayerKind):
        msg = (
            f"there are no layers of kind {kind!r}; choose one of {', '.join(get_args(LayerKind))}."
        )
        raise BadQuestion(msg)
    check_classifier(run, made)
    means = None if mean_over is None else run.images.select(mean_over)
    found = labelled(run, made, run.images.select(images, where), label=label)
    ablations = [
        prepare(run, f"{kind}[:{count}]", mean_over=means, zero=zero)
        for count in range(1, run.shape.layers + 1)
    ]
    scored = classify(run, made, found, ablations=[None, *ablations])
    name = Attention if kind == "attn" else Mlp
    columns = {
        "layers": np.arange(run.shape.layers + 1),
        "component": [None, *(str(name(layer)) for layer in range(run.shape.layers))],
        "accuracy": np.array([one.overall for one in scored]),
    }
    table = Result.of(columns).arrow()
    return AblationCurve(table, note=found.note)


def ablation_table(
    run: OpenRun,
    made: Classifier,
    *,
    sets: Mapping[str, Components] | Sequence[Components] | None = None,
    label: str = "label",
    by: str | Sequence[str] | None = None,
    images: Images = None,
    where: Where = None,
    mean_over: Images = None,
    zero: bool = False,
) -> Result:
    """Accuracy after each of some named ablations; see `RunView.ablation_table`."""
    chosen = THESIS_SETS if sets is None else _by_name(sets)
    if not chosen:
        msg = "sets= names no ablation; give a list or a mapping such as {'no MLPs': 'mlp'}."
        raise BadQuestion(msg)
    check_classifier(run, made)
    means = None if mean_over is None else run.images.select(mean_over)
    found = labelled(run, made, run.images.select(images, where), label=label, by=by)
    ablations = [prepare(run, one, mean_over=means, zero=zero) for one in chosen.values()]
    scored = classify(run, made, found, ablations=ablations)
    columns: dict[str, object] = {
        "ablation": list(chosen),
        "components": [", ".join(as_given(one)) for one in chosen.values()],
        "accuracy": np.array([one.overall for one in scored]),
    }
    if by is not None:
        columns["worst_group"] = np.array([one.worst_group for one in scored])
    return Result.of(columns, note=found.note)


def _by_name(sets: Mapping[str, Components] | Sequence[Components]) -> Mapping[str, Components]:
    """Ablations by name; those of a list are called by what they take out."""
    if isinstance(sets, Mapping):
        return sets
    listed: Sequence[Components] = sets if isinstance(sets, list | tuple) else [sets]
    return {", ".join(as_given(one)) or "nothing": one for one in listed}
