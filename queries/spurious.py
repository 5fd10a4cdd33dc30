"""Which heads carry a group's effect on the class logits: candidates for a spurious cue.

Works on *cells*, the images of one label and one group (a pentagon on water): each head enters
with its mean factors per cell, so nothing is as large as images x classes. See
`docs/mathematics.md`, "Spurious cues".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSelection

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


class Cells(NamedTuple):
    """The cells that hold images: label and group of each (codes from 0) and its images, all [n].

    `of_image` [k] is each image's cell.
    """

    labels: Codes
    groups: Codes
    images: Codes
    of_image: Codes


@dataclass(frozen=True, eq=False)
class GroupEffects:
    """For each of n heads, all [n].

    `effect` is its share of the group's effect on the logits; over all components of the model the
    shares add up to 1, and a head that works against the rest has a negative one. `group_variance`
    and `label_variance` are the variances of its own logits between groups of one label and
    between labels of one group; `score` is what heads are ranked by: the effect times the part
    of those two that the group has, and 0 for a head that tells labels apart more than groups.
    """

    effect: F64
    group_variance: F64
    label_variance: F64
    score: F64


def cells_of(labels: Codes, groups: Codes) -> Cells:
    """Cells of images with a label and a group each, as whole numbers [k].

    Raises `BadSelection` where no label occurs in two groups, or no group holds two labels.
    """
    label_codes = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    group_codes = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    width = int(group_codes.max(initial=0)) + 1
    present, of_image, images = np.unique(
        label_codes * width + group_codes, return_inverse=True, return_counts=True
    )
    found = Cells(present // width, present % width, images, of_image.astype(np.int64))
    if not (np.bincount(found.labels, minlength=1) > 1).any():
        msg = (
            "no label occurs in two groups, so what the group does cannot be told from what the "
            "label does; take images of one label in at least two groups."
        )
        raise BadSelection(msg)
    if not (np.bincount(found.groups, minlength=1) > 1).any():
        msg = (
            "no group holds two labels, so heads of the group cannot be told from heads of the "
            "label; take groups that several labels share, such as a background."
        )
        raise BadSelection(msg)
    return found


def cell_sums(values: Numbers, cells: Codes, count: int) -> F64:
    """Sums [count, ...] of `values` [k, ...] over the images of each cell; `cells` [k]."""
    order = np.argsort(cells, kind="stable")
    present, starts = np.unique(cells[order], return_index=True)
    total = np.zeros((count, *values.shape[1:]))
    if len(present):
        total[present] = np.add.reduceat(values[order], starts, axis=0, dtype=np.float64)
    return total


def group_effects(
    means: F64,
    basis: Numbers,
    *,
    representation: F64,
    classifier: Numbers,
    cells: Cells,
) -> GroupEffects:
    """Split the group's effect on the class logits over heads.

    `means` [heads, n, e+3] and `representation` [n, E] are means over each cell's images,
    `basis` [heads, e+3, E], `classifier` [C, E]. Logits are centered over the classes first: a
    constant changes no prediction. With l_h the logits that a head adds and l those of M(I),
    in means over cells, and delta the difference of a cell to its label's mean, the effect is
    E[<delta l_h, delta l>] / E[|delta l|^2], over images of labels that occur in two groups.
    """
    centered = np.asarray(classifier, np.float64)
    centered = centered - centered.mean(0)
    # R^T R = W^T W: lengths of logits without as many columns as classes.
    triangle = np.asarray(np.linalg.qr(centered, mode="r"), np.float64)
    within_label = _Deviations(cells.labels, cells.images)
    within_group = _Deviations(cells.groups, cells.images)
    whole = within_label.of(representation @ triangle.T)
    total = within_label.product(whole, whole)
    shares, grouped, labeled = (np.zeros(len(means)) for _ in range(3))
    for head, (mean, rows) in enumerate(zip(means, basis, strict=True)):
        logits = mean @ (rows.astype(np.float64) @ triangle.T)
        own = within_label.of(logits)
        shares[head] = within_label.product(own, whole) / total if total > 0 else 0
        grouped[head] = within_label.product(own, own)
        other = within_group.of(logits)
        labeled[head] = within_group.product(other, other)
    both = grouped + labeled
    pure = np.divide(grouped, both, out=np.zeros_like(both), where=both > 0)
    return GroupEffects(shares, grouped, labeled, shares * pure * (grouped > labeled))


class _Deviations:
    """Differences of cells to the mean of their stratum, weighted by images."""

    def __init__(self, strata: Codes, images: Codes) -> None:
        self._strata = strata
        self._images = images
        self._sizes = np.bincount(strata, weights=images)
        # A stratum of one cell has no variance between cells, and none to average over.
        self._weights = images * (np.bincount(strata)[strata] > 1)

    def of(self, values: F64) -> F64:
        sums = np.zeros((len(self._sizes), values.shape[1]))
        np.add.at(sums, self._strata, values * self._images[:, None])
        return values - (sums / self._sizes[:, None])[self._strata]

    def product(self, one: F64, other: F64) -> float:
        """The weighted mean of <one, other> over the cells."""
        whole = float(self._weights.sum())
        return float(self._weights @ np.einsum("nr,nr->n", one, other)) / whole if whole else 0.0
