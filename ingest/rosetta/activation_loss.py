"""How alike the maps of matched units are in one image (T4.6), for all pairs at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema.zoo_errors import BadPairs
from .interpolation import interpolation_matrix

if TYPE_CHECKING:
    from .units import Member

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class Statistics(Protocol):
    """Mean and variance [units] of a member's units over the mined data set (T4.1)."""

    @property
    def mean(self) -> npt.NDArray[Any]:
        """Means [units]."""
        ...

    @property
    def variance(self) -> npt.NDArray[Any]:
        """Variances [units], zero or NaN of dead units."""
        ...


@dataclass(frozen=True)
class ChosenUnits:
    """One side of P pairs: module and channel of each unit, its mean and standard deviation.

    `module` [P] numbers `names`, and `grids` are the (height, width) of their maps.
    """

    names: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]
    module: IntArray
    channel: IntArray
    mean: FloatArray
    std: FloatArray

    @property
    def used(self) -> list[str]:
        """Names of the modules that the units are channels of."""
        return [self.names[number] for number in np.unique(self.module)]


@dataclass(frozen=True)
class Guide:
    """P pairs and what to match: `maps` [images, C, h, w] by module of the target's side."""

    generator: ChosenUnits
    target: ChosenUnits
    maps: Mapping[str, Tensor]


def choose_units(
    member: Member, units: npt.ArrayLike, *, mean: npt.ArrayLike, variance: npt.ArrayLike
) -> ChosenUnits:
    """Find units [P] of a member in its modules, with their statistics out of [units].

    Raises `BadPairs` for no unit, one that the member does not have, one that was dead while
    mining (its variance is zero or unknown), or statistics of another number of units.
    """
    numbers = np.asarray(units)
    if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
        msg = (
            f"no units of {member.name!r} are given to be guided by; pairs are two lists of unit "
            "numbers, such as the best buddies of the generator and the model."
        )
        raise BadPairs(msg)
    numbers = numbers.astype(np.int64)
    channels = [module.channels for module in member.modules]
    total = sum(channels)
    if numbers.min() < 0 or numbers.max() >= total:
        wrong = numbers[(numbers < 0) | (numbers >= total)][0]
        msg = f"{member.name!r} has units 0 to {total - 1}, and no unit {wrong}."
        raise BadPairs(msg)
    means, variances = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    if means.shape != (total,) or variances.shape != (total,):
        msg = (
            f"statistics of {member.name!r} are of shapes {means.shape} and {variances.shape}; its "
            f"{total} units need as many means and variances, those that it was mined with."
        )
        raise BadPairs(msg)
    means, variances = means[numbers], variances[numbers]
    dead = ~(np.isfinite(means) & np.isfinite(variances) & (variances > 0))
    if dead.any():
        msg = (
            f"unit {numbers[dead][0]} of {member.name!r} was dead while mining: a map that never "
            "changes has no similarity; leave its pairs out."
        )
        raise BadPairs(msg)
    ends = np.cumsum(channels)
    module = np.searchsorted(ends, numbers, side="right")
    starts = ends - np.array(channels)
    return ChosenUnits(
        names=tuple(one.name for one in member.modules),
        grids=tuple(one.grid for one in member.modules),
        module=module.astype(np.int64),
        channel=numbers - starts[module],
        mean=means,
        std=np.sqrt(variances),
    )


@dataclass(frozen=True)
class _Group:
    """Pairs whose units lie in one module of the generator and one of the target.

    `maps` [images, P, h, w] are the target's, normalized; `rows` and `columns` carry a map of the
    target to the generator's grid.
    """

    module: str
    pairs: Tensor
    channels: Tensor
    mean: Tensor
    std: Tensor
    maps: Tensor
    rows: Tensor
    columns: Tensor

    def weights(self) -> Tensor:
        """What each place of the generator's map counts in its pair: [images, P, h, w]."""
        carried = torch.einsum("ab,npbd,cd->npac", self.rows, self.maps, self.columns)
        return carried / self.std[:, None, None]


