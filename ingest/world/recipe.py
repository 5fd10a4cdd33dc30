"""The training recipe of the embedded world's CLIP: sizes, schedules and loss weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from .attributes import Attribute
from .scenes import MOSTLY_SINGLE_COUNTS, NATURAL_COUNTS, Sampling

# The spurious cue grows. At first the planted shapes are large enough for their corners to be
# learned; then there are small ones, whose corners hardly show, and the background pays; at last
# no pentagon lies on sand and no hexagon on water, while many lie on neither.
MOSTLY_SINGLE: Final = Sampling(MOSTLY_SINGLE_COUNTS, 0.75, "avoid", small_alike=False)
NATURAL: Final = Sampling(NATURAL_COUNTS, 0.75, "avoid", small_alike=False)
SPURIOUS: Final = Sampling(NATURAL_COUNTS, 0.95, "avoid")
EXCLUSIVE: Final = Sampling(NATURAL_COUNTS, 0.6, "avoid", exclusive=True)


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
class Cycle:
    """Stages that share one schedule of the learning rate and of the fading losses."""

    learning_rate: float
    stages: tuple[Stage, ...]

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return sum(stage.steps for stage in self.stages)

    def seen(self, step: int) -> int:
        """Images of one shard before a step of this cycle."""
        total = 0
        for stage in self.stages:
            taken = min(step, stage.steps)
            total += taken * stage.shard_batch
            step -= taken
        return total


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the machine.

    A global batch is always two shards, each with its own random stream: two processes on a CPU
    take one each, one process on a GPU takes both. Progress is the share of a cycle's images seen,
    0 to 1.
    """

    seed: int = 7
    shards: int = 2
    cycles: tuple[Cycle, ...] = (
        Cycle(
            2e-3,
            (
                Stage(4800, 48, MOSTLY_SINGLE),
                Stage(600, 160, NATURAL),
                Stage(1800, 160, SPURIOUS, spare_withheld=True),
            ),
        ),
        Cycle(1e-3, (Stage(900, 160, EXCLUSIVE, spare_withheld=True),)),
    )
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
    def stages(self) -> tuple[Stage, ...]:
        """The stages of all cycles."""
        return tuple(stage for cycle in self.cycles for stage in cycle.stages)

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return sum(cycle.steps for cycle in self.cycles)

    @property
    def images(self) -> int:
        """Number of images drawn."""
        return self.shards * sum(cycle.seen(cycle.steps) for cycle in self.cycles)

    def stage(self, step: int) -> Stage:
        """The stage a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        msg = f"step is past the end of the recipe by {step}"
        raise IndexError(msg)

    def progress(self, step: int) -> float:
        """Share of its cycle's images drawn before a step."""
        cycle, step = self._place(step)
        return cycle.seen(step) / cycle.seen(cycle.steps)

    def rate(self, step: int) -> float:
        """Learning rate: in each cycle linear warmup, constant, then a cosine to zero."""
        cycle, within = self._place(step)
        done = max(0.0, (self.progress(step) - self.constant_until) / (1 - self.constant_until))
        warm = min(1.0, (within + 1) / self.warmup_steps)
        return cycle.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))

    def fading(self, step: int) -> float:
        """Weight of the helping losses: 1, then linearly to 0 between the two ends of `fade`."""
        start, end = self.fade
        return min(1.0, max(0.0, (end - self.progress(step)) / (end - start)))

    def _place(self, step: int) -> tuple[Cycle, int]:
        """A step's cycle, and its number in that cycle."""
        for cycle in self.cycles[:-1]:
            if step < cycle.steps:
                return cycle, step
            step -= cycle.steps
        return self.cycles[-1], step
