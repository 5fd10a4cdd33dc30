"""Mining: which units of two models respond alike, over all pictures and places (T4.1-4.3).

Members run once per batch and pass; any number of pairs is read from that one forward pass. A
member that joins a zoo later is mined with the pairs it is in, and the others' rows stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ...schema.errors import ImagesChanged, NoImages
from ...schema.zoo_errors import BadZooPairs
from .mining_plan import MiningPlan, SumKey, Tile, plan_mining
from .mining_state import MiningState
from .neighbors import Best, PairNeighbors, Side, read_tile
from .products import Products, Units, UnitStatistics, side, statistics

if TYPE_CHECKING:
    from .units import Batch, Member

FIRST = 16
"""Images whose mean is subtracted from all maps: so many whatever the batch size."""

SECONDS = 120.0
"""Between two states that are written."""

_GPU_SHARE = 0.7  # of its free memory; a batch's maps need the rest

Notice = Callable[[str], None]
Progress = Callable[[int, int], None]
Pair = tuple[str, str]
Reader = Callable[[Tile, Tensor, tuple[Side, Side]], None]
"""What becomes of a tile's products once all pictures are in them."""


class Batches(Protocol):
    """Pictures in a fixed order and batches of a fixed size; `len` is the number of pictures."""

    def __len__(self) -> int: ...
    def from_image(self, start: int) -> Iterator[Batch]:
        """Batches from the given picture on."""
        ...


@dataclass(frozen=True)
class Mined:
    """Statistics of each member that is in a pair, the pairs' neighbors, and how many passes."""

    statistics: dict[str, UnitStatistics]
    pairs: tuple[PairNeighbors, ...]
    passes: int


