"""Which heads of a run carry a group's effect on a classifier's logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_factors
from ..queries.spurious import Cells, GroupEffects, cell_sums, cells_of, group_effects
from ..schema.components import Head
from ..schema.errors import HeadNotStored
from .classifier import Classifier, check_classifier
from .labels import labelled
from .open_run import OpenRun
from .printing import counted, keeping, layers_named
from .result import Result
from .selection import Images
from .where import Where
from .whole_numbers import whole

F64 = npt.NDArray[np.float64]

_BLOCK = 8192


def spurious_heads(
    run: OpenRun,
    made: Classifier,
    *,
    by: str | Sequence[str],
    k: int = 10,
    label: str = "label",
    images: Images = None,
    where: Where = None,
) -> Result:
    """Rank a run's kept heads; see `RunView.spurious_heads`."""
    k = whole(k, "k", least=1, of="heads")
    check_classifier(run, made)
    if not run.shape.head_layers:
        msg = f"run {run.name!r} kept no heads. {keeping('--heads', 'last:4')}"
        raise HeadNotStored(msg)
    found = labelled(run, made, run.images.select(images, where), label=label, by=by)
    cells = cells_of(found.labels, found.groups)
    effects = _effects(run, made, rows=found.rows, cells=cells)
    order = np.argsort(-effects.score, kind="stable")
    order = order[effects.score[order] > 0][:k]
    heads = [Head(run.shape.head_layers[n // run.shape.heads], n % run.shape.heads) for n in order]
    texts = _first_texts(run)
    columns: dict[str, Any] = {
        "rank": np.arange(1, len(order) + 1),
        "component": [str(head) for head in heads],
        "layer": [head.layer for head in heads],
        "head": [head.head for head in heads],
        "effect": effects.effect[order],
        "cumulative": np.cumsum(effects.effect[order]),
        "group_variance": effects.group_variance[order],
        "label_variance": effects.label_variance[order],
        "score": effects.score[order],
        "text": [texts.get(str(head)) for head in heads],
    }
    several = not isinstance(by, str) and len(by) > 1
    groups = repr(by) if isinstance(by, str) else " and ".join(map(repr, by))
    does, images_seen = "do" if several else "does", counted(len(found.rows), "image")
    note = (
        f"by what {groups} {does} to the logits of {images_seen} through each of the heads of "
        f"{layers_named(run.shape.head_layers)}, which this run kept"
    )
    if found.note:
        note += f"; {found.note}"
    if len(order) < k:
        note += (
            f"; no other head adds to it and writes more of {groups} than of {label!r}, "
            f"so there {'is' if len(order) == 1 else 'are'} {len(order)} of the {k} asked for"
        )
    return Result.of(columns, note=note)


def _effects(
    run: OpenRun, made: Classifier, *, rows: npt.NDArray[np.int64], cells: Cells
) -> GroupEffects:
    """Every kept head's effect, from one pass over the values of each."""
    shape, count = run.shape, len(cells.images)
    width = shape.head_width + 3
    means = np.zeros((len(shape.head_layers) * shape.heads, count, width))
    representation = np.zeros((count, shape.embed_dim))
    for start in range(0, len(rows), _BLOCK):
        block, of_image = rows[start : start + _BLOCK], cells.of_image[start : start + _BLOCK]
        representation += cell_sums(run.arrays["representation"].read(block), of_image, count)
        scale = run.arrays["scale"].read(block)
        for number, mean in enumerate(means):
            value = run.arrays["head_value"].read(block, *divmod(number, shape.heads))
            mean += cell_sums(head_factors(value, scale), of_image, count)
    images = cells.images[:, None]
    return group_effects(
        means / images,
        run.head_basis.reshape(-1, *run.head_basis.shape[2:]),
        representation=representation / images,
        classifier=made.weights,
        cells=cells,
    )


def _first_texts(run: OpenRun) -> dict[str, str]:
    """The first TEXTSPAN text of each head over the run's default pool, where it is stored."""
    found = run.console.query(
        "SELECT component, texts[1] AS text FROM heads WHERE run = ?", [run.name]
    )
    return {row["component"]: row["text"] for row in found.to_pylist()}
