"""Accuracy of a layer's neurons rebuilt from the texts of their sparse codes (Figure 3.4)."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.sparse_text import refitted
from .accuracy import Change, classify
from .classifier import Classifier, check_classifier
from .labels import labelled
from .named_pools import Pools, named_pools, text_counts
from .neuron_ablation import ALL, ALONG, BASELINE
from .neuron_changes import AlongDirections, LayerEffects, MeanAblation, one_layer
from .neuron_codes import CodeQuestion
from .open_run import OpenRun
from .result import Result
from .selection import Images
from .where import Where

if TYPE_CHECKING:
    from matplotlib.axes import Axes

F32 = npt.NDArray[np.float32]

_COLORS = {BASELINE: "0.6", ALL: "tab:red", ALONG: "black"}


class NeuronReconstruction(Result):
    """Rows `pool`, `m`, `accuracy`; first three without an `m`: what the curves lie between."""

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
                color = _COLORS[row["pool"]]
                ax.axhline(row["accuracy"], linestyle="--", color=color, label=row["pool"])
        ax.set_xlabel("texts of each neuron (m)")
        ax.set_ylabel("zero-shot accuracy")
        ax.legend()
        return ax


def neuron_reconstruction(
    run: OpenRun,
    c: Classifier,
    *,
    layer: int,
    pools: Pools = None,
    ms: int | Sequence[int] = (4, 8, 16, 32, 64, 128),
    center: bool = False,
    label: str = "label",
    images: Images = None,
    where: Where = None,
) -> NeuronReconstruction:
    """Accuracy with directions rebuilt from texts; see `RunView.neuron_reconstruction`."""
    import pyarrow as pa

    check_classifier(run, c)
    layer, counts = one_layer(run, layer), text_counts(ms)
    found = labelled(run, c, run.images.select(images, where), label=label)
    effects = LayerEffects(run, layer)
    changes: list[Change | None] = [
        None,
        MeanAblation(effects, "all"),
        AlongDirections(effects, effects.directions),
    ]
    names = [BASELINE, ALL, ALONG]
    named = named_pools(run, pools, taken=names)
    ends: list[str] = []
    ms_used: list[int] = []
    for name, pool in named.items():
        question = CodeQuestion.of(run, pool, m=counts[-1], center=center)
        codes = question.codes(layer)
        most = int((codes.picks >= 0).sum(axis=1).max())
        if most < counts[-1]:
            ends.append(f"{most} of {name}")
        # A count beyond the largest code is that code's: one row for all of them.
        real = sorted({min(m, question.m) for m in counts})
        changes += [
            AlongDirections(effects, rebuilt) for rebuilt in _rebuilt(effects, question, real)
        ]
        names += [name] * len(real)
        ms_used += real
    scored = classify(run, c, found, ablations=changes)
    columns: dict[str, Any] = {
        "pool": names,
        "m": pa.array([None] * 3 + ms_used, pa.int64()),
        "accuracy": np.array([one.overall for one in scored]),
    }
    told = f"all neurons of layer {layer}"
    if pools is None:
        told += f", the texts those of the default pool {next(iter(named))!r}"
    notes = [
        told,
        "the pool's mean taken away from its texts" if center else None,
        f"no neuron has more texts than {', '.join(ends)}" if ends else None,
        found.note,
    ]
    return NeuronReconstruction(Result.of(columns).arrow(), note="; ".join(filter(None, notes)))


def _rebuilt(effects: LayerEffects, question: CodeQuestion, counts: Sequence[int]) -> list[F32]:
    """r'_n [N, d'] of the first m texts of each code, for each m."""
    from scipy.sparse import csr_array

    codes, atoms = question.codes(effects.layer), np.asarray(question.atoms, np.float64)
    found: list[F32] = []
    for m in counts:
        picks = np.asarray(codes.picks[:, :m], np.int64)
        if m < codes.picks.shape[1]:
            coefficients = refitted(effects.directions, atoms, picks)
        else:
            coefficients = np.asarray(codes.coefficients, np.float64)
        real = picks >= 0
        pairs = np.nonzero(real)[0], picks[real]
        shape = len(picks), len(atoms)
        # Few of all [N, M] are picked.
        sparse = csr_array((coefficients[real], pairs), shape=shape)
        found.append(np.asarray(sparse @ atoms, np.float32))
    return found
