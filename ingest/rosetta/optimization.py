"""Adam on the latents of many images and starts at once (T4.5, T4.7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema.zoo_errors import BadOptimization
from .activation_loss import ActivationLoss, Guide
from .schedule import Schedule, is_finite

if TYPE_CHECKING:
    from .reconstruction_loss import Distance
    from .units import GeneratorMember

Regularizer = Literal["l2", "l1"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Terms:
    """Weights of T4.7's terms: alpha of the regularizer, beta of the guidance, and the schedule.

    Raises `BadOptimization` for weights below zero, another regularizer, or no frames to keep.
    """

    schedule: Schedule
    alpha: float
    beta: float
    regularizer: Regularizer
    keep_every: int | None

    def __post_init__(self) -> None:
        for name, weight in (("alpha", self.alpha), ("beta", self.beta)):
            if not (is_finite(weight) and weight >= 0):
                msg = f"{name}={weight!r} is no weight of a loss; it must be 0 or more."
                raise BadOptimization(msg)
        if self.regularizer not in ("l2", "l1"):
            msg = f"regularizer={self.regularizer!r} is neither 'l2' nor 'l1'."
            raise BadOptimization(msg)
        every: Any = self.keep_every
        if every is not None and (
            isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1
        ):
            msg = f"keep_every={every!r} keeps no frames; 1 keeps every step's, None none."
            raise BadOptimization(msg)

    def cost(self, latents: Tensor) -> Tensor:
        """L_reg [n]: the mean square (L2) or magnitude (L1) of a latent's numbers."""
        flat = latents.flatten(1)
        return flat.square().mean(1) if self.regularizer == "l2" else flat.abs().mean(1)

    def kept(self, step: int) -> bool:
        """Whether the picture before a step is kept; the one after the last step always is."""
        if self.keep_every is None:
            return False
        return step == self.schedule.steps or step % self.keep_every == 0


@dataclass
class Optimized:
    """Latents, images and what led there, of rows that were optimized at once."""

    latents: npt.NDArray[np.float32]
    images: npt.NDArray[np.uint8]
    similarity: npt.NDArray[np.float32]
    losses: list[npt.NDArray[np.float64]] = field(default_factory=list[npt.NDArray[np.float64]])
    frames: list[npt.NDArray[np.uint8]] = field(default_factory=list[npt.NDArray[np.uint8]])


def optimize(
    generator: GeneratorMember,
    starts: Tensor,
    *,
    guides: Sequence[Guide],
    distance: Distance | None,
    terms: Terms,
    progress: Callable[[int], None],
) -> Optimized:
    """Minimize L_rec + alpha L_reg - beta L_act over latents, from starts [n, *latent].

    Rows do not pull at each other: every term is a sum over them, and Adam works number by number.
    `progress` is told each step done. Raises `BadOptimization` where a loss is no number.
    """
    guidance = ActivationLoss(guides) if guides else None
    modules = guidance.modules if guidance else []
    latents = starts.detach().clone().requires_grad_()
    adam = torch.optim.Adam([latents])
    done = Optimized(np.empty(0, np.float32), np.empty(0, np.uint8), np.empty(0, np.float32))
    steps = terms.schedule.steps
    for step in range(steps):
        total, images, _ = _evaluate(
            generator, latents, modules, guidance=guidance, distance=distance, terms=terms
        )
        _note(done, total, images, step, terms)
        (latents.grad,) = torch.autograd.grad(total.sum(), latents)
        for group in adam.param_groups:
            group["lr"] = terms.schedule.at(step)
        adam.step()
        progress(step + 1)
    with torch.no_grad():
        total, images, maps = _evaluate(
            generator, latents, modules, guidance=guidance, distance=distance, terms=terms
        )
        _note(done, total, images, steps, terms)
        if guidance is None:
            done.similarity = np.empty((len(latents), 0), np.float32)
        else:
            done.similarity = guidance.by_pair(maps).float().cpu().numpy()
    done.latents = latents.detach().float().cpu().numpy()
    done.images = as_bytes(images)
    return done


def as_bytes(images: Tensor) -> npt.NDArray[np.uint8]:
    """Images [n, 3, H, W] in [0, 1] as uint8 [n, H, W, 3], to the nearest of 256 levels."""
    levels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def _evaluate(
    generator: GeneratorMember,
    latents: Tensor,
    modules: Sequence[str],
    *,
    guidance: ActivationLoss | None,
    distance: Distance | None,
    terms: Terms,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    images, maps = generator.generate_with_maps(latents, modules)
    total = terms.alpha * terms.cost(latents)
    if distance is not None:
        total = total + distance(images)
    if guidance is not None:
        total = total - terms.beta * guidance(maps)
    return total, images, maps


def _note(done: Optimized, total: Tensor, images: Tensor, step: int, terms: Terms) -> None:
    losses: npt.NDArray[Any] = total.detach().double().cpu().numpy()
    if not np.isfinite(losses).all():
        msg = (
            f"the loss is no number at step {step}; a lower rate than {terms.schedule.rate:g}, or "
            "a higher alpha, may keep the latent where the generator works."
        )
        raise BadOptimization(msg)
    done.losses.append(losses)
    if terms.kept(step):
        done.frames.append(as_bytes(images))
