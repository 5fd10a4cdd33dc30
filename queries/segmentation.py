"""Zero-shot segmentation: from scores of patches to masks, and how good masks are.

The protocol is the one of Table 2.4, which is that of Chefer et al. (2021): the map of a class,
less the mean map of all classes, is enlarged to the crop, clipped at 0 and scaled to [0, 1];
what lies above its own mean is foreground.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .heatmaps import unit_range, upsample

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Flags: TypeAlias = npt.NDArray[np.bool_]
F64: TypeAlias = npt.NDArray[np.float64]
I64: TypeAlias = npt.NDArray[np.int64]
Threshold: TypeAlias = float | Literal["mean"]


def heat(scores: Numbers, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """How much of a text each pixel shows, 0 to 1 (thesis, section 2.5).

    Scores [..., rows, columns] of patches, enlarged bilinearly to `size` = (height, width), clipped
    at 0 and scaled to each map's own range. A map that is constant after clipping is 0 everywhere.
    """
    # In float64 before rounding: equal pixels, as at the borders, stay equal, and ties count.
    large = upsample(np.asarray(scores, np.float64), size)
    return unit_range(large, positive=True).astype(np.float32)


def foreground(heat: Numbers, threshold: Threshold = "mean") -> Flags:
    """Pixels [..., h, w] whose heat is above `threshold`, by default above their map's mean."""
    if isinstance(threshold, str):
        return heat > heat.mean(axis=(-2, -1), keepdims=True)
    return heat > threshold


def confusion(predicted: Flags, truth: Flags, *, valid: Flags | None = None) -> I64:
    """Pixels counted by truth and prediction, both 0 for background and 1 for foreground.

    Masks [..., h, w] give [..., 2 (truth), 2 (predicted)]; only pixels that are `valid` count.
    Counts of several images may be added up.
    """
    counted = np.ones_like(truth) if valid is None else valid
    table = [
        [np.count_nonzero(t & p & counted, axis=(-2, -1)) for p in (~predicted, predicted)]
        for t in (~truth, truth)
    ]
    return np.moveaxis(np.asarray(table, np.int64), (0, 1), (-2, -1))


def pixel_accuracy(counts: I64) -> F64:
    """The share of labelled pixels that are right; `counts` [..., 2, 2], NaN where none is."""
    return _share(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)), np.nan)


def intersection_over_union(counts: I64) -> F64:
    """Of background and foreground the shared pixels over those of either: [..., 2].

    `counts` [..., 2, 2]; 0 where neither truth nor prediction has any, as published.
    """
    shared = np.diagonal(counts, axis1=-2, axis2=-1)
    return _share(shared, counts.sum(-1) + counts.sum(-2) - shared, 0)


def average_precision(
    heat: Numbers,
    truth: Flags,
    *,
    valid: Flags | None = None,
    classes: Literal["both", "foreground"] = "both",
) -> float:
    """Average precision of a map of heat [h, w] from 0 to 1 against a mask.

    As published, `both` maps [1 - heat, heat] are scores of background and foreground, ranked
    together, a pixel's own class being right. A map without any heat scores 0 for either class,
    since it could not be scaled. `foreground` ranks by heat alone, which says more where objects
    are small: there the background of any map makes the other number high.
    NaN where no pixel is `valid`, and for `foreground` where none of them is foreground.
    """
    from sklearn.metrics import average_precision_score

    chosen = slice(None) if valid is None else valid.ravel()
    positive, scores = truth.ravel()[chosen], np.asarray(heat).ravel()[chosen]
    if not (len(scores) if classes == "both" else positive.any()):
        return float("nan")
    if classes == "both":
        background = 1 - scores if heat.any() else scores
        positive = np.concatenate([~positive, positive])
        scores = np.concatenate([background, scores])
    return float(average_precision_score(positive, scores))


def _share(part: I64, whole: I64, empty: float) -> F64:
    shares = np.full(np.shape(whole), empty, np.float64)
    return np.divide(part, whole, out=shares, where=np.asarray(whole) > 0)