def mine_units(
    members: Sequence[Member],
    batches: Batches,
    *,
    pairs: Sequence[Pair],
    memory: int,
    neighbors: int = 5,
    state: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> Mined:
    """The `neighbors` units of the other member that correlate most with each unit, both ways.

    Pearson's correlation (T4.1, T4.2) is taken over all pictures and places, the smaller map
    interpolated to the larger grid, as docs/mathematics.md says. `pairs` names members, a member
    with itself too; those in no pair do not run. `memory` bytes hold the products: what does not
    fit takes further passes over the pictures, which `notice` is told. `progress` gets the images
    done and to do, all passes together, after each batch.

    `state` is a file that is written every `seconds` and after each pass: a run that finds it goes
    on there, to the same bits, if members, pairs and `settings` (anything in JSON that names the
    pictures) are the same. It stays when all is done; remove it once the result is stored.

    Raises BadZooPairs, MemoryTooSmall or MiningMismatch before anything runs; NoImages,
    ImagesChanged, MapsMismatch and MapsNotFinite on the way.
    """
    named = {member.name: member for member in members}
    if len(named) < len(members):
        msg = f"two models have the same name: {', '.join(one.name for one in members)}."
        raise BadZooPairs(msg)
    if not len(batches):
        msg = "there are no pictures to mine units with; give at least two."
        raise NoImages(msg)
    zoo = {name: member.modules for name, member in named.items()}
    plan = plan_mining(zoo, pairs=pairs, neighbors=neighbors, memory=memory)
    if notice is not None and len(plan.passes) > 1:
        notice(str(plan))
    used = {name for pair in plan.pairs for name in pair}
    run = MiningRun(
        {name: one for name, one in named.items() if name in used},
        batches,
        plan,
        neighbors=neighbors,
    )
    kept = None
    if state is not None:
        facts = _facts(run, {"neighbors": neighbors} | dict(settings or {}))
        kept = MiningState(state, facts, seconds)
        if (found := kept.load()) is not None:
            run.restore(found)
    run.finish(kept, progress or (lambda done, total: None))
    return run.mined()


class MiningRun:
    """Everything that is accumulated, and how far: passes done, and images read in this one."""

    def __init__(
        self,
        members: dict[str, Member],
        batches: Batches,
        plan: MiningPlan,
        *,
        neighbors: int = 1,
        read: Reader | None = None,
    ) -> None:
        self.members, self.batches, self.plan = members, batches, plan
        self._read = read or self._offer
        self.units = {name: Units(member) for name, member in members.items()}
        self.shifts: dict[str, Tensor] = {}
        self.sums: dict[SumKey, Tensor] = {}
        self.best: dict[Pair, tuple[Best, Best]] = {}
        for pair in plan.pairs:
            first, second = (Best(self.units[name].count, neighbors) for name in pair)
            self.best[pair] = (first, first if pair[0] == pair[1] else second)
        self.done = 0
        self.images = 0
        self.products: Products | None = None
        self._restored: list[Tensor] = []

    def finish(self, state: MiningState | None, progress: Progress) -> None:
        """Do what is left."""
        count = len(self.batches)
        total = count * len(self.plan.passes)
        while self.done < len(self.plan.passes):
            for batch in self.batches.from_image(self.images):
                self._add(batch)
                progress(self.done * count + self.images, total)
                if state is not None and self.images < count and state.due():
                    state.keep(self.tensors())
            if self.images != count:
                msg = f"there were {count} pictures, and {self.images} came; mine them again."
                raise ImagesChanged(msg)
            self._read_tiles()
            if state is not None:
                state.keep(self.tensors())

    @torch.no_grad()
    def _add(self, batch: Batch) -> None:
        images = len(batch.pictures)
        maps = {name: self._maps(name, batch) for name in self.plan.passes[self.done].members}
        if self.products is None:
            self.products = self._start(maps, images)
        self.products.add(maps, first=self.images, images=images)
        self.images += images

    def _maps(self, name: str, batch: Batch) -> Sequence[Tensor]:
        maps = self.members[name].maps(batch)
        self.units[name].check(maps, len(batch.pictures))
        return maps

    def _start(self, maps: Mapping[str, Sequence[Tensor]], images: int) -> Products:
        """Accumulators of a pass, as a predecessor left them or empty; needs the first maps."""
        self._find_shifts(maps, images)
        part = self.plan.passes[self.done]
        for key in part.sums:
            units = len(self.units[key.member].numbers[key.grid])
            self.sums.setdefault(key, torch.zeros((2, units), dtype=torch.float64))
        sums = {key: self.sums[key] for key in part.sums}
        products = Products(
            part.tiles,
            sums,
            zoo=self.units,
            shifts={name: self.shifts[name] for name in part.members},
            device=_device(maps, self.plan),
        )
        while self._restored:
            # Copied, since a product's last bits may depend on where its memory starts.
            products.tiles[len(self._restored) - 1].copy_(self._restored.pop())
        return products

    def _find_shifts(self, maps: Mapping[str, Sequence[Tensor]], images: int) -> None:
        """Means of the first images, of members that have none; `maps` are the first batch's."""
        wanted = min(FIRST, len(self.batches))
        missing = [name for name in maps if name not in self.shifts]
        totals = {name: _image_sums(maps[name], wanted) for name in missing}
        if missing and images < wanted:
            for batch in self.batches.from_image(images):
                for name in missing:
                    totals[name] += _image_sums(self._maps(name, batch), wanted - images)
                images += len(batch.pictures)
                if images >= wanted:
                    break
        for name, total in totals.items():
            if len(bad := (~total.isfinite()).nonzero()):
                raise self.units[name].not_finite(int(bad[0, 0]), 0, wanted)
            self.shifts[name] = (total / wanted).float()

    @torch.no_grad()
    def _read_tiles(self) -> None:
        """Find the neighbors in the products of a pass that is done, and let go of them."""
        assert self.products is not None
        dead = {name: torch.from_numpy(one.dead) for name, one in self._statistics().items()}
        for tile, products in zip(
            self.plan.passes[self.done].tiles, self.products.tiles, strict=True
        ):
            first, second = (self._side(key, dead).to(products.device) for key in tile.sums)
            self._read(tile, products, (first, second))
        self.products, self.images = None, 0
        self.done += 1

    def _offer(self, tile: Tile, products: Tensor, sides: tuple[Side, Side]) -> None:
        read_tile(tile, products, sides, best=self.best[tile.pair])

    def _side(self, key: SumKey, dead: Mapping[str, Tensor]) -> Side:
        numbers = self.units[key.member].numbers[key.grid]
        places = len(self.batches) * key.target[0] * key.target[1]
        return side(self.sums[key], numbers, dead=dead[key.member][numbers], places=places)

    def _statistics(self) -> dict[str, UnitStatistics]:
        """Of the members that have run."""
        return {
            name: statistics(self.units[name], self.sums, shift=shift, images=len(self.batches))
            for name, shift in self.shifts.items()
        }

    def mined(self) -> Mined:
        """The results."""
        pairs: list[PairNeighbors] = []
        for (first, second), (forward, backward) in self.best.items():
            found = forward.neighbors()
            other = found if backward is forward else backward.neighbors()
            pairs.append(PairNeighbors(first, second, found, other))
        return Mined(self._statistics(), tuple(pairs), len(self.plan.passes))

    def tensors(self) -> dict[str, Tensor]:
        """All that a successor needs."""
        state = {"reached": torch.tensor([self.done, self.images])}
        state |= {f"shift {name}": shift for name, shift in self.shifts.items()}
        state |= {_named(key): sums for key, sums in self.sums.items()}
        for name, best in self._found():
            state |= {f"{name} index": best.index, f"{name} correlation": best.correlation}
        tiles = self.products.tiles if self.products is not None else []
        return state | {f"products {number}": tile for number, tile in enumerate(tiles)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go where a predecessor's `tensors` were taken."""
        self.done, self.images = state["reached"].tolist()
        self.shifts = {
            name: state[f"shift {name}"] for name in self.units if f"shift {name}" in state
        }
        keys = (key for part in self.plan.passes for key in part.sums)
        self.sums = {key: state[_named(key)].clone() for key in keys if _named(key) in state}
        for name, best in self._found():
            best.index = state[f"{name} index"].clone()
            best.correlation = state[f"{name} correlation"].clone()
        if self.images:
            tiles = self.plan.passes[self.done].tiles
            self._restored = [state[f"products {number}"] for number in range(len(tiles))]

    def _found(self) -> Iterator[tuple[str, Best]]:
        """The neighbors of each pair and way, by a name for a file."""
        for (first, second), (forward, backward) in self.best.items():
            yield f"{first} {second}", forward
            if backward is not forward:
                yield f"{second} {first}", backward


def _image_sums(maps: Sequence[Tensor], images: int) -> Tensor:
    """The units' means over places, added up over the first images of a batch: float64 [N]."""
    means = [one[:images].mean((2, 3)).cpu().double().sum(0) for one in maps]
    return torch.cat(means)


def _device(maps: Mapping[str, Sequence[Tensor]], plan: MiningPlan) -> torch.device:
    """Where products are held: beside the maps, if that is a GPU with room for them."""
    device = next(one.device for several in maps.values() for one in several)
    if device.type == "cuda" and plan.peak <= _GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")


def _named(key: SumKey) -> str:
    (h, w), (target_h, target_w) = key.grid, key.target
    return f"sums {key.member} {h}x{w} {target_h}x{target_w}"


def _facts(run: MiningRun, settings: Mapping[str, Any]) -> dict[str, object]:
    """What must be the same when a run goes on, in JSON."""
    tiles = [[dataclasses.astuple(tile) for tile in one.tiles] for one in run.plan.passes]
    models = [
        {
            "name": member.name,
            "spec": member.spec,
            "weights": member.weights_sha256,
            "modules": [dataclasses.astuple(module) for module in member.modules],
            "preprocessing": member.preprocessing,
            "input size": member.input_size,
        }
        for member in run.members.values()
    ]
    return {
        "models": models,
        "pairs": run.plan.pairs,
        "images": len(run.batches),
        "memory": tiles,
        "settings": settings,
    }
