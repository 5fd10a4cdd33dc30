"""Which neurons write along a text: products and angles of their directions r_n (T3.3).

Directions come as [layers, N, E], one layer after the other as the caller chose them; a ranking
names a neuron by its place among those layers and its number in the layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .retrieval import direction_scores, top_k

Numbers = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class NeuronRanking(NamedTuple):
    """Neurons [n] in order, best first.

    `layers` are places among the layers given and `neurons` numbers within them; `scores` are the
    signed products, by whatever they were ranked.
    """

    layers: Rows
    neurons: Rows
    scores: F32

    def of(self, per_neuron: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What an array [layers, N, ...] holds of the ranked neurons: [n, ...]."""
        return per_neuron[self.layers, self.neurons]


def direction_products(directions: Numbers, text: Numbers) -> F32:
    """The products <r_n, t> of directions [layers, N, E] with `text` [E]: [layers, N]."""
    products = np.empty(directions.shape[:2], np.float32)
    for place, layer in enumerate(directions):  # float64 copies of one layer at a time
        products[place] = direction_scores(layer, text)
    return products


def rank_neurons(products: Numbers, k: int, *, signed: bool = False) -> NeuronRanking:
    """The `k` neurons of largest |<r_n, t>| (thesis, section 3.5), or of largest <r_n, t>.

    `products` [layers, N] of `direction_products`; with `signed`, neurons that write against the
    text come last. Equal ones come by ascending layer and neuron; NaN is never returned. Raises
    `ValueError` for a negative k.
    """
    flat = np.asarray(products).reshape(-1)
    best = top_k(flat if signed else np.abs(flat), k).rows
    layers, neurons = np.divmod(best, products.shape[1])
    return NeuronRanking(layers, neurons, flat[best].astype(np.float32))


def cosines(one: Numbers, other: Numbers) -> F32:
    """The cosine of every row of `one` [..., E] with every row of `other` [..., E].

    A neuron and all others, [E] and [N, E], give [N]; two sets [n, E] and [m, E] give [n, m]. A
    direction of length 0, that of a neuron without effects, is at no angle to any: NaN.
    """
    first, second = _unit(one), _unit(other)
    flat = first.reshape(-1, first.shape[-1]) @ second.reshape(-1, second.shape[-1]).T
    clipped = np.clip(flat, -1, 1, out=flat)
    return clipped.astype(np.float32).reshape(*first.shape[:-1], *second.shape[:-1])


def _unit(rows: Numbers) -> F64:
    exact = np.asarray(rows, np.float64)
    length = np.linalg.norm(exact, axis=-1, keepdims=True)
    return np.divide(exact, length, out=np.full_like(exact, np.nan), where=length > 0)
