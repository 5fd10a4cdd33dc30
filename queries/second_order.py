"""One direction for a neuron's second-order effects, found without forming any of them.

An effect is `phi_n(I) = t_n(I) @ D_n`: factors t [J] of the image, a fixed matrix D_n [J, E] of
the neuron (docs/mathematics.md, "Second-order effects"). With a root L_n of its Gram matrix,
`L_n L_n^T = D_n D_n^T`, the rows `t @ L_n` have the lengths and angles of the effects, so that
principal components are taken in J dimensions (T3.3). Effects of the thesis' models have
J = heads * later layers; the arrays here are float64 inside whatever they come as.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadSelection

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

LARGEST = 100  # effects that a direction is taken from (T3.3)
_BLOCK_BYTES = 2**26


class Component(NamedTuple):
    """The first principal component of each neuron's effects.

    `coefficients` a [N, J], so that r_n = a @ D_n is of unit length; `explained` [N], its share
    of their mean square; both are 0 for a neuron whose effects are all 0.
    """

    coefficients: F64
    explained: F64


class RankOne(NamedTuple):
    """The approximation phi ~ x r + b of each neuron (T3.3), in its factors.

    `mean` [N, J], with b_n = mean @ D_n; `coefficients` [N, J], with r_n = coefficients @ D_n;
    `explained` [N]; `rows` [N, S], the images behind r_n, largest ||phi - b|| first.
    """

    mean: F64
    coefficients: F64
    explained: F64
    rows: Rows


def first_component(largest: Numbers, root: Numbers) -> Component:
    """First principal component of mean-subtracted effects, not centered again (T3.3).

    `largest` [N, S, J] are factors minus their mean over the reference set, S effects a neuron;
    `root` [N, J, J]. The first right singular vector of the S effects, with the sign that makes
    most of their projections positive (a tie: as the decomposition gives it). The eigenproblem is
    that of the smaller of S and J.
    """
    chosen = np.asarray(largest, dtype=np.float64)
    effects = chosen @ np.asarray(root, dtype=np.float64)
    small = effects.shape[1] <= effects.shape[2]
    transposed = np.swapaxes(effects, 1, 2)
    values, vectors = np.linalg.eigh(effects @ transposed if small else transposed @ effects)
    vector = vectors[..., -1, None]
    # Proportional to the effects' projections onto r; their sum of squares is the eigenvalue.
    projections = (vector if small else effects @ vector)[..., 0]
    norm = np.linalg.norm(projections, axis=1)
    signs = np.sign(projections).sum(1)
    energy = np.einsum("nsj,nsj->n", effects, effects)
    top = np.sqrt(np.maximum(values[:, -1], 0)) * norm * np.where(signs < 0, -1, 1)
    coefficients = (projections[:, None] @ chosen)[:, 0]
    coefficients = np.divide(
        coefficients, top[:, None], out=np.zeros_like(coefficients), where=top[:, None] != 0
    )
    explained = np.divide(values[:, -1], energy, out=np.zeros_like(energy), where=energy > 0)
    return Component(coefficients, explained)


def rank_one(factors: Numbers, root: Numbers, *, count: int = LARGEST) -> RankOne:
    """Mean effect and direction of every neuron over a reference set (T3.3).

    `factors` [K, N, J] of the reference images, `root` [N, J, J]. The direction is
    `first_component` of the `count` effects of largest ||phi - b|| (all, where there are fewer;
    equal norms by ascending row). Rows with a NaN are skipped; raises BadSelection where none is
    left.
    """
    usable = np.flatnonzero(np.isfinite(factors).all(axis=(1, 2)))
    if len(usable) == 0 or count < 1:
        msg = f"No effects to take a direction from: {len(usable)} usable images, count {count}."
        raise BadSelection(msg)
    neurons, paths = factors.shape[1:]
    kept = min(count, len(usable))
    mean, coefficients = np.empty((neurons, paths)), np.empty((neurons, paths))
    explained, rows = np.empty(neurons), np.empty((neurons, kept), dtype=np.int64)
    for part in _blocks(factors):
        block = np.asarray(factors[usable, part], dtype=np.float64)
        mean[part] = block.mean(0)
        block -= mean[part]
        norms = np.linalg.norm(_lengthwise(block, root[part]), axis=-1)
        order = np.argsort(-norms, axis=1, kind="stable")[:, :kept]
        rows[part] = usable[order]
        largest = np.take_along_axis(np.moveaxis(block, 0, 1), order[..., None], axis=1)
        coefficients[part], explained[part] = first_component(largest, root[part])
    return RankOne(mean, coefficients, explained, rows)


def _lengthwise(factors: Numbers, root: Numbers) -> F64:
    """T @ L [N, K, J] of factors [K, N, J]: rows as long, and at such angles, as the effects."""
    return np.moveaxis(np.asarray(factors, np.float64), 0, 1) @ np.asarray(root, np.float64)


def _blocks(factors: Numbers) -> list[slice]:
    """Neurons in parts whose float64 factors take about 64 MiB."""
    images, neurons, paths = factors.shape
    step = max(1, _BLOCK_BYTES // (8 * max(1, images * paths)))
    return [slice(start, min(start + step, neurons)) for start in range(0, neurons, step)]
