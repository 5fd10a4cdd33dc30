"""The learning rate of an inversion: up from zero at first, down to zero at last (thesis 4.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...schema.zoo_errors import BadOptimization

STYLEGAN2_RATE = 0.1
BIGGAN_RATE = 0.01


def is_finite(value: Any) -> bool:
    """Whether something is a number, and a finite one."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rates of `steps` steps of Adam: `rate` at most, ramped at both ends.

    With t = step / steps, and step counted from 0,

        rate(t) = rate * min(1, t / up) * (1 - cos(pi * min(1, (1 - t) / down))) / 2

    (thesis 4.4, implementation details: up = 5 %, down = 25 %, 500 steps, rate 0.1 for StyleGAN2
    and 0.01 for BigGAN). The first step's rate is zero. Raises `BadOptimization` for less than one
    step, a rate that is not above 0, or ramps outside 0 to 1.
    """

    steps: int = 500
    rate: float = STYLEGAN2_RATE
    up: float = 0.05
    down: float = 0.25

    def __post_init__(self) -> None:
        steps: Any = self.steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            msg = (
                f"steps={steps!r} is no number of steps; 1 or more are needed, the thesis has 500."
            )
            raise BadOptimization(msg)
        if not (is_finite(self.rate) and self.rate > 0):
            msg = (
                f"rate={self.rate!r} is no learning rate; it must be above 0, such as "
                f"{STYLEGAN2_RATE} (StyleGAN2) or {BIGGAN_RATE} (BigGAN)."
            )
            raise BadOptimization(msg)
        for name, share in (("up", self.up), ("down", self.down)):
            if not (is_finite(share) and 0 <= share <= 1):
                msg = f"{name}={share!r} is no share of the steps; it must lie from 0 to 1."
                raise BadOptimization(msg)

    def at(self, step: int) -> float:
        """The rate of a step from 0 to steps - 1."""
        time = step / self.steps
        rising = min(1.0, time / self.up) if self.up else 1.0
        falling = min(1.0, (1 - time) / self.down) if self.down else 1.0
        return self.rate * rising * (1 - math.cos(math.pi * falling)) / 2
