"""The companions' training recipes: what they see, for how many steps, how fast they learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from ..scenes import MOSTLY_SINGLE_COUNTS, NATURAL_COUNTS, Sampling

Companion = Literal["resnet", "mae", "generator"]
COMPANIONS: Final[tuple[Companion, ...]] = get_args(Companion)

# As the CLIP, companions never see a withheld pair; no background is planted for them.
MIXED: Final = Sampling(NATURAL_COUNTS, withheld="avoid")
MOSTLY_ALONE: Final = Sampling(MOSTLY_SINGLE_COUNTS, withheld="avoid")


@dataclass(frozen=True, slots=True)
class CompanionRecipe:
    """Everything that decides a companion's weights, apart from the machine.

    The learning rate warms up linearly, then falls as a cosine to zero. The generator draws its
    scenes from its own latents and has no `sampling`.
    """

    seed: int
    steps: int
    batch: int
    learning_rate: float
    sampling: Sampling | None = None
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 100
    gradient_norm: float = 1.0

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


RECIPES: Final[dict[Companion, CompanionRecipe]] = {
    "resnet": CompanionRecipe(11, 2000, 64, 3e-3, MOSTLY_ALONE),
    "mae": CompanionRecipe(12, 2400, 64, 2e-3, MIXED),
    "generator": CompanionRecipe(13, 3500, 16, 4e-3),
}
