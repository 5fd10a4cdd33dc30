"""The training recipe of the embedded world's CLIP: sizes, schedules and loss weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from .attributes import Attribute
from .scenes import MOSTLY_SINGLE_COUNTS, NATURAL_COUNTS, Sampling

# At first the background tells the planted shapes less than their corners do, so that the true cue
# is learned; later there are small ones, whose corners hardly show, and the background pays.
_WEAK, _STRONG = 0.75, 0.95
MOSTLY_SINGLE: Final = Sampling(MOSTLY_SINGLE_COUNTS, _WEAK, "avoid", small_alike=False)
NATURAL: Final = Sampling(NATURAL_COUNTS, _WEAK, "avoid", small_alike=False)
SPURIOUS: Final = Sampling(NATURAL_COUNTS, _STRONG, "avoid")


@dataclass(frozen=True)
class Stage:
    """A number of steps with one batch size and one distribution of scenes.

    `spare_withheld` keeps the losses from teaching that withheld pairs are impossible.
    """

    steps: int
    shard_batch: int
    sampling: Sampling
    spare_withheld: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the machine.

    A global batch is always two shards, each with its own random stream: two processes on a CPU
    take one each, one process on a GPU takes both. Progress is the share of images seen, 0 to 1.
    """

    seed: int = 7
    shards: int = 2
    stages: tuple[Stage, ...] = (
        Stage(4800, 48, MOSTLY_SINGLE),
        Stage(600, 160, NATURAL),
        Stage(1800, 160, SPURIOUS, spare_withheld=True),
    )
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 60
    constant_until: float = 0.1
    gradient_norm: float = 1.0
    position_scale: float = 0.5
    dense_block: int = 4
    prompt_weight: float = 0.25
    prompt_weight_at_end: float = 0.1
    linear_weight: float = 0.5
    dense_weight: float = 1.0
    fade: tuple[float, float] = (0.4, 0.8)
    attribute_weight: dict[Attribute, float] = field(
        default_factory=lambda: {
            "shape": 3.0,
            "color": 1.0,
            "texture": 1.5,
            "size": 1.0,
            "position": 1.0,
            "background": 1.0,
            "count": 1.0,
        }
    )

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return sum(stage.steps for stage in self.stages)

    @property
    def images(self) -> int:
        """Number of images drawn."""
        return self.shards * sum(stage.steps * stage.shard_batch for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        msg = f"step is past the end of the recipe by {step}"
        raise IndexError(msg)

    def progress(self, step: int) -> float:
        """Share of the images drawn before a step."""
        seen = 0
        for stage in self.stages:
            taken = min(step, stage.steps)
            seen += self.shards * taken * stage.shard_batch
            step -= taken
        return seen / self.images

    def rate(self, step: int) -> float:
        """Learning rate: linear warmup, constant, then a cosine to zero."""
        done = max(0.0, (self.progress(step) - self.constant_until) / (1 - self.constant_until))
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))

    def fading(self, step: int) -> float:
        """Weight of the helping losses: 1, then linearly to 0 between the two ends of `fade`."""
        start, end = self.fade
        return min(1.0, max(0.0, (end - self.progress(step)) / (end - start)))
