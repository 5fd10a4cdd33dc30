"""A zoo's example pictures: those that show its concepts best, with the maps of matched units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .pictures import as_array
from .zoo_arrays import Examples, ModuleMaps

if TYPE_CHECKING:
    from .mining import UnitStatistics
    from .pictures import Pictures
    from .units import Member

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

_LOOKED_AT = 2048  # pictures among which the examples of concepts are sought
_LARGEST_SIDE = 256


def choose_pictures(
    pictures: Pictures,
    anchor: Member,
    units: I64,
    *,
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[int]:
    """Numbers of `count` pictures: in turn the next best of each of the anchor's units.

    A unit's best picture is that of its largest value, among the first 2,048.
    """
    looked_at = min(len(pictures), _LOOKED_AT)
    count = min(count, looked_at)
    if not len(units):
        return list(range(count))
    peaks = np.empty((looked_at, len(units)), np.float32)
    done = 0
    for batch in pictures.from_image(0):
        values = torch.cat([one.amax((2, 3)).cpu() for one in anchor.maps(batch)], 1)
        kept = min(len(values), looked_at - done)
        peaks[done : done + kept] = values[:kept, units].numpy()
        done += kept
        if progress is not None:
            progress(done, looked_at)
        if done == looked_at:
            break
    best = np.argsort(-peaks, axis=0, kind="stable")
    # By rank, then by unit: every concept has its best picture before any has its second.
    order = dict.fromkeys(best.reshape(-1).tolist())
    return list(order)[:count]


def make_examples(
    pictures: Pictures,
    members: Sequence[Member],
    *,
    chosen: Sequence[int],
    units: Mapping[str, I64],
    statistics: Mapping[str, UnitStatistics],
) -> Examples:
    """The chosen pictures, and the maps of each member's `units`, (x - mean) / deviation."""
    maps: dict[str, list[list[Tensor]]] = {member.name: [] for member in members}
    shown: list[Any] = []
    for start in range(0, len(chosen), pictures.batch_size):
        batch = pictures.at(chosen[start : start + pictures.batch_size])
        shown += batch.pictures
        for member in members:
            found = member.maps(batch)
            places = _places(member, units[member.name])
            kept = [one[:, channels].cpu() for one, channels in zip(found, places, strict=True)]
            maps[member.name].append(kept)
    side = min(max(picture.width for picture in shown), _LARGEST_SIDE)
    return Examples(
        as_array(shown, side),
        {
            member.name: _normalized(
                member, units[member.name], maps[member.name], statistics[member.name]
            )
            for member in members
        },
    )


def _places(member: Member, units: I64) -> list[I64]:
    """The chosen channels of each of a member's modules."""
    channels: list[I64] = []
    start = 0
    for module in member.modules:
        inside = units[(units >= start) & (units < start + module.channels)]
        channels.append(inside - start)
        start += module.channels
    return channels


def _normalized(
    member: Member, units: I64, batches: Sequence[Sequence[Tensor]], statistics: UnitStatistics
) -> dict[str, ModuleMaps]:
    found: dict[str, ModuleMaps] = {}
    start = 0
    for number, (module, channels) in enumerate(
        zip(member.modules, _places(member, units), strict=True)
    ):
        if len(channels):
            values = torch.cat([batch[number] for batch in batches]).numpy()
            mean = statistics.mean[start + channels][:, None, None]
            deviation = np.sqrt(statistics.variance[start + channels])[:, None, None]
            normal: F32 = ((values - mean) / deviation).astype(np.float32)
            found[module.name] = ModuleMaps(channels.tolist(), normal.swapaxes(0, 1))
        start += module.channels
    return found
