"""Where in an image neurons are active: activations over patches, and their mean.

Neurons are computed again from the inputs of their MLP, `p_i^n = act(<w_n, x_i> + b_n)`, so only
those asked for cost anything. The mean map of the neurons that write along a text is its
segmentation (thesis, section 3.5): `heatmaps.patch_grid` lays it out, `heatmaps.unit_range` scales
it to [0, 1] (a constant map becomes zeros) and what is above 0.5 is foreground. See
`docs/mathematics.md`, "Neuron maps".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]

ACTIVATIONS = ("gelu", "gelu_tanh", "quickgelu")
_BLOCK_BYTES = 2**25


class InputWeights(NamedTuple):
    """How n neurons read: rows [n, d] of the MLP's input matrix, biases [n], its activation."""

    matrix: Numbers
    bias: Numbers
    activation: str


def activate(values: Numbers, activation: str) -> F32:
    """The activation of `values`, in float32 as the model's forward pass has it.

    "gelu" is x (1 + erf(x / sqrt 2)) / 2, "gelu_tanh" its approximation by tanh and "quickgelu"
    x / (1 + exp(-1.702 x)). Raises `ValueError` for any other name.
    """
    # On the first activation: the rest of what is here needs no scipy.
    from scipy.special import erf, expit

    x = np.asarray(values, np.float32)
    if activation == "gelu":
        gate = erf(x * np.float32(0.5**0.5))
    elif activation == "gelu_tanh":
        gate = np.tanh(np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x**3))
    elif activation == "quickgelu":
        return x * np.asarray(expit(np.float32(1.702) * x), np.float32)
    else:
        msg = f"No activation is called {activation!r}; there are {', '.join(ACTIVATIONS)}."
        raise ValueError(msg)
    gate = np.asarray(gate, np.float32)
    gate += 1
    gate *= np.float32(0.5) * x
    return gate


def neuron_maps(inputs: Numbers, weights: InputWeights) -> F32:
    """The activations p_i^n of every neuron at every patch: [..., n, T].

    `inputs` [..., T, d] are the patches as they enter the MLP, after its LayerNorm. Raises
    `ValueError` for an unknown activation.
    """
    tokens = np.swapaxes(np.asarray(inputs, np.float32), -1, -2)
    before = np.asarray(weights.matrix, np.float32) @ tokens
    before += np.asarray(weights.bias, np.float32)[:, None]
    return activate(before, weights.activation)


def mean_neuron_map(
    inputs: Numbers, weights: InputWeights, *, signs: npt.ArrayLike | None = None
) -> F32:
    """The mean over neurons of their maps: [..., T] (thesis, section 3.5).

    `inputs` [..., T, d] and `weights` as in `neuron_maps`, whose maps are formed for some images at
    a time. `signs` [n], the signs of <r_n, t>, turn neurons around that write against the text, and
    leave one with a sign of 0 out of the sum. Raises `ValueError` where there are no neurons.
    """
    count = len(weights.matrix)
    if not count:
        msg = "No neurons were given to take a mean map of; choose one or more."
        raise ValueError(msg)
    shares = np.ones(count) if signs is None else np.sign(np.asarray(signs, np.float64))
    shares = (shares / count).astype(np.float32)
    patches, width = inputs.shape[-2:]
    images = inputs.reshape(-1, patches, width)
    means = np.empty(images.shape[:2], np.float32)
    step = max(1, _BLOCK_BYTES // (4 * patches * max(count, width)))
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        means[part] = shares @ neuron_maps(images[part], weights)
    return means.reshape(inputs.shape[:-1])
