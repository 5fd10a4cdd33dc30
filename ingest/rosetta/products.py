"""Sums and products of units' maps, accumulated over the pictures of one pass (T4.1, T4.2).

Maps are interpolated to the larger grid of each pair, along each axis the larger of both, but never
formed there. With U the matrix of the interpolation, <Ua, b> = <a, U^T b>: the adjoint is applied
once to the larger map, and products are taken at the smaller grid. Sums of Ua are <U^T 1, a>, sums
of squares <a, U^T U a>. A constant per unit is subtracted first, which commutes with the
interpolation: sums then stay small enough for float32.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema.zoo_errors import MapsMismatch, MapsNotFinite
from .interpolation import column_sums, gram_matrix, interpolation_matrix
from .mining_plan import SumKey, grid_modules
from .neighbors import Side

if TYPE_CHECKING:
    from .mining_plan import Grid, Tile
    from .units import Member, UnitModule

_CACHE = 1 << 20  # bytes
_DEAD = 1e-6  # of a unit's root mean square: float32 has no more of a map that varies by less


@dataclass(frozen=True)
class UnitStatistics:
    """Of a member's N units on their own grids (T4.1): mean and variance float64 [N], dead [N].

    A dead unit does not vary: its standard deviation is at most 1e-6 of its root mean square.
    """

    mean: npt.NDArray[np.float64]
    variance: npt.NDArray[np.float64]
    dead: npt.NDArray[np.bool_]


class Units:
    """The units of one member: numbered over its modules, stacked by grid."""

    def __init__(self, member: Member) -> None:
        self.name = member.name
        self.modules: tuple[UnitModule, ...] = tuple(member.modules)
        self.grids = grid_modules(self.modules)
        starts = np.cumsum([0, *(module.channels for module in self.modules)])
        self.starts: list[int] = starts.tolist()
        self.count = self.starts[-1]

    @cached_property
    def numbers(self) -> dict[Grid, Tensor]:
        """The numbers of each grid's units in the member, in the order of the stack."""
        return {
            grid: torch.cat([torch.arange(*self.starts[one : one + 2]) for one in modules])
            for grid, modules in self.grids.items()
        }

    def check(self, maps: Sequence[Tensor], images: int) -> None:
        """Raise MapsMismatch where a batch's maps are not what the modules were declared with."""
        want = [(images, module.channels, *module.grid) for module in self.modules]
        have = [tuple(one.shape) for one in maps]
        if have == want:
            return
        if len(have) != len(want):
            msg = f"{self.name} gives {len(have)} maps of its {len(want)} modules; one each."
            raise MapsMismatch(msg)
        name, got, due = next(
            (module.name, got, due)
            for module, got, due in zip(self.modules, have, want, strict=True)
            if got != due
        )
        msg = (
            f"{self.name}:{name} gives maps {got} for {images} images; declared is {due}. Load the "
            "model again with the pictures' size, or choose other modules."
        )
        raise MapsMismatch(msg)

    def not_finite(self, unit: int, first: int, images: int) -> MapsNotFinite:
        """Make the error for a unit that holds what no correlation can be taken of."""
        module = next(one for one in range(len(self.modules)) if unit < self.starts[one + 1])
        address = f"{self.name}:{self.modules[module].name}/{unit - self.starts[module]}"
        return MapsNotFinite(
            f"{address} is NaN, infinite or too large to square in images {first} to "
            f"{first + images - 1}. Run the model in float32, or leave its module out."
        )

    def stack(self, maps: Sequence[Tensor], grid: Grid, *, shift: Tensor, out: Tensor) -> None:
        """Fill [units of a grid, images, h, w] with the modules' maps less the units' shift."""
        start = 0
        for number in self.grids[grid]:
            stop = start + self.modules[number].channels
            own = shift[self.starts[number] : self.starts[number + 1], None, None, None]
            torch.sub(maps[number].transpose(0, 1).to(out.device), own, out=out[start:stop])
            start = stop


