"""One direction for effects of any kind: the principal component of vectors that are formed.

Second-order effects are never formed (`second_order`). Others of a neuron, such as its indirect
effects (the change of M(I) where its activation is replaced), are vectors anyway, and Table 3.1
compares how much of either one direction explains.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .second_order import LARGEST, rank_one

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class EffectDirection(NamedTuple):
    """`mean` b [E], unit `direction` r [E], the share `explained`, and `rows` [S] behind r."""

    mean: F64
    direction: F64
    explained: float
    rows: Rows


def effect_direction(effects: Numbers, *, count: int = LARGEST) -> EffectDirection:
    """Mean and first principal component of one neuron's effects [K, E] (T3.3, Table 3.1).

    By the same definition as for second-order effects: of the `count` effects of largest
    ||phi - b||, minus b and not centered again, the first right singular vector, with the sign that
    makes most of their projections positive; `explained` is its share of their mean square, 0 where
    all effects are 0. Rows with NaN are skipped; raises `BadSelection` where none is left.
    """
    # Vectors are factors of themselves: the matrix from factors to effects is the identity.
    found = rank_one(effects[:, None], np.eye(effects.shape[1])[None], count=count)
    return EffectDirection(
        found.mean[0], found.coefficients[0], float(found.explained[0]), found.rows[0]
    )
