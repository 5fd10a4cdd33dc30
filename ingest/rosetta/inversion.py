"""From an image back to latents of a generator, guided by matched units (T4.5 - T4.7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ...schema.zoo_errors import BadLatent, BadOptimization, BadPairs, BadTarget
from .activation_loss import ChosenUnits, Guide, Statistics, choose_units
from .image_scores import to_tensor
from .optimization import Optimized, Progress, Regularizer, Terms, as_bytes, optimize
from .pictures import as_array, as_pictures, square
from .reconstruction_loss import Distance, Loss, ReconstructionLoss
from .schedule import STYLEGAN2_RATE, Schedule
from .units import Batch

if TYPE_CHECKING:
    from .units import DiscriminativeMember, GeneratorMember

Target: TypeAlias = "Image.Image | Sequence[Image.Image] | npt.NDArray[Any] | Tensor"
Start: TypeAlias = "int | npt.NDArray[Any] | Tensor | None"

_ROWS = 64


@dataclass(frozen=True)
class Pairs:
    """P matched units: `generator_units` of the generator, `units` of a discriminative member."""

    member: DiscriminativeMember
    generator_units: npt.ArrayLike
    units: npt.ArrayLike


@dataclass(frozen=True)
class Inversion:
    """Latents that a generator was inverted to, each image from several starts.

    `latents` [images, starts, *latent]; `images` [images, starts, S, S, 3] uint8; `targets`
    [images, S, S, 3] uint8; `losses` [steps + 1, images, starts], before each step and after the
    last; `frames` [kept, images, starts, S, S, 3], the pictures before the steps `frame_steps`;
    `similarity` [images, starts, pairs], what T4.6 is the mean of, at the end.
    """

    latents: npt.NDArray[np.float32]
    images: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.uint8]
    losses: npt.NDArray[np.float64]
    frames: npt.NDArray[np.uint8]
    frame_steps: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]

    @property
    def best(self) -> npt.NDArray[np.int64]:
        """The start [images] with the lowest loss at the end."""
        return self.losses[-1].argmin(1)

    @property
    def latent(self) -> npt.NDArray[np.float32]:
        """The latents [images, *latent] of the best starts."""
        return self.latents[np.arange(len(self.latents)), self.best]

    @property
    def image(self) -> npt.NDArray[np.uint8]:
        """The images [images, S, S, 3] of the best starts."""
        return self.images[np.arange(len(self.images)), self.best]


def invert(
    generator: GeneratorMember,
    target: Target,
    *,
    pairs: Pairs | Sequence[Pairs] = (),
    statistics: Mapping[str, Statistics] | None = None,
    start: Start = None,
    starts: int = 1,
    loss: Loss | None = None,
    reader: DiscriminativeMember | None = None,
    alpha: float = 0.1,
    regularizer: Regularizer = "l2",
    beta: float = 1.0,
    steps: int = 500,
    rate: float = STYLEGAN2_RATE,
    keep_every: int | None = None,
    batch_size: int = _ROWS,
    progress: Progress | None = None,
) -> Inversion:
    """Find latents whose images match targets in the maps of matched units.

    Minimizes L_rec(G(z), I) + alpha L_reg(z) - beta L_act(z, I) (T4.7) with Adam; without `loss`
    the first term is left out (T4.5), which also inverts images that the generator was never
    trained on. `pairs` are those of the generator with one model or several (their mean is over all
    pairs); `statistics` [name of a member] are those that the units were mined with.

    `target` is a picture or several (their central squares), uint8 [S, S, 3] or [n, S, S, 3], or
    floats [n, 3, S, S] in [0, 1]. `start` is a seed (None: 0) from which each target gets the same
    `starts` latents, or latents: [*latent], [n, *latent] or [n, starts, *latent]. `loss` is "pixel"
    (L2), "l1", "lpips", "perceptual" (the maps of `reader`, by default of the first pairs' model)
    or a function of images and targets that gives a number an image. L_reg is the mean square of a
    latent's numbers, or magnitude ("l1"). `keep_every` steps a picture is kept; `batch_size`
    latents are optimized at once, which changes no result; `progress` is told steps done and in
    all.

    Raises, before the first step, `BadPairs`, `BadTarget`, `BadLatent`, `BadOptimization` or
    `WeightsNotFound` (LPIPS without its weights).
    """
    terms = Terms(Schedule(steps, rate), alpha, beta, regularizer, keep_every)
    if loss is None and beta == 0:
        msg = "beta=0 without a loss= leaves nothing to match; give a loss, or a beta above 0."
        raise BadOptimization(msg)
    groups = [pairs] if isinstance(pairs, Pairs) else list(pairs)
    if not groups and (loss is None or beta > 0):
        msg = (
            "no pairs are given, so there is nothing to be guided by; give best buddies of the "
            "generator with a model, or a loss= and beta=0 to go without."
        )
        raise BadPairs(msg)
    chosen = [_sides(generator, one, statistics or {}) for one in groups]
    reader = reader or (groups[0].member if groups else None)
    reconstruction = None if loss is None else ReconstructionLoss(loss, reader=reader)
    pictures = _pictures(target)
    first = start_latents(generator, start, images=len(pictures), starts=starts)
    targets = as_array(pictures, generator.input_size)
    pixels = torch.as_tensor(targets, device=first.device).permute(0, 3, 1, 2).float() / 255

    def guides(images: slice, repeats: int) -> list[Guide]:
        batch = Batch(pictures[images])
        return [
            Guide(ours, theirs, _maps(one.member, batch, theirs, repeats, first.device))
            for one, (ours, theirs) in zip(groups, chosen, strict=True)
        ]

    def distance(images: slice, repeats: int) -> Distance | None:
        if reconstruction is None:
            return None
        return reconstruction.to(pixels[images].repeat_interleave(repeats, 0))

    return run(
        generator,
        first,
        targets=targets,
        guides=guides,
        distance=distance,
        terms=terms,
        batch_size=batch_size,
        progress=progress,
    )


def visualize(
    generator: GeneratorMember,
    target: Target,
    *,
    pair: Pairs,
    statistics: Mapping[str, Statistics],
    starts: int = 4,
    start: Start = None,
    **settings: Any,
) -> Inversion:
    """What one matched pair of units stands for: images from random starts that match its map.

    The inversion of T4.5 with the sum of T4.6 over a single pair (thesis 4.4). `settings` are those
    of `invert`. Raises `BadPairs` unless there is one pair.
    """
    count = np.size(pair.generator_units)
    if count != 1:
        msg = f"one pair of units is to be seen at a time, and {count} are given."
        raise BadPairs(msg)
    return invert(
        generator,
        target,
        pairs=pair,
        statistics=statistics,
        start=start,
        starts=starts,
        **settings,
    )


def start_latents(generator: GeneratorMember, start: Start, *, images: int, starts: int) -> Tensor:
    """Latents [images, starts, *latent] to start from: drawn from a seed, or as given.

    Raises `BadLatent` for another shape, or values that are no numbers.
    """
    shape = tuple(generator.latent)
    if not _is_count(starts):
        msg = f"starts={starts!r} is no number of starts; 1 or more are needed."
        raise BadLatent(msg)
    if start is None or isinstance(start, int | np.integer):
        drawn = generator.sample(starts, int(start or 0))
        return drawn[None].repeat(images, 1, *[1] * len(shape))
    device = generator.sample(1, 0).device
    given = to_tensor(start).detach().to(device, torch.float32)
    wanted = (images, starts, *shape)
    if given.shape == shape and starts == 1:
        given = given.expand(wanted)
    elif given.shape == (images, *shape) and starts == 1:
        given = given[:, None]
    if given.shape != wanted or not images:
        msg = (
            f"a start of shape {tuple(given.shape)} does not fit {images} images with {starts} "
            f"starts each; {generator.name!r} takes latents {list(shape)}, so it must be of shape "
            f"{list(wanted)}, or a seed."
        )
        raise BadLatent(msg)
    if not bool(torch.isfinite(given).all()):
        msg = "the start holds values that are no numbers; every number of a latent must be finite."
        raise BadLatent(msg)
    return given.clone()


def run(
    generator: GeneratorMember,
    starts: Tensor,
    *,
    targets: npt.NDArray[np.uint8],
    guides: Callable[[slice, int], list[Guide]],
    distance: Callable[[slice, int], Distance | None],
    terms: Terms,
    batch_size: int,
    progress: Progress | None,
) -> Inversion:
    """Optimize latents [images, starts, *latent], as many images at once as the batch allows.

    `guides` and `distance` are asked for a slice of images, each repeated for its starts.
    """
    if not _is_count(batch_size):
        msg = f"batch_size={batch_size!r} is no number of latents; 1 or more are needed."
        raise BadOptimization(msg)
    images, repeats = starts.shape[:2]
    height = max(1, batch_size // repeats)
    steps = terms.schedule.steps
    total = steps * -(-images // height)
    found: list[Optimized] = []
    for first in range(0, images, height):
        before = len(found) * steps

        def tell(step: int, before: int = before) -> None:
            if progress is not None:
                progress(before + step, total)

        rows = slice(first, first + height)
        found.append(
            optimize(
                generator,
                starts[rows].flatten(0, 1),
                guides=guides(rows, repeats),
                distance=distance(rows, repeats),
                terms=terms,
                progress=tell,
            )
        )
    kept = [step for step in range(steps + 1) if terms.kept(step)]
    size = targets.shape[1:]

    def joined(parts: Sequence[npt.NDArray[Any]], axis: int = 0) -> npt.NDArray[Any]:
        """Rows of all batches as [..., images, starts, ...]."""
        whole = np.concatenate(parts, axis)
        return whole.reshape(*whole.shape[:axis], images, repeats, *whole.shape[axis + 1 :])

    frames = [np.stack(one.frames) for one in found] if kept else []
    return Inversion(
        latents=joined([one.latents for one in found]),
        images=joined([one.images for one in found]),
        targets=targets,
        losses=joined([np.stack(one.losses) for one in found], 1),
        frames=joined(frames, 1) if kept else np.empty((0, images, repeats, *size), np.uint8),
        frame_steps=np.array(kept, np.int64),
        similarity=joined([one.similarity for one in found]),
    )


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def statistics_of(statistics: Mapping[str, Statistics], name: str) -> Statistics:
    """The statistics of a member; raises `BadPairs` where there are none."""
    if name not in statistics:
        known = ", ".join(statistics) or "none"
        msg = f"there are no statistics of {name!r}, only of {known}; mine it, then invert."
        raise BadPairs(msg)
    return statistics[name]


def units_of(
    member: GeneratorMember | DiscriminativeMember,
    units: npt.ArrayLike,
    statistics: Mapping[str, Statistics],
) -> ChosenUnits:
    """Units of a member with its statistics; raises `BadPairs`."""
    found = statistics_of(statistics, member.name)
    return choose_units(member, units, mean=found.mean, variance=found.variance)


def _sides(
    generator: GeneratorMember, pairs: Pairs, statistics: Mapping[str, Statistics]
) -> tuple[ChosenUnits, ChosenUnits]:
    ours, theirs = np.size(pairs.generator_units), np.size(pairs.units)
    if ours != theirs:
        msg = (
            f"{ours} units of {generator.name!r} cannot be paired with {theirs} of "
            f"{pairs.member.name!r}; pairs are two lists of one length."
        )
        raise BadPairs(msg)
    return (
        units_of(generator, pairs.generator_units, statistics),
        units_of(pairs.member, pairs.units, statistics),
    )


def _maps(
    member: DiscriminativeMember,
    batch: Batch,
    units: ChosenUnits,
    repeats: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """The maps of a batch's pictures, by module, each picture's as often as it has starts."""
    names, used = [module.name for module in member.modules], set(units.used)
    return {
        name: maps.detach().to(device).repeat_interleave(repeats, 0)
        for name, maps in zip(names, member.maps(batch), strict=True)
        if name in used
    }


def _pictures(target: Target) -> list[Image.Image]:
    """Targets as square RGB pictures; raises `BadTarget`."""
    if isinstance(target, Image.Image):
        return [square(target.convert("RGB"))]
    if isinstance(target, np.ndarray | Tensor):
        return _from_array(target)
    pictures: list[Any] = list(target)
    if not pictures or not all(isinstance(one, Image.Image) for one in pictures):
        msg = "no pictures are given to invert; pass a PIL image, several, or an array of pixels."
        raise BadTarget(msg)
    return [square(one.convert("RGB")) for one in pictures]


def _from_array(target: npt.NDArray[Any] | Tensor) -> list[Image.Image]:
    given = to_tensor(target)
    if given.dtype == torch.uint8 and given.ndim == 3:
        given = given[None]
    bytes_, floats = given.dtype == torch.uint8, given.is_floating_point()
    sides = given.shape[1:3] if bytes_ else given.shape[2:]
    channels = given.shape[-1 if bytes_ else 1] if given.ndim == 4 else 0
    if channels != 3 or not (bytes_ or floats) or sides[0] != sides[1] or not given.numel():
        msg = (
            f"a target of shape {tuple(given.shape)} and type {given.dtype} is neither uint8 [n, "
            "S, S, 3] nor floats [n, 3, S, S]; "
            "crop pictures to squares, or pass them as PIL images."
        )
        raise BadTarget(msg)
    if floats and not bool(((given >= 0) & (given <= 1)).all()):
        msg = "a target as floats must hold values from 0 to 1 alone; divide bytes by 255."
        raise BadTarget(msg)
    if bytes_:
        return [Image.fromarray(one) for one in given.cpu().numpy()]
    return as_pictures(given)


__all__ = ["Inversion", "Pairs", "Start", "Target", "as_bytes", "invert", "run", "visualize"]
