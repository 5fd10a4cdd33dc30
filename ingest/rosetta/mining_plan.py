"""Which products of units are accumulated in which pass over the pictures, and what they take.

A pair of members has one block of products for each pair of their grids: [units of the one's grid,
units of the other's]. Blocks fill a pass up to the budget; one that does not fit is cut along the
units of the first member. Nothing here depends on the number of pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...schema.errors import BadQuestion, MemoryTooSmall
from ...schema.zoo_errors import BadZooPairs
from .units import UnitModule

Grid = tuple[int, int]
Zoo = Mapping[str, Sequence[UnitModule]]

_PRODUCT = 4  # bytes: float32
_SUMS = 16  # bytes a unit: its sum and its sum of squares, float64
_SHIFT = 4
_NEIGHBOR = 8  # bytes: int32 and float32
_STATISTICS = 17  # bytes a unit on disk: mean and variance, float64, and whether it is dead


class SumKey(NamedTuple):
    """Sums of a member's units of one grid, their maps interpolated to a target grid."""

    member: str
    grid: Grid
    target: Grid


@dataclass(frozen=True, slots=True)
class Tile:
    """Products of some units of one grid (`start` to `stop`, as stacked) with all of another."""

    pair: tuple[str, str]
    grids: tuple[Grid, Grid]
    start: int
    stop: int
    columns: int

    @property
    def rows(self) -> int:
        """Units of the first member in this tile."""
        return self.stop - self.start

    @property
    def bytes(self) -> int:
        """Of the float32 products."""
        return _PRODUCT * self.rows * self.columns

    @property
    def target(self) -> Grid:
        """The grid that both maps are interpolated to: the larger one along each axis (T4.1)."""
        (h, w), (other_h, other_w) = self.grids
        return max(h, other_h), max(w, other_w)

    @property
    def small(self) -> Grid:
        """The grid that products are taken at: the smaller one along each axis."""
        (h, w), (other_h, other_w) = self.grids
        return min(h, other_h), min(w, other_w)

    @property
    def sums(self) -> tuple[SumKey, SumKey]:
        """What turns these products into correlations."""
        first, second = (
            SumKey(member, grid, self.target)
            for member, grid in zip(self.pair, self.grids, strict=True)
        )
        return first, second


@dataclass(frozen=True, slots=True)
class MiningPass:
    """One pass over the pictures: its tiles, and the sums that no earlier pass has taken."""

    tiles: tuple[Tile, ...]
    sums: tuple[SumKey, ...]

    @property
    def members(self) -> tuple[str, ...]:
        """Members whose forward pass runs, in the order of their first use."""
        return tuple(dict.fromkeys(name for tile in self.tiles for name in tile.pair))

    @property
    def bytes(self) -> int:
        """Of all products of the pass."""
        return sum(tile.bytes for tile in self.tiles)


@dataclass(frozen=True, slots=True)
class MiningPlan:
    """The passes, and bytes: the budget, what is kept between passes, and the stored results."""

    passes: tuple[MiningPass, ...]
    pairs: tuple[tuple[str, str], ...]
    memory: int
    kept: int
    result: int

    @property
    def bytes(self) -> int:
        """Of all products, if they were held at once."""
        return sum(one.bytes for one in self.passes)

    @property
    def peak(self) -> int:
        """Bytes held at most: the largest pass' products and what is kept between passes."""
        return self.kept + max((one.bytes for one in self.passes), default=0)

    @property
    def forward_passes(self) -> int:
        """How often a member goes over the pictures, over all members."""
        return sum(len(one.members) for one in self.passes)

    def __str__(self) -> str:
        passes = len(self.passes)
        members = {name for pair in self.pairs for name in pair}
        lines = [
            f"{_counted(len(self.pairs), 'pair')} of {_counted(len(members), 'model')}: "
            f"{_size(self.bytes)} of products, {_size(self.peak)} in memory at a time, in "
            f"{_counted(passes, 'pass', 'passes')} over the images; "
            f"the results take {_size(self.result)} on disk"
        ]
        for number, one in enumerate(self.passes, 1):
            names = ", ".join(one.members)
            lines.append(f"pass {number} of {passes}: {_size(one.bytes)} of products; {names}")
        return "\n".join(lines)


