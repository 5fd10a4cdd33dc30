"""Directions that the asker gives for some neurons, in the place of the run's own r_n."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.components import Neuron
from ..schema.errors import BadQuestion
from .open_run import OpenRun

F64 = npt.NDArray[np.float64]

Directions: TypeAlias = Mapping[str, npt.ArrayLike]
"""A direction [d'] by a neuron's address, such as `NeuronEffects.directions`."""


class GivenDirections(NamedTuple):
    """Neurons by ascending layer and number, and a direction of unit length for each [n, d']."""

    neurons: list[Neuron]
    vectors: F64


def given_directions(run: OpenRun, directions: Directions) -> GivenDirections:
    """Check directions of neurons that the run kept, and bring them to unit length.

    Raises `BadQuestion` for no mapping, an empty one, a neuron named twice and for what is no
    direction of the run's joint space, and whatever finding a neuron raises.
    """
    given: Any = directions
    if not isinstance(given, Mapping) or not all(isinstance(one, str) for one in given):
        layer = run.neurons.layers()[-1]
        msg = (
            f"directions= takes vectors by neuron, {{'L{layer}.N0': [...], ...}}, such as "
            f"clip.neuron_effects(clip.classifier(CLASSES), layer={layer}).directions."
        )
        raise BadQuestion(msg)
    if not given:
        msg = "directions= names no neuron; leave it out for the run's own directions."
        raise BadQuestion(msg)
    found: dict[Neuron, F64] = {}
    for address, vector in given.items():
        neuron = run.neurons.find(address).address
        if neuron in found:
            msg = f"directions= names {neuron} twice; give one direction a neuron."
            raise BadQuestion(msg)
        found[neuron] = _unit(run, address, vector)
    neurons = sorted(found, key=lambda one: (one.layer, one.neuron))
    return GivenDirections(neurons, np.stack([found[one] for one in neurons]))


def _unit(run: OpenRun, address: str, vector: Any) -> F64:
    try:
        array = np.asarray(vector)
    except (TypeError, ValueError, RuntimeError):  # the last: tensors with gradients
        array = np.empty(0, np.object_)
    width = run.shape.embed_dim
    if array.shape != (width,) or array.dtype.kind not in "fiu":
        msg = (
            f"directions[{address!r}] is no direction of run {run.name!r}: that is {width} "
            f"numbers, not {array.dtype} of shape {array.shape}."
        )
        raise BadQuestion(msg)
    exact = array.astype(np.float64)
    largest = float(np.abs(exact).max())
    if not np.isfinite(largest) or largest == 0:
        what = "0" if largest == 0 else "NaN or infinite somewhere"
        msg = f"directions[{address!r}] is {what}, which is no direction; leave that neuron out."
        raise BadQuestion(msg)
    exact /= largest  # whose square might overflow or vanish
    return exact / np.linalg.norm(exact)
