"""Texts that pull an image of one class toward another, by way of neurons (T3.4).

With v = t(c2) - t(c1), the neurons that write most along v are taken, and the texts of their sparse
codes ranked by what they add along v. A text that is c2 by another name is no spurious cue and is
filtered. See `docs/mathematics.md`, "Spurious texts".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .neuron_ranking import NeuronRanking, cosines
from .retrieval import Ranking, direction_scores, top_k
from .text_votes import TextCodes, Votes, count_votes

Numbers = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]


def class_difference(shown: Numbers, mistaken_for: Numbers) -> F64:
    """The direction v = t(c2) - t(c1) [E] from the class shown, c1, to the other, c2 (T3.4)."""
    return np.asarray(mistaken_for, np.float64) - np.asarray(shown, np.float64)


def contribution_scores(products: Numbers, codes: TextCodes) -> Votes:
    """The contribution score w_j = sum over n of gamma_j^n <v, r_n> of every text: [M] (T3.4).

    `products` <v, r_n> [n] of the chosen neurons and their `codes`, in the same order: those of
    `neuron_ranking.rank_neurons` by |<v, r_n>|, or of `random_neurons`. The best texts are
    `text_votes.top_texts`, with `synonyms` of c2 left out. Raises `ValueError` for numbers that are
    not finite, or codes of other neurons than the products'.
    """
    if len(products) != len(codes.picks):
        msg = f"{len(products)} products and codes of {len(codes.picks)} neurons; give one of each."
        raise ValueError(msg)
    return count_votes(np.arange(len(products)), products, codes)


def synonyms(pool: Numbers, names: Numbers, threshold: float) -> Flags:
    """Texts of the pool whose cosine with a name is at least `threshold`: [M].

    `pool` [M, E]; `names` [E] or [n, E] of the class c2 that v points to (thesis, section 3.5,
    with the model's own text encoder as the measure).
    """
    near = cosines(pool, names).reshape(len(pool), -1) >= threshold
    return np.asarray(near.any(axis=1), np.bool_)


def random_neurons(products: Numbers, k: int, *, seed: int) -> NeuronRanking:
    """`k` neurons drawn without replacement instead of ranked, in ascending order (Table 3.3).

    `products` <v, r_n> [layers, N]; those that are NaN are not drawn, and k larger than what there
    is gives all. Raises `ValueError` for a negative k.
    """
    if k < 0:
        msg = f"k = {k} neurons cannot be drawn; ask for 0 or more."
        raise ValueError(msg)
    flat = np.asarray(products).reshape(-1)
    usable = np.flatnonzero(~np.isnan(flat))
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(usable, min(k, len(usable)), replace=False))
    layers, neurons = np.divmod(drawn, products.shape[1])
    return NeuronRanking(layers, neurons, flat[drawn].astype(np.float32))


def similar_texts(pool: Numbers, v: Numbers, k: int, *, left_out: Flags | None = None) -> Ranking:
    """The `k` texts of largest <v, t_j>, chosen without any neuron, and those products (Table 3.3).

    `pool` [M, E] of unit length and `v` [E]; `left_out` [M] marks texts that are not to be shown.
    Raises `ValueError` for a negative k.
    """
    scores = direction_scores(pool, v)
    if left_out is not None:
        scores[left_out] = np.nan  # never returned
    return top_k(scores, k)
