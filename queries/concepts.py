"""What an image shows, in the words of its active neurons (thesis, "Concept discovery in images").

A neuron is active in an image where its second-order effect is longer than its threshold, the 98th
percentile of its norms. Active neurons vote for the texts of their sparse codes, each as strongly
as it acts. See `docs/mathematics.md`, "Concepts of an image".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .text_votes import TextCodes, TextRanking, Votes, count_votes, top_texts

Numbers = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.int64]


class Concepts(NamedTuple):
    """The best texts of an image, and in each layer the active neurons that voted, ascending."""

    texts: TextRanking
    active: list[Rows]


class Effects(NamedTuple):
    """What a layer's neurons do in an image, all [N].

    `norms` ||phi_n||, `coefficients` x_n, signed; `thresholds` are the neurons' own.
    """

    norms: Numbers
    coefficients: Numbers
    thresholds: Numbers


def active_neurons(norms: Numbers, thresholds: Numbers) -> Rows:
    """Neurons of `norms` [N] above their `thresholds` [N], ascending (thesis, appendix B)."""
    return np.flatnonzero(np.asarray(norms) > thresholds)


def image_concepts(
    effects: Sequence[Effects], codes: Sequence[TextCodes], k: int, *, signed: bool = True
) -> Concepts:
    """The `k` texts of largest image-contribution score w_j (thesis, appendix B).

    `w_j = sum over active n of gamma_j^n x_n`, since a neuron that writes against its direction
    speaks against its texts; `signed=False` takes ||phi_n|| for x_n, as the thesis has it.
    `effects` are of one or more layers, `codes` those of all N neurons of each in one pool. Texts
    that no active neuron holds are never returned. Raises `ValueError` for numbers that are not
    finite: an image that was rejected has no concepts.
    """
    votes: list[Votes] = []
    active: list[Rows] = []
    for layer, code in zip(effects, codes, strict=True):
        _check(layer)
        active.append(active_neurons(layer.norms, layer.thresholds))
        weights = (layer.coefficients if signed else layer.norms)[active[-1]]
        votes.append(count_votes(active[-1], weights, code))
    total = Votes(
        np.sum([one.scores for one in votes], axis=0),
        np.sum([one.neurons for one in votes], axis=0),
    )
    return Concepts(top_texts(total, k), active)


def _check(effects: Effects) -> None:
    for name, numbers in effects._asdict().items():
        if not np.isfinite(numbers).all():
            msg = (
                f"The {name} of neurons hold NaN or infinity; ask for images that the run took in, "
                "and neurons of a layer that it kept."
            )
            raise ValueError(msg)
