"""Pictures of a generator edited through maps of matched units (thesis 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema.zoo_errors import BadOptimization, BadPairs
from .activation_loss import ChosenUnits, Guide, Statistics
from .edits import Edit, edit_of
from .image_scores import to_tensor
from .inversion import Inversion, Pairs, Start, run, start_latents, units_of
from .optimization import Progress, Regularizer, Terms, as_bytes
from .pictures import as_pictures
from .schedule import STYLEGAN2_RATE, Schedule
from .units import Batch, GeneratorMember

MapsFrom = Literal["generator", "model"]


def edit(
    generator: GeneratorMember,
    latent: npt.NDArray[Any] | Tensor,
    change: str | Edit,
    *,
    pairs: Pairs | Sequence[Pairs],
    statistics: Mapping[str, Statistics],
    amounts: Mapping[str, float] | None = None,
    only: Sequence[int] | None = None,
    maps_from: MapsFrom = "generator",
    start: Start = None,
    starts: int = 1,
    alpha: float = 0.1,
    regularizer: Regularizer = "l2",
    steps: int = 500,
    rate: float = STYLEGAN2_RATE,
    keep_every: int | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Inversion:
    """Change the maps of matched units in a generated picture, and optimize its latent to match.

    Minimizes -L_act + alpha L_reg (T4.5) for maps of G(z) that were edited: zoom, shift,
    copy-paste, lower or raise, with `amounts` as `edit_of` takes them. Optimization starts from the
    latent itself ([*latent] or [n, *latent]), with copy-paste from `starts` random ones (seed
    `start`), as in the thesis; a `start` given says otherwise. `only` generator units are edited
    and matched, by default all that are in `pairs`. `maps_from` says whose maps are edited: the
    generator's own, as the thesis writes, or those of each pair's model, reading G(z). The result's
    `targets` are the pictures before the edit.

    Raises, before the first step, `UnknownEdit`, `BadEdit`, `BadPairs`, `BadLatent` or
    `BadOptimization`.
    """
    terms = Terms(Schedule(steps, rate), alpha, 1.0, regularizer, keep_every)
    how = edit_of(change, **(amounts or {}))
    if maps_from not in ("generator", "model"):
        msg = f"maps_from={maps_from!r} is neither 'generator' nor 'model'."
        raise BadOptimization(msg)
    groups = [pairs] if isinstance(pairs, Pairs) else list(pairs)
    groups = [_only(one, only) for one in groups]
    chosen = np.unique(np.concatenate([np.asarray(one.generator_units) for one in groups] or [[]]))
    if not len(chosen):
        which = (
            "none of the pairs has one of the units asked for" if groups else "no pairs are given"
        )
        msg = f"{which}, so there is no map to edit; `only` names generator units out of the pairs."
        raise BadPairs(msg)
    source = to_tensor(latent)
    images = len(source) if source.ndim > len(generator.latent) else 1
    source = start_latents(generator, source, images=images, starts=1)
    if start is None and not how.afresh:
        first = source.repeat(1, starts, *[1] * len(generator.latent))
    else:
        first = start_latents(generator, start, images=images, starts=starts)
    sides = _sides(generator, groups, chosen, statistics, maps_from)

    def guides(rows: slice, repeats: int) -> list[Guide]:
        latents = source[rows, 0]
        return [
            Guide(ours, theirs, _edited(maps, how, theirs, repeats))
            for (ours, theirs), maps in zip(
                sides, _maps(generator, groups, latents, maps_from), strict=True
            )
        ]

    with torch.no_grad():
        before = [
            as_bytes(generator.generate(source[first_row : first_row + batch_size, 0]))
            for first_row in range(0, images, max(1, batch_size))
        ]
    return run(
        generator,
        first,
        targets=np.concatenate(before),
        guides=guides,
        distance=lambda _rows, _repeats: None,
        terms=terms,
        batch_size=batch_size,
        progress=progress,
    )


def _only(pairs: Pairs, units: Sequence[int] | None) -> Pairs:
    """The pairs of some of the generator's units."""
    ours, theirs = np.asarray(pairs.generator_units), np.asarray(pairs.units)
    if ours.shape != theirs.shape:
        msg = f"{ours.size} units cannot be paired with {theirs.size}; pairs are of one length."
        raise BadPairs(msg)
    if units is None:
        return pairs
    kept = np.isin(ours, np.asarray(list(units), np.int64))
    return Pairs(pairs.member, ours[kept], theirs[kept])


def _sides(
    generator: GeneratorMember,
    groups: Sequence[Pairs],
    chosen: npt.NDArray[np.int64],
    statistics: Mapping[str, Statistics],
    maps_from: MapsFrom,
) -> list[tuple[ChosenUnits, ChosenUnits]]:
    """Both sides of each guide: the generator's units with themselves, or with their partners."""
    if maps_from == "generator":
        own = units_of(generator, chosen, statistics)
        return [(own, own)]
    return [
        (
            units_of(generator, one.generator_units, statistics),
            units_of(one.member, one.units, statistics),
        )
        for one in groups
        if np.size(one.units)
    ]


def _maps(
    generator: GeneratorMember, groups: Sequence[Pairs], latents: Tensor, maps_from: MapsFrom
) -> list[dict[str, Tensor]]:
    """The maps, by module, of the pictures before the edit: one mapping a guide."""
    with torch.no_grad():
        names = [module.name for module in generator.modules]
        if maps_from == "generator":
            return [generator.generate_with_maps(latents, names)[1]]
        batch = Batch(as_pictures(generator.generate(latents)), latents)
        return [
            {
                module.name: maps.to(latents.device)
                for module, maps in zip(one.member.modules, one.member.maps(batch), strict=True)
            }
            for one in groups
            if np.size(one.units)
        ]


def _edited(
    maps: Mapping[str, Tensor], how: Edit, units: ChosenUnits, repeats: int
) -> dict[str, Tensor]:
    return {name: how(maps[name]).repeat_interleave(repeats, 0) for name in units.used}
