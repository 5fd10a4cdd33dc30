"""Whether matches hold: correlations of given pairs of units over other pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema.zoo_errors import UnknownUnit
from .mining import MiningRun
from .mining_plan import Tile, plan_mining
from .neighbors import Side

if TYPE_CHECKING:
    from .mining import Batches
    from .units import Member

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Pair = tuple[str, str]


def pair_correlations(
    members: Mapping[str, Member],
    batches: Batches,
    *,
    units: Mapping[Pair, tuple[I64, I64]],
    memory: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Pair, F32]:
    """Pearson correlations [P] of given pairs of units over all pictures and places (T4.2).

    `units` are, for each two members, the pairs' numbers in the first and in the second; `memory`
    as for `mine_units`, whose products these are. NaN where a unit never varies. Raises
    `UnknownUnit`, and what `mine_units` raises.
    """
    for pair, numbers in units.items():
        for name, chosen in zip(pair, numbers, strict=True):
            _check(members[name], chosen)
    used = {name: members[name] for pair in units for name in pair}
    zoo = {name: member.modules for name, member in used.items()}
    plan = plan_mining(zoo, pairs=list(units), neighbors=1, memory=memory)
    found = {pair: np.full(len(chosen[0]), np.nan, np.float32) for pair, chosen in units.items()}

    def read(tile: Tile, products: Tensor, sides: tuple[Side, Side]) -> None:
        first, second = sides[0].rows(tile.start, tile.stop), sides[1]
        rows, in_rows = _places(units[tile.pair][0], first)
        columns, in_columns = _places(units[tile.pair][1], second)
        (here,) = np.nonzero(in_rows & in_columns)
        row, column = torch.as_tensor(rows[here]), torch.as_tensor(columns[here])
        values = products.cpu()[row, column] * first.inverse.cpu()[row]
        values = values * second.inverse.cpu()[column]
        values -= first.offset.cpu()[row] * second.offset.cpu()[column]
        dead = first.dead.cpu()[row] | second.dead.cpu()[column]
        found[tile.pair][here] = values.masked_fill(dead, torch.nan).clamp(-1, 1).numpy()

    MiningRun(used, batches, plan, read=read).finish(None, progress or _silently)
    return found


def _places(wanted: I64, side: Side) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Where wanted units stand among a side's, and which of them are there at all."""
    units = side.units.cpu().numpy()
    places = np.minimum(np.searchsorted(units, wanted), len(units) - 1)
    return places, units[places] == wanted


def _check(member: Member, units: I64) -> None:
    if len(units) and not 0 <= int(units.min()) <= int(units.max()) < member.units:
        msg = f"{member.name} has units 0 to {member.units - 1}, not {int(units.max())}."
        raise UnknownUnit(msg)


def _silently(done: int, total: int) -> None:
    """Tell nobody how far it is."""
