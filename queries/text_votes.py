"""Texts that neurons vote for: sums of their sparse codes, each with a weight of its own.

The score of text j is `w_j = sum over neurons n of gamma_j^n * weight_n`. What the weight is makes
the question: what a neuron does in an image (`concepts`), or along a class direction
(`spurious_texts`). A code holds some hundred of tens of thousands of texts, so sums run over picks
and the matrix of neurons and texts is never formed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .retrieval import top_k

Numbers = npt.NDArray[np.floating[Any]]
Whole = npt.NDArray[np.integer[Any]]
Flags = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class TextCodes(NamedTuple):
    """Sparse codes of n neurons in a pool of `size` texts (T3.4).

    `picks` [n, m] are rows of the pool, -1 past a neuron's last; `coefficients` gamma [n, m].
    """

    picks: Whole
    coefficients: Numbers
    size: int


class Votes(NamedTuple):
    """For each text of the pool its score w_j and how many neurons' codes hold it: [M] each."""

    scores: F64
    neurons: Rows


class TextRanking(NamedTuple):
    """Texts [k] in order, best first: rows of the pool, scores w_j, neurons that hold them."""

    texts: Rows
    scores: F64
    neurons: Rows


def count_votes(neurons: Whole, weights: Numbers, codes: TextCodes) -> Votes:
    """Add up the codes of `neurons` [a], rows of `codes`, times their `weights` [a]: [M].

    Raises `ValueError` for weights or coefficients that are not finite, and for picks past the
    pool.
    """
    picks = codes.picks[neurons]
    given = np.asarray(codes.coefficients[neurons], np.float64)
    _check(weights, given, picks, codes)
    shares = given * np.asarray(weights, np.float64)[:, None]
    real = picks >= 0
    scores = np.bincount(picks[real], weights=shares[real], minlength=codes.size)
    return Votes(scores.astype(np.float64), np.bincount(picks[real], minlength=codes.size))


def top_texts(votes: Votes, k: int, *, left_out: Flags | None = None) -> TextRanking:
    """The `k` texts of largest score among those that some neuron holds, ties by ascending row.

    `votes` over one pool [M]; `left_out` [M] marks texts that are not to be shown. There may be
    fewer than k, and the last may have negative scores. Raises `ValueError` for a negative k.
    """
    shown = votes.neurons > 0
    if left_out is not None:
        shown &= ~left_out
    rows = np.flatnonzero(shown)
    best = top_k(votes.scores[rows], k, rows=rows)
    return TextRanking(best.rows, votes.scores[best.rows], votes.neurons[best.rows])


def _check(weights: Numbers, coefficients: F64, picks: Whole, codes: TextCodes) -> None:
    if not np.isfinite(weights).all():
        msg = "Weights of neurons hold NaN or infinity; leave out what was not computed."
        raise ValueError(msg)
    if not np.isfinite(coefficients).all():
        msg = "Coefficients of sparse codes hold NaN or infinity; compute the codes again."
        raise ValueError(msg)
    if picks.size and not -1 <= picks.min() <= picks.max() < codes.size:
        msg = (
            f"Codes pick texts {picks.min()} to {picks.max()} of a pool of {codes.size}; "
            "give the pool that they were computed in."
        )
        raise ValueError(msg)