def plan_mining(
    zoo: Zoo, *, pairs: Iterable[tuple[str, str]], neighbors: int, memory: int
) -> MiningPlan:
    """Pack the products of all pairs into the fewest passes that a budget allows.

    `memory` bytes hold the products (float32), the sums and the neighbors; the maps of one batch,
    and some MB while products are read, come on top. As few passes as tiles of whole rows
    allow; where that leaves room, a pass ends rather than run one more member for a scrap.

    Raises BadZooPairs for a pair named twice or of a member that is not there, BadQuestion for less
    than one neighbor, and MemoryTooSmall where not even the products of one unit fit.
    """
    if neighbors < 1:
        msg = f"neighbors={neighbors} is no number of neighbors; 1 or more are needed, such as 5."
        raise BadQuestion(msg)
    pairs = _checked(zoo, tuple(pairs))
    blocks = [block for pair in pairs for block in _blocks(zoo, pair)]
    keys = _sum_keys(zoo, blocks)
    units = {name: sum(module.channels for module in modules) for name, modules in zoo.items()}
    used = {name for pair in pairs for name in pair}
    kept = sum(_SUMS * grid_units(zoo[key.member])[key.grid] for key in keys)
    kept += sum(_SHIFT * units[name] for name in used)
    listed = sum(_NEIGHBOR * neighbors * (units[first] + units[second]) for first, second in pairs)
    room = memory - kept - listed
    row = max((_PRODUCT * block.columns for block in blocks), default=0)
    if room < row:
        msg = (
            f"{memory:,} bytes of memory are too few to mine these models: what is kept of "
            f"their units and the products of one unit take {kept + listed + row:,}. Allow more "
            "memory, or choose fewer modules."
        )
        raise MemoryTooSmall(msg)
    passes: list[MiningPass] = []
    taken: set[SumKey] = set()
    for tiles in _packed(blocks, room):
        sums = [key for key in _sum_keys(zoo, tiles) if key not in taken]
        taken.update(sums)
        passes.append(MiningPass(tuple(tiles), tuple(sums)))
    result = listed + sum(_STATISTICS * units[name] for name in used)
    return MiningPlan(tuple(passes), pairs, memory, kept + listed, result)


def grid_modules(modules: Sequence[UnitModule]) -> dict[Grid, list[int]]:
    """The numbers of the modules of each grid: their units are stacked in this order."""
    numbers: dict[Grid, list[int]] = {}
    for number, module in enumerate(modules):
        numbers.setdefault(module.grid, []).append(number)
    return numbers


def grid_units(modules: Sequence[UnitModule]) -> dict[Grid, int]:
    """The number of units of each grid."""
    return {
        grid: sum(modules[number].channels for number in numbers)
        for grid, numbers in grid_modules(modules).items()
    }


def _checked(zoo: Zoo, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Pairs as given, if each is of members of the zoo and named once, in whatever order."""
    seen: set[frozenset[str]] = set()
    for pair in pairs:
        if missing := [name for name in pair if name not in zoo]:
            msg = f"the pair {' and '.join(pair)} needs {missing[0]!r}; models: {', '.join(zoo)}."
            raise BadZooPairs(msg)
        if frozenset(pair) in seen:
            msg = f"the pair {' and '.join(pair)} is named twice; once is enough."
            raise BadZooPairs(msg)
        seen.add(frozenset(pair))
    return pairs


def _blocks(zoo: Zoo, pair: tuple[str, str]) -> list[Tile]:
    """All products of a pair, uncut; of a member with itself, each pair of grids once."""
    first, second = (grid_units(zoo[name]) for name in pair)
    return [
        Tile(pair, (grid, other), 0, units, second[other])
        for place, (grid, units) in enumerate(first.items())
        for other in list(second)[place if pair[0] == pair[1] else 0 :]
    ]


def _sum_keys(zoo: Zoo, tiles: Sequence[Tile]) -> list[SumKey]:
    """The sums that tiles need, and on their own grids (T4.1) those of all units of the members."""
    members = dict.fromkeys(name for tile in tiles for name in tile.pair)
    own = [SumKey(name, grid, grid) for name in members for grid in grid_units(zoo[name])]
    return list(dict.fromkeys([*own, *(key for tile in tiles for key in tile.sums)]))


def _packed(blocks: Sequence[Tile], room: int) -> list[list[Tile]]:
    """Blocks, cut where they must be, in passes of at most `room` bytes.

    A pass fills all of it but less than one row: `sure` is what it certainly takes.
    """
    waiting = list(blocks)
    left = sum(block.bytes for block in waiting)
    fewest = -(-left // room) if waiting else 0
    sure = room - max((_PRODUCT * block.columns for block in waiting), default=0)
    passes: list[list[Tile]] = []
    free = 0
    running: set[str] = set()
    while waiting:
        # The block that brings the fewest new members, the first of equals.
        block = min(waiting, key=lambda one: len(set(one.pair) - running))
        rows = min(free // (_PRODUCT * block.columns), block.rows)
        joins = bool(running) and not running.issuperset(block.pair)
        if rows == 0 or (joins and left <= (fewest - len(passes)) * sure):
            passes.append([])
            free, running = room, set()
            continue
        tile = replace(block, stop=block.start + rows)
        passes[-1].append(tile)
        running.update(block.pair)
        free -= tile.bytes
        left -= tile.bytes
        place = waiting.index(block)
        waiting[place : place + 1] = (
            [replace(block, start=tile.stop)] if tile.stop < block.stop else []
        )
    return passes


def _counted(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