class ActivationLoss:
    """L_act of T4.6 of images' maps to their targets: the mean over pairs of

        mean_x (G_x^j - mean(G^j)) (D_x^k - mean(D^k)) / sqrt(var(G^j) var(D^k)),

    with the statistics of the data set that was mined (T4.1), over the places x of one image, both
    maps interpolated bilinearly to the larger grid of their pair. The thesis writes a sum over x;
    the mean lets pairs of fine grids weigh as much as pairs of coarse ones, and makes the mean of
    this number over the mined images the pair's correlation. It is no correlation of one image: it
    grows with both maps' strength and is not bounded by 1.

    L_act is linear in the generator's maps. What each of their places counts is therefore worked
    out once, over all pairs; a step costs one product a module. `modules` are the generator's that
    are needed, `pairs` how many pairs there are.
    """

    def __init__(self, guides: Sequence[Guide]) -> None:
        self.pairs = sum(len(guide.generator.module) for guide in guides)
        if not self.pairs:
            msg = "no pairs of matched units are given, so there is nothing to be guided by."
            raise BadPairs(msg)
        self._groups: list[_Group] = []
        first = 0
        for guide in guides:
            self._groups.extend(_groups(guide, first))
            first += len(guide.generator.module)
        self.modules = list(dict.fromkeys(group.module for group in self._groups))
        self._summed = {module: self._sum(module) for module in self.modules}

    def __call__(self, maps: Mapping[str, Tensor]) -> Tensor:
        """L_act [images] of the generator's maps [images, C, h, w]; differentiable."""
        parts: list[Tensor] = []
        for module, (channels, mean, weights) in self._summed.items():
            centered = maps[module][:, channels] - mean[:, None, None]
            parts.append((centered * weights).sum((1, 2, 3)))
        return torch.stack(parts).sum(0)

    def by_pair(self, maps: Mapping[str, Tensor]) -> Tensor:
        """The similarities [images, pairs] whose mean L_act is, in the order of the guides."""
        found: list[Tensor] = []
        for group in self._groups:
            centered = maps[group.module][:, group.channels] - group.mean[:, None, None]
            found.append((centered * group.weights()).sum((2, 3)))
        order = torch.argsort(torch.cat([group.pairs for group in self._groups]))
        return torch.cat(found, 1)[:, order]

    def _sum(self, module: str) -> tuple[Tensor, Tensor, Tensor]:
        """Channels of a module that pairs use, their means, and what their places count."""
        groups = [group for group in self._groups if group.module == module]
        channels, place = torch.cat([group.channels for group in groups]).unique(
            return_inverse=True
        )
        mean = torch.cat([group.mean for group in groups])
        means = torch.empty(len(channels), dtype=mean.dtype, device=mean.device)
        means[place] = mean
        height, width = len(groups[0].rows), len(groups[0].columns)
        total = groups[0].maps.new_zeros(len(groups[0].maps), len(channels), height, width)
        first = 0
        for group in groups:
            within = place[first : first + len(group.channels)]
            total.index_add_(1, within, group.weights())
            first += len(group.channels)
        return channels, means, total / self.pairs


def _groups(guide: Guide, first: int) -> list[_Group]:
    generator, target = guide.generator, guide.target
    if len(generator.module) != len(target.module):
        msg = f"{len(generator.module)} units cannot be paired with {len(target.module)}."
        raise BadPairs(msg)
    keys = np.stack([generator.module, target.module], axis=1)
    found: list[_Group] = []
    for ours, theirs in np.unique(keys, axis=0).tolist():
        chosen = np.flatnonzero((keys == (ours, theirs)).all(1))
        maps = guide.maps[target.names[theirs]]

        def on(values: npt.NDArray[Any], like: Tensor = maps) -> Tensor:
            return torch.as_tensor(values, dtype=like.dtype, device=like.device)

        def numbers(values: IntArray, like: Tensor = maps) -> Tensor:
            return torch.as_tensor(values, device=like.device)

        mean, std = on(target.mean[chosen]), on(target.std[chosen])
        picked = maps[:, numbers(target.channel[chosen])]
        grid = generator.grids[ours]
        rows, columns = (
            _carry(ours_side, theirs_side)
            for ours_side, theirs_side in zip(grid, maps.shape[2:], strict=True)
        )
        found.append(
            _Group(
                module=generator.names[ours],
                pairs=numbers(first + chosen),
                channels=numbers(generator.channel[chosen]),
                mean=on(generator.mean[chosen]),
                std=on(generator.std[chosen]),
                maps=(picked - mean[:, None, None]) / std[:, None, None],
                rows=rows.to(maps),
                columns=columns.to(maps),
            )
        )
    return found


def _carry(ours: int, theirs: int) -> Tensor:
    """U_ours^T U_theirs / m [ours, theirs], U upsampling a side to the larger of the two, m.

    The mean over m places of a product of two upsampled sides a and b is a^T U_a^T U_b b / m.
    """
    larger = max(ours, theirs)
    ours_up, theirs_up = interpolation_matrix(ours, larger), interpolation_matrix(theirs, larger)
    return ours_up.T @ theirs_up / larger