class Products:
    """The products of one pass' tiles, float32 [rows, columns]; adds to `sums`, float64 [2, N]."""

    def __init__(
        self,
        tiles: Sequence[Tile],
        sums: Mapping[SumKey, Tensor],
        *,
        zoo: Mapping[str, Units],
        shifts: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        self._tiles, self._sums, self._zoo, self._device = tiles, sums, zoo, device
        self._shifts = {name: shift.to(device) for name, shift in shifts.items()}
        self.tiles = [torch.zeros((one.rows, one.columns), device=device) for one in tiles]
        keys = [*sums, *(key for tile in tiles for key in tile.sums)]
        self._stacked = list(dict.fromkeys((key.member, key.grid) for key in keys))
        self._buffers: dict[tuple[str, Grid, Grid], Tensor] = {}

    def add(self, maps: dict[str, Sequence[Tensor]], *, first: int, images: int) -> None:
        """Add a batch of images: each member's maps, one [B, C, h, w] a module.

        `first` is the batch's first image, `maps` is emptied. Raises MapsNotFinite.
        """
        with ieee_products():
            stacks = {
                (member, grid): self._stack(member, grid, maps[member], images)
                for member, grid in self._stacked
            }
            maps.clear()
            for (member, grid), stack in stacks.items():
                keys = [key for key in self._sums if key[:2] == (member, grid)]
                found = moments(stack, [key.target for key in keys]).cpu()
                for key, more in zip(keys, found, strict=True):
                    self._sums[key].add_(more)
                    if not bool(more.isfinite().all()):
                        bad = int((~more.isfinite()).any(0).nonzero()[0, 0])
                        units = self._zoo[member]
                        raise units.not_finite(int(units.numbers[grid][bad]), first, images)
            reduced: dict[tuple[str, Grid, Grid], Tensor] = {}

            def small(key: SumKey, grid: Grid) -> Tensor:
                name = (key.member, key.grid, grid)
                if name not in reduced:
                    reduced[name] = self._reduced(stacks[key[:2]], name)
                return reduced[name]

            for tile, products in zip(self._tiles, self.tiles, strict=True):
                one, other = (small(key, tile.small) for key in tile.sums)
                products.addmm_(one[tile.start : tile.stop], other.T)

    def _stack(self, member: str, grid: Grid, maps: Sequence[Tensor], images: int) -> Tensor:
        """A member's maps of one grid, in memory that the next batch uses again."""
        units = self._zoo[member]
        shape = (len(units.numbers[grid]), images, *grid)
        stack = self._buffer((member, grid, grid), shape)
        units.stack(maps, grid, shift=self._shifts[member], out=stack)
        return stack

    def _reduced(self, stack: Tensor, name: tuple[str, Grid, Grid]) -> Tensor:
        """The adjoint of a stack: [N, B * p * q] on the smaller grid."""
        units, images, *grid = stack.shape
        if name[2] != tuple(grid):
            out = self._buffer(name, (units, images, *name[2]))
            adjoint(stack, out=out)
            stack = out
        return stack.view(units, -1)

    def _buffer(self, name: tuple[str, Grid, Grid], shape: tuple[int, ...]) -> Tensor:
        """Memory that the next batch uses again: new pages cost as much as what is done to them."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != shape:
            buffer = self._buffers[name] = torch.empty(shape, device=self._device)
        return buffer


def moments(stack: Tensor, targets: Sequence[Grid]) -> Tensor:
    """Sums and sums of squares of maps [N, B, h, w] interpolated to T grids: float64 [T, 2, N]."""
    if not targets:
        return torch.zeros((0, 2, len(stack)), dtype=torch.float64)
    weights = [_place_weights(stack, target) for target in targets]
    parts = [
        torch.stack([_moments(part, target, weights[n]) for n, target in enumerate(targets)])
        for part in stack.split(_units_at_a_time(stack))
    ]
    return torch.cat(parts, 2)


def adjoint(stack: Tensor, *, out: Tensor) -> None:
    """U^T of maps [N, B, h, w]: `out` [N, B, p, q] is no larger on any axis."""
    h, w = stack.shape[2:]
    p, q = out.shape[2:]
    size = _units_at_a_time(stack)
    for part, small in zip(stack.split(size), out.split(size), strict=True):
        if q != w:
            part = torch.matmul(part, interpolation_matrix(q, w).to(part))
        if p != h:
            part = _along_height(interpolation_matrix(p, h).T.to(part), part)
        small.copy_(part)


def _moments(stack: Tensor, target: Grid, weights: Tensor) -> Tensor:
    units, images, h, w = stack.shape
    rows = stack.view(units * images, h * w)
    sums = rows @ weights
    if target == (h, w):
        squares = torch.linalg.vector_norm(rows, dim=1).double().square()
    else:
        other = stack
        if target[1] != w:
            other = torch.matmul(other, gram_matrix(w, target[1]).to(stack))
        if target[0] != h:
            other = _along_height(gram_matrix(h, target[0]).to(stack), other)
        squares = (other.view_as(rows) * rows).sum(1).double()
    return torch.stack([sums.double(), squares]).view(2, units, images).sum(2)


def _place_weights(stack: Tensor, target: Grid) -> Tensor:
    """How much each place of a map adds to the sum of the interpolated one: [h * w]."""
    h, w = stack.shape[2:]
    return torch.outer(column_sums(h, target[0]), column_sums(w, target[1])).flatten().to(stack)


def _units_at_a_time(stack: Tensor) -> int:
    """So many that what is made of their maps stays in a processor's cache."""
    if stack.device.type != "cpu":
        return len(stack)
    return max(1, _CACHE // (stack[0].numel() * stack.element_size()))


def _along_height(matrix: Tensor, stack: Tensor) -> Tensor:
    """A matrix [p, h] times every map of [N, B, h, w], as one batch of small products."""
    units, images, h, w = stack.shape
    maps = stack.view(units * images, h, w)
    return torch.bmm(matrix.expand(len(maps), *matrix.shape), maps).view(units, images, -1, w)


def side(sums: Tensor, units: Tensor, *, dead: Tensor, places: int) -> Side:
    """What a tile needs of one side's units: `sums` [2, N] over `places` (of all images)."""
    total, squares = sums
    scatter = squares - total.square() / places
    alive = ~dead & (scatter > 0)
    inverse = torch.where(alive, scatter, 1).rsqrt().where(alive, 0)
    offset = total * inverse / places**0.5
    return Side(units, inverse.float(), offset.float(), ~alive)


def statistics(
    units: Units, sums: Mapping[SumKey, Tensor], *, shift: Tensor, images: int
) -> UnitStatistics:
    """Mean and variance of every unit on its own grid (T4.1), and which are dead."""
    mean = torch.full((units.count,), torch.nan, dtype=torch.float64)
    variance = mean.clone()
    for grid, numbers in units.numbers.items():
        total, squares = sums[SumKey(units.name, grid, grid)]
        places = images * grid[0] * grid[1]
        mean[numbers] = total / places + shift[numbers].double()
        scatter = (squares - total.square() / places).clamp(min=0)
        variance[numbers] = scatter / (places - 1) if places > 1 else 0
    dead = ~(variance > _DEAD**2 * (mean.square() + variance))
    return UnitStatistics(mean.numpy(), variance.numpy(), dead.numpy())


@contextmanager
def ieee_products() -> Generator[None]:
    """Float32 products of full precision: neither TF32 nor bfloat16, whatever the process uses."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
