"""What an image shows, in the words of its active neurons (thesis, "Concept discovery in images").

A neuron is active in an image where its second-order effect is longer than its threshold, the 98th
percentile of its norms. Active neurons vote for the texts of their sparse codes, each as strongly
as it acts. See `docs/mathematics.md`, "Concepts of an image".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .text_votes import TextCodes, TextRanking, Votes, count_votes, top_texts

Numbers = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.int64]


class Concepts(NamedTuple):
    """The best texts of an image, and the active neurons [a] that voted, ascending."""

    texts: TextRanking
    active: Rows


class Effects(NamedTuple):
    """What a layer's neurons do in an image, all [N], or in K images, [K, N].

    `norms` ||phi_n||, `coefficients` x_n, signed; `thresholds` [N] are the neurons' own.
    """

    norms: Numbers
    coefficients: Numbers
    thresholds: Numbers


def active_neurons(norms: Numbers, thresholds: Numbers) -> Rows:
    """Neurons of `norms` [N] above their `thresholds` [N], ascending (thesis, appendix B)."""
    return np.flatnonzero(np.asarray(norms) > thresholds)


def image_concepts(effects: Effects, codes: TextCodes, k: int, *, signed: bool = True) -> Concepts:
    """The `k` texts of largest image-contribution score w_j (thesis, appendix B).

    `w_j = sum over active n of gamma_j^n x_n`, since a neuron that writes against its direction
    speaks against its texts; `signed=False` takes ||phi_n|| for x_n, as the thesis has it. `codes`
    are those of all N neurons. Texts that no active neuron holds are never returned. Raises
    `ValueError` for numbers that are not finite: an image that was rejected has no concepts.
    """
    _check(effects)
    active = active_neurons(effects.norms, effects.thresholds)
    weights = (effects.coefficients if signed else effects.norms)[active]
    return Concepts(top_texts(count_votes(active, weights, codes), k), active)


def concept_scores(effects: Effects, codes: TextCodes, *, signed: bool = True) -> Votes:
    """Scores w_j and voters of every text for K images at once: [K, M], 16 bytes a text and image.

    As `image_concepts`, whose texts are the top ones of each row. Raises `ValueError` likewise.
    """
    _check(effects)
    images, active = np.nonzero(np.asarray(effects.norms) > effects.thresholds)
    weights = (effects.coefficients if signed else effects.norms)[images, active]
    found = count_votes(active, weights, codes, images=images)
    # Images after the last that has an active neuron have no votes.
    missing = ((0, len(effects.norms) - len(found.scores)), (0, 0))
    return Votes(np.pad(found.scores, missing), np.pad(found.neurons, missing))


def _check(effects: Effects) -> None:
    for name, numbers in effects._asdict().items():
        if not np.isfinite(numbers).all():
            msg = (
                f"The {name} of neurons hold NaN or infinity; ask for images that the run took in, "
                "and neurons of a layer that it kept."
            )
            raise ValueError(msg)
