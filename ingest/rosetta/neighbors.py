"""The best correlated units of every unit, both ways, kept while tiles of products are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .mining_plan import Tile

_SLAB = 1 << 22  # bytes of correlations that exist at a time
_NONE = -torch.inf


@dataclass(frozen=True)
class Neighbors:
    """The K nearest units of N: index int32 [N, K] (-1: none), correlation float32 [N, K].

    Correlations descend, and equal ones are in the order of the index; where there is none it is
    NaN (T4.3's KNN).
    """

    index: npt.NDArray[np.int32]
    correlation: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PairNeighbors:
    """Of two members: the neighbors in `second` of the units of `first`, and the other way.

    Of a member with itself, both are the same, and no unit is its own neighbor.
    """

    first: str
    second: str
    forward: Neighbors
    backward: Neighbors


@dataclass(frozen=True)
class Side:
    """Units of one grid as a tile needs them: over the n places of the target grid and all images,

    `inverse` is 1 / sqrt(sum (x - mean)^2) and `offset` sum(x) / sqrt(n) times that, so that the
    correlation of units with product p is inverse p inverse' - offset offset' (T4.2). `units` are
    their numbers in the member, ascending; dead units have neither.
    """

    units: Tensor
    inverse: Tensor
    offset: Tensor
    dead: Tensor

    def rows(self, start: int, stop: int) -> Side:
        """Some of the units."""
        part = slice(start, stop)
        return Side(self.units[part], self.inverse[part], self.offset[part], self.dead[part])

    def to(self, device: torch.device) -> Side:
        """The same on a device."""
        each = (self.units, self.inverse, self.offset, self.dead)
        return Side(*(one.to(device) for one in each))


class Best:
    """Neighbors found so far of all units of a member: an index and a correlation [N, K]."""

    def __init__(self, units: int, neighbors: int) -> None:
        self.index = torch.full((units, neighbors), -1, dtype=torch.int32)
        self.correlation = torch.full((units, neighbors), _NONE)

    def offer(self, units: Tensor, index: Tensor, correlation: Tensor) -> None:
        """Let candidates [R, k] for some units compete with those found; -inf is none."""
        rows = units.long()
        index = torch.cat([self.index[rows], index.int()], 1)
        correlation = torch.cat([self.correlation[rows], correlation], 1)
        by_index = torch.argsort(index, dim=1, stable=True)
        index, correlation = index.gather(1, by_index), correlation.gather(1, by_index)
        correlation, order = torch.sort(correlation, dim=1, descending=True, stable=True)
        kept = self.index.shape[1]
        self.correlation[rows] = correlation[:, :kept]
        self.index[rows] = index.gather(1, order[:, :kept])

    def neighbors(self) -> Neighbors:
        """What was found; rounding may not take a correlation beyond 1."""
        none = self.correlation == _NONE
        correlation = self.correlation.clamp(-1, 1).masked_fill(none, torch.nan)
        return Neighbors(self.index.masked_fill(none, -1).numpy(), correlation.numpy())


def read_tile(
    tile: Tile, products: Tensor, sides: tuple[Side, Side], *, best: tuple[Best, Best]
) -> None:
    """Offer a tile's correlations to the neighbors of both members."""
    first, second = sides[0].rows(tile.start, tile.stop), sides[1]
    itself = tile.pair[0] == tile.pair[1]
    diagonal = tile.start if itself and tile.grids[0] == tile.grids[1] else None
    _offer(best[0], products, (first, second), diagonal)
    if diagonal is None:
        # A block on the diagonal is symmetric: its rows have said all.
        _offer(best[0] if itself else best[1], products.T, (second, first), None)


def _offer(best: Best, products: Tensor, sides: tuple[Side, Side], diagonal: int | None) -> None:
    """Offer to each row's unit its best columns; `diagonal`: the column of row 0 is itself."""
    rows, columns = sides
    alive = (~rows.dead).nonzero()[:, 0].cpu()
    count = best.index.shape[1]
    found = [largest(part, count) for part in _correlations(products, rows, columns, diagonal)]
    correlation = torch.cat([values for values, _ in found])
    index = columns.units[torch.cat([places for _, places in found])]
    best.offer(rows.units.cpu()[alive], index.cpu()[alive], correlation.cpu()[alive])


def _correlations(
    products: Tensor, rows: Side, columns: Side, diagonal: int | None
) -> Iterator[Tensor]:
    """Correlations of a slab of rows at a time, in one buffer; -inf in columns of dead units."""
    total, width = products.shape
    height = max(1, min(total, _SLAB // (4 * width)))
    buffer = products.new_empty((height, width))
    dead = columns.dead.nonzero()[:, 0]
    for start in range(0, total, height):
        stop = min(start + height, total)
        slab = buffer[: stop - start]
        part = products[start:stop]
        # Columns of a large matrix: torch turns only what lies together block by block.
        slab.copy_(part if part.stride(1) == 1 else part.T.contiguous().T)
        slab.mul_(columns.inverse)
        slab.mul_(rows.inverse[start:stop, None])
        slab.addr_(rows.offset[start:stop], columns.offset, alpha=-1)
        slab.index_fill_(1, dead, _NONE)
        if diagonal is not None:
            slab.diagonal(diagonal + start).fill_(_NONE)
        yield slab


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row [R, C], descending, and where; of equals the first.

    `torch.topk` leaves open which of several equal values it takes: rows where that could matter
    are sorted.
    """
    width = values.shape[1]
    count = min(count, width)
    if count == width:
        return torch.sort(values, dim=1, descending=True, stable=True)
    top, places = values.topk(count + 1, dim=1)
    border = top[:, count - 1]
    tied = ((border == top[:, count]) & (border > _NONE)).nonzero()[:, 0]
    top, places = top[:, :count], places[:, :count].sort(1)[0]
    top, order = torch.sort(values.gather(1, places), dim=1, descending=True, stable=True)
    places = places.gather(1, order)
    if len(tied):
        ordered = torch.sort(values[tied], dim=1, descending=True, stable=True)
        top[tied], places[tied] = ordered[0][:, :count], ordered[1][:, :count]
    return top, places
