"""Representations without a layer's second-order effects, from sums over its neurons.

Replacing effects phi_n(I) by their means b_n, in all images or in some, changes M(I) by sums over
neurons that are stored (thesis, Figures 3.3, B.2 and B.3), so nothing here is done neuron by
neuron. See `docs/mathematics.md`, "Layer experiments".
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
Whole: TypeAlias = npt.NDArray[np.integer[Any]]
F32: TypeAlias = npt.NDArray[np.float32]
Ablated: TypeAlias = Literal["all", "large", "small"]
"""Which effects of a neuron are replaced: all, its large ones, or all but its large ones."""

_BLOCK = 2048  # images whose coefficients are converted at a time


class LayerSums(NamedTuple):
    """Sums over a layer's neurons in K images.

    `total` [K, E] of phi_n, `large` [K, E] of phi_n over the image's large ones, `large_mean`
    [K, E] of b_n over the same; `mean` [E] of b_n over all.
    """

    total: Numbers
    large: Numbers
    large_mean: Numbers
    mean: Numbers


class Pairs(NamedTuple):
    """Neurons and images [P] that go together, each pair once, and the x_n(I) of each [P]."""

    neurons: Whole
    images: Whole
    coefficients: Numbers


def mean_ablated(representations: Numbers, sums: LayerSums, ablated: Ablated) -> F32:
    """Representations [K, E] with a layer's effects mean-ablated (Figure 3.3).

    "all" is "w/o all neurons", "large" is "w/o large norm" and "small" is "w/o small norm", which
    ablates all but the large ones. Raises `ValueError` for another name.
    """
    out = _copy(representations)
    if ablated in ("all", "small"):
        out -= sums.total
        out += np.asarray(sums.mean, np.float32)
    if ablated == "small":
        out += sums.large
        out -= sums.large_mean
    elif ablated == "large":
        out -= sums.large
        out += sums.large_mean
    elif ablated != "all":
        msg = f"{ablated!r} names no effects of a neuron; ablate 'all', 'large' or 'small'."
        raise ValueError(msg)
    return out


def along_directions(
    representations: Numbers, sums: LayerSums, coefficients: Numbers, *, directions: Numbers
) -> F32:
    """Representations [K, E] with every effect replaced by x_n(I) r_n + b_n (Figure 3.3).

    `coefficients` x [K, N]; `directions` [N, E] are the neurons' own, or what is to stand in for
    them: sums of texts (Figure 3.4), or those of other neurons.
    """
    out = mean_ablated(representations, sums, "all")
    rows = np.asarray(directions, np.float32)
    for start in range(0, len(out), _BLOCK):
        part = slice(start, start + _BLOCK)
        out[part] += np.asarray(coefficients[part], np.float32) @ rows
    return out


def pairs_ablated(
    representations: Numbers,
    sums: LayerSums,
    pairs: Pairs,
    *,
    directions: Numbers,
    ablated: Literal["large", "small"],
) -> F32:
    """`mean_ablated` with chosen pairs as the large ones, such as each neuron's 100 top images.

    An estimate: in the pairs phi_n(I) is taken to be x_n(I) r_n + b_n, so that the means cancel,
    and with D = sum over an image's pairs of x_n r_n "large" is M - D and "small" what is left of M
    without all effects, plus D. `directions` r [N, E]. Raises `ValueError` for another name, and
    for pairs past the images or neurons.
    """
    if ablated == "large":
        return _copy(representations) - _pair_sums(pairs, directions, len(representations))
    if ablated == "small":
        rest = mean_ablated(representations, sums, "all")
        return rest + _pair_sums(pairs, directions, len(representations))
    msg = f"{ablated!r} names no effects of pairs; ablate 'large' or 'small'."
    raise ValueError(msg)


def _pair_sums(pairs: Pairs, directions: Numbers, images: int) -> F32:
    """The sum over each image's pairs of x_n r_n: [images, E]."""
    from scipy.sparse import csr_array

    # Few of all [images, N] are paired: a sparse product costs as much as they are.
    paired = csr_array(
        (np.asarray(pairs.coefficients, np.float32), (pairs.images, pairs.neurons)),
        shape=(images, len(directions)),
    )
    return np.asarray(paired @ np.asarray(directions, np.float32), np.float32)


def _copy(representations: Numbers) -> F32:
    return np.array(representations, np.float32)
