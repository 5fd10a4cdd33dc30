"""Zero-shot accuracy from what the texts of late heads keep (thesis, Figures 2.3 and A.1)."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.reconstruction import (
    TextProjection,
    centered_factors,
    head_logits,
    text_directions,
)
from .classifier import Classifier, check_classifier
from .labels import Labelled, labelled
from .named_pools import Pools, named_pools, text_counts
from .open_run import KeptHead, OpenRun
from .printing import layers_named
from .result import Result
from .selection import Selection
from .spans import run_moments, spans_of
from .textspans import kept_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

FULL, LATE = "full model", "late heads"
_LAYERS = 4  # the thesis': "all the heads in the last 4 layers"
_BLOCK = 1024


class Reconstruction(Result):
    """Rows `pool`, `m`, `accuracy`; two of them without an `m`: "full model" and "late heads"."""

    def plot(self, *, ax: Axes | None = None, limit: int = 20) -> Axes:
        """Plot accuracy against m, a line for each pool; what m does not change is dashed.

        `limit` says nothing here.
        """
        from .plots import new_axes

        ax = ax or new_axes(5, 3.5)
        rows = self.rows()
        for pool in dict.fromkeys(row["pool"] for row in rows if row["m"] is not None):
            points = [(row["m"], row["accuracy"]) for row in rows if row["pool"] == pool]
            ax.plot(*zip(*points, strict=True), marker="o", label=pool)
        for row in rows:
            if row["m"] is None:
                color = "0.6" if row["pool"] == FULL else "black"
                ax.axhline(row["accuracy"], linestyle="--", color=color, label=row["pool"])
        ax.set_xlabel("texts of each head (m)")
        ax.set_ylabel("zero-shot accuracy")
        ax.legend()
        return ax


def reconstruct(
    run: OpenRun,
    classifier: Classifier,
    *,
    pools: Pools,
    ms: int | Sequence[int],
    layers: Sequence[int] | None,
    label: str,
    chosen: Selection,
) -> Reconstruction:
    """Accuracy against the number of texts a head keeps; see `RunView.reconstruction`."""
    import pyarrow as pa

    check_classifier(run, classifier)
    steps = text_counts(ms)
    heads = _late_heads(run, layers)
    found = labelled(run, classifier, chosen, label=label)
    basis = np.stack([run.basis(head) for head in heads])
    projections: dict[str, TextProjection] = {}
    ends: list[str] = []
    for name, pool in named_pools(run, pools, taken=(FULL, LATE)).items():
        spans = spans_of(run, heads, pool=pool, m=steps[-1])
        directions = [
            text_directions(own, span.vectors) for own, span in zip(basis, spans, strict=True)
        ]
        projections[name] = TextProjection(basis, directions, classifier.weights, steps=steps)
        shortest = min(len(span.texts) for span in spans)
        if shortest < steps[-1]:
            ends.append(f"{shortest} of {name}")
    right = _count_right(run, heads, basis, projections, classifier=classifier, found=found)
    late = dict.fromkeys(head.address.layer for head in heads)
    told = f"the late heads are those of {layers_named(list(late))}"
    if pools is None:
        told += f", the texts those of the default pool {next(iter(projections))!r}"
    notes = [
        told,
        found.note,
        f"some heads have no more texts than {', '.join(ends)}" if ends else None,
    ]
    columns = {
        "pool": [FULL, LATE, *(name for name in projections for _ in steps)],
        "m": pa.array([None, None, *(steps * len(projections))], pa.int64()),
        "accuracy": right / len(found.rows),
    }
    return Reconstruction(pa.table(columns), note="; ".join(filter(None, notes)))


def _count_right(
    run: OpenRun,
    heads: Sequence[KeptHead],
    basis: F32,
    projections: Mapping[str, TextProjection],
    *,
    classifier: Classifier,
    found: Labelled,
) -> F64:
    """How many images are classified right: as they are, from late heads, from each projection."""
    moment = run_moments(run, heads, normalize=False)[0]
    factor_means = moment[:, -1, :-1] / moment[:, -1, -1:]
    weights = np.asarray(classifier.weights, np.float32)
    # The terms of an image add up to M(I), so their means do to the mean of M.
    constant = run.term_means[:-1].sum(0) @ np.float64(weights).T
    right: list[list[int]] = []
    for start in range(0, len(found.rows), _BLOCK):
        rows = found.rows[start : start + _BLOCK]
        labels = found.labels[start : start + _BLOCK]
        scale = run.arrays["scale"].read(rows)
        values = np.stack(
            [run.arrays["head_value"].read(rows, head.place, head.address.head) for head in heads],
            axis=1,
        )
        factors = centered_factors(values, scale, factor_means)
        full = run.arrays["representation"].read(rows) @ weights.T
        counts = [_right(full, labels)]
        counts.append(_right(head_logits(factors, basis, weights) + constant, labels))
        for projection in projections.values():
            counts += [_right(part + constant, labels) for part in projection.logits(factors)]
        right.append(counts)
    return np.array(right, np.float64).sum(axis=0)


def _right(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> int:
    return int(np.count_nonzero(np.argmax(logits, axis=1) == labels))


def _late_heads(run: OpenRun, layers: Sequence[int] | None) -> list[KeptHead]:
    chosen = run.shape.head_layers[-_LAYERS:] if layers is None else sorted(set(layers))
    return kept_heads(
        run, [f"L{layer}.H{head}" for layer in chosen for head in range(run.shape.heads)]
    )
