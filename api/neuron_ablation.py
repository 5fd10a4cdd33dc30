"""Accuracy without a layer's second-order effects, or with one direction each (Figure 3.3)."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from ..schema.errors import BadQuestion
from .accuracy import Accuracy, Change, classify
from .classifier import Classifier, check_classifier
from .labels import labelled
from .neuron_changes import (
    AlongDirections,
    LayerEffects,
    MeanAblation,
    TopAblation,
    TopImages,
    reference_rows,
)
from .open_run import OpenRun
from .printing import counted
from .result import Result
from .run_neurons import Layers
from .selection import Images
from .where import Where
from .whole_numbers import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Large: TypeAlias = Literal["percentile", "top"]
"""Which images are a neuron's large ones: above its 98th percentile, or so many of the largest."""

BASELINE, ALL, ALONG = "baseline", "w/o all neurons", "x r + b"
WITHOUT_LARGE, WITHOUT_SMALL = "w/o large norm", "w/o small norm"
SHUFFLED = "x r' + b, r shuffled"


class NeuronAblation(Result):
    """Rows `layer`, `component`, `condition`, `accuracy` (and `worst_group`); first a baseline."""

    def plot(self, *, ax: Axes | None = None, limit: int = 20) -> Axes:
        """Plot the accuracy over the layers, a line a condition, the baseline dashed (Figure 3.3).

        `limit` says nothing here.
        """
        from .plots import new_axes

        ax = ax or new_axes(5.5, 3.5)
        rows = self.rows()
        for row in rows:
            if row["layer"] is None:
                ax.axhline(row["accuracy"], linestyle="--", color="0.6", label=row["condition"])
        layered = [row for row in rows if row["layer"] is not None]
        for condition in dict.fromkeys(row["condition"] for row in layered):
            own = [row for row in layered if row["condition"] == condition]
            layers = [row["layer"] for row in own]
            ax.plot(layers, [row["accuracy"] for row in own], marker="o", label=condition)
        ax.set_xticks(sorted({row["layer"] for row in layered}))
        ax.set_xlabel("layer")
        ax.set_ylabel("zero-shot accuracy")
        ax.legend()
        return ax


def neuron_ablation(
    run: OpenRun,
    c: Classifier,
    *,
    layers: Layers = None,
    large: Large = "percentile",
    top: int = 100,
    shuffles: int = 0,
    seed: int = 0,
    label: str = "label",
    by: str | Sequence[str] | None = None,
    images: Images = None,
    where: Where = None,
) -> NeuronAblation:
    """Accuracy with effects of whole layers replaced; see `RunView.neuron_ablation`."""
    if large not in get_args(Large):
        msg = f"large={large!r} is neither 'percentile' nor 'top'; say which images are large."
        raise BadQuestion(msg)
    top = whole(top, "top", least=1, of="images")
    shuffles = whole(shuffles, "shuffles", least=0, of="draws")
    seed = whole(seed, "seed", least=0, of="draws")
    check_classifier(run, c)
    chosen = run.neurons.layers(layers)
    found = labelled(run, c, run.images.select(images, where), label=label, by=by)
    changes: list[Change | None] = [None]
    places: list[tuple[int | None, str]] = [(None, BASELINE)]
    random = np.random.default_rng(seed)
    for layer in chosen:
        effects = LayerEffects(run, layer)
        conditions = _conditions(effects, large=large, top=top)
        for _ in range(shuffles):
            shuffled = random.permutation(effects.directions)
            conditions.append((SHUFFLED, AlongDirections(effects, shuffled)))
        changes += [change for _, change in conditions]
        places += [(layer, condition) for condition, _ in conditions]
    scored = classify(run, c, found, ablations=changes)
    table = _table(places, scored, groups=by is not None)
    notes = [_means(run), _large(run, large, top), found.note]
    if shuffles:
        draws = counted(shuffles, "draw")
        notes.insert(2, f"with r shuffled, accuracy is the mean over {draws} (seed {seed})")
    return NeuronAblation(table.arrow(), note="; ".join(filter(None, notes)))


def _conditions(effects: LayerEffects, *, large: Large, top: int) -> list[tuple[str, Change]]:
    """The four conditions of Figure 3.3 in their order."""
    without_large: Change
    without_small: Change
    if large == "percentile":
        without_large, without_small = (
            MeanAblation(effects, "large"),
            MeanAblation(effects, "small"),
        )
    else:
        images = TopImages(effects, top)
        without_large = TopAblation(effects, images, "large")
        without_small = TopAblation(effects, images, "small")
    return [
        (ALL, MeanAblation(effects, "all")),
        (WITHOUT_LARGE, without_large),
        (WITHOUT_SMALL, without_small),
        (ALONG, AlongDirections(effects, effects.directions)),
    ]


def _table(
    places: Sequence[tuple[int | None, str]], scored: Sequence[Accuracy], *, groups: bool
) -> Result:
    """A row a layer and condition, of draws their mean."""
    import pyarrow as pa

    by_place: dict[tuple[int | None, str], list[Accuracy]] = {}
    for place, one in zip(places, scored, strict=True):
        by_place.setdefault(place, []).append(one)
    layers = [layer for layer, _ in by_place]
    columns: dict[str, Any] = {
        "layer": pa.array(layers, pa.int64()),
        "component": [None if layer is None else f"L{layer}.N*" for layer in layers],
        "condition": [condition for _, condition in by_place],
        "accuracy": np.array([np.mean([one.overall for one in own]) for own in by_place.values()]),
    }
    if groups:
        worst = [np.mean([one.worst_group for one in own]) for own in by_place.values()]
        columns["worst_group"] = np.array(worst)
    return Result.of(columns)


def _means(run: OpenRun) -> str:
    rows = reference_rows(run)
    if rows is None:
        images = counted(run.row["reference"], "reference image")
        return f"means are over the original's {images}, which this copy leaves out"
    return f"means are over the {counted(len(rows), 'reference image')} of the run"


def _large(run: OpenRun, large: Large, top: int) -> str:
    if large == "percentile":
        return "large is a norm above the neuron's 98th percentile over them"
    top = min(top, len(run.images.select()))
    return (
        f"large are each neuron's {counted(top, 'image')} of largest norm in the run, where "
        "its effect is taken for x r + b"
    )
