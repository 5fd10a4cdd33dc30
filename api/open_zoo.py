"""A Rosetta zoo of an open store: its models, nearest units and example maps, each when needed."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.best_buddies import Buddies, best_buddies
from ..queries.rosetta_tuples import (
    Concepts,
    RosettaTuples,
    best_tuples,
    correlated,
    rosetta_concepts,
    rosetta_tuples,
    strongest_tuples,
)
from ..schema.components import Neuron
from ..schema.errors import BadQuestion
from ..schema.layout import Layout
from ..schema.nearest import nearest
from ..schema.unit_addresses import Unit, neuron_of, parse_unit
from ..schema.zoo_errors import MapsNotStored, NoMatches, UnknownMember, UnknownUnit
from ..schema.zoo_files import (
    KeptMaps,
    KeptPair,
    KeptStatistics,
    example_maps,
    read_pair,
    read_pictures,
    read_statistics,
)
from .columns import arrow_column
from .console import Console
from .whole_numbers import whole

if TYPE_CHECKING:
    import pyarrow as pa

    from .run import RunView

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

# Pictures: the best of units that are shown different ones correlate by 0.34, of 60 by 0.43.
_ENOUGH = 200
_NEURON = re.compile(r"([^:]+):L(\d+)\.N(\d+)", re.IGNORECASE)


class ZooMember:
    """A model of a zoo: which unit is which channel of which module."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.name: str = row["name"]
        self.position: int = row["position"]
        self.weights_sha256: str = row["weights_sha256"]
        self.units: int = row["units"]
        modules = json.loads(row["modules"])
        self.modules: list[str] = [module[0] for module in modules]
        self.grids: list[tuple[int, int]] = [(module[2], module[3]) for module in modules]
        self._starts: I64 = np.cumsum([0, *(module[1] for module in modules)], dtype=np.int64)

    def address(self, unit: int) -> Unit:
        """The address of a unit by its number."""
        place = self.place(unit)
        return Unit(self.name, self.modules[place], unit - int(self._starts[place]))

    def addresses(self, units: I64) -> list[str]:
        """The addresses of units by their numbers, as texts."""
        return self.address_column(units).to_pylist()

    def address_column(self, units: I64) -> pa.Array:
        """The same as a column: a zoo may have millions of tuples."""
        return self._addresses.take(arrow_column(units))

    @cached_property
    def _addresses(self) -> pa.Array:
        sizes = np.diff(self._starts).tolist()
        named = zip(self.modules, sizes, strict=True)
        return arrow_column([f"{self.name}:{one}/{c}" for one, n in named for c in range(n)])

    def place(self, unit: int) -> int:
        """The place, among the modules, of the one that a unit is of."""
        return int(np.searchsorted(self._starts, unit, side="right")) - 1

    def neuron(self, unit: int) -> str | None:
        """The address that a CLIP's unit has as a neuron."""
        address = self.address(unit)
        found = neuron_of(address.module, address.channel)
        return None if found is None else str(found)

    @property
    def neuron_layers(self) -> set[int]:
        """Layers of a CLIP whose neurons are units of it."""
        named = (neuron_of(module, 0) for module in self.modules)
        return {one.layer for one in named if one is not None}

    def unit_of(self, neuron: Neuron) -> int | None:
        """The number of the unit that is a CLIP's neuron; None where none is."""
        for place, module in enumerate(self.modules):
            if neuron_of(module, neuron.neuron) == neuron:
                unit = int(self._starts[place]) + neuron.neuron
                return unit if unit < self._starts[place + 1] else None
        return None

    def neuron_number(self, neuron: Neuron) -> int:
        """The same; raises `UnknownUnit` where no unit is this neuron."""
        unit = self.unit_of(neuron)
        if unit is None:
            layers = sorted(self.neuron_layers)
            kept = ", ".join(map(str, layers)) or "none"
            msg = (
                f"{neuron} is no unit of {self.name}: layers whose neurons are its units: {kept}. "
                "`lensbase rosetta units STORE` lists all units."
            )
            raise UnknownUnit(msg)
        return unit

    def number(self, address: Unit) -> int:
        """The number of a unit; raises `UnknownUnit`, naming the nearest."""
        if address.module not in self.modules:
            near = nearest(address.module, self.modules, cutoff=0.3, most=5)
            msg = (
                f"{self.name} has no hooked module {address.module!r}; {near}. "
                "`lensbase rosetta units STORE` lists all units."
            )
            raise UnknownUnit(msg)
        place = self.modules.index(address.module)
        start = int(self._starts[place])
        channels = int(self._starts[place + 1]) - start
        if address.channel >= channels:
            last = Unit(self.name, address.module, channels - 1)
            msg = (
                f"{address.module} of {self.name} has no channel {address.channel}: the last "
                f"is {last}."
            )
            raise UnknownUnit(msg)
        return start + address.channel


@dataclass(frozen=True)
class Merged:
    """Best buddies of the anchor with some models, and their concepts.

    `members` are in the order of a tuple's units; `best` has the strongest tuple of each unit.
    """

    members: list[ZooMember]
    pairs: list[Buddies]
    best: RosettaTuples
    concepts: Concepts

    @cached_property
    def tuples(self) -> RosettaTuples:
        """All tuples (T4.4); raises `BadQuestion` where they are too many."""
        return rosetta_tuples(self.pairs)

    @property
    def strongest(self) -> I64:
        """The row of each concept's strongest tuple in `best`."""
        return strongest_tuples(self.best, self.concepts)


class OpenZoo:
    """What the views of one zoo share."""

    def __init__(
        self,
        layout: Layout,
        row: dict[str, Any],
        *,
        console: Console,
        members: list[ZooMember],
        pairs: set[tuple[str, str]],
        runs_of: Callable[[str], list[RunView]],
    ) -> None:
        self.name: str = row["name"]
        self.row = row
        self.console = console
        self.members = {member.name: member for member in members}
        self.pairs = pairs
        self.runs_of = runs_of
        self._layout = layout
        self._pairs: dict[tuple[str, str], KeptPair] = {}
        self._merged: dict[tuple[Any, ...], Merged] = {}
        self._maps: dict[tuple[str, str], KeptMaps | None] = {}
        self._statistics: dict[str, KeptStatistics] = {}

    @property
    def neighbors(self) -> int:
        """K: nearest units kept of each unit in each other model."""
        return self.row["neighbors"]

    @property
    def anchor(self) -> ZooMember:
        """The model that tuples and concepts go through."""
        return self.members[self.row["anchor"]]

    @property
    def ordered(self) -> list[ZooMember]:
        """The anchor, then the other models in the zoo's order."""
        return [self.anchor, *(one for one in self.members.values() if one is not self.anchor)]

    def member(self, name: str) -> ZooMember:
        """A model by name; raises `UnknownMember`, naming those that the zoo has."""
        if name not in self.members:
            near = nearest(str(name), list(self.members))
            msg = (
                f"zoo {self.name!r} has no model {name!r}; {near}. "
                f"`lensbase rosetta mine` with --zoo {self.name} adds models."
            )
            raise UnknownMember(msg)
        return self.members[name]

    def unit(self, address: str) -> tuple[ZooMember, int]:
        """A unit by address, a CLIP's also as a neuron (`clip:L9.N391`): its model and number.

        Raises `BadAddress`, `UnknownMember` or `UnknownUnit`.
        """
        given: Any = address
        named = _NEURON.fullmatch(given.strip()) if isinstance(given, str) else None
        if named is not None:
            member = self.member(named[1])
            return member, member.neuron_number(Neuron(int(named[2]), int(named[3])))
        parsed = parse_unit(address)
        member = self.member(parsed.model)
        return member, member.number(parsed)

    def named(self, models: str | Sequence[str]) -> list[ZooMember]:
        """A model, or several, by name, each once; raises `UnknownMember`."""
        given: Any = models
        if isinstance(given, str):
            return [self.member(given)]
        if not isinstance(given, Iterable) or not all(isinstance(one, str) for one in given):
            known = ", ".join(self.members)
            msg = f"models={given!r} names no models: give one of {known}, or a list of several."
            raise UnknownMember(msg)
        return [self.member(name) for name in dict.fromkeys(models)]

    @property
    def few(self) -> str:
        """What is to be said where the pictures are so few that chance matches many units."""
        images = self.row["images"]
        if images >= _ENOUGH:
            return ""
        return f"; of {images} pictures alone, many correlate by chance: held_out() says which hold"

    def chosen(self, models: str | Sequence[str] | None) -> list[ZooMember]:
        """The anchor and the named other models, all for None; raises `UnknownMember`."""
        if models is None:
            return self.ordered
        named = self.named(models)
        others = [one for one in named if one is not self.anchor]
        if not others:
            msg = (
                f"matches go from the anchor {self.anchor.name} to other models; name one or "
                f"more of {', '.join(one.name for one in self.ordered[1:]) or 'none'}."
            )
            raise BadQuestion(msg)
        return [self.anchor, *others]

    def k(self, neighbors: int | None) -> int:
        """How many nearest units make best buddies; raises `BadQuestion` for more than kept."""
        if neighbors is None:
            return self.neighbors
        k = whole(neighbors, "neighbors", least=1, of="units")
        if k > self.neighbors:
            msg = (
                f"zoo {self.name!r} keeps {self.neighbors} nearest units of each, not {k}; "
                f"`lensbase rosetta mine` with --neighbors {k} keeps more, in another zoo."
            )
            raise BadQuestion(msg)
        return k

    def has_pair(self, first: str, second: str) -> bool:
        """Whether the units of two models were compared."""
        return (first, second) in self.pairs or (second, first) in self.pairs

    def pair(self, first: str, second: str) -> KeptPair:
        """The nearest units of two models in each other; read once."""
        if (first, second) not in self._pairs:
            if (first, second) in self.pairs:
                folder = self.row["folder"]
                found = read_pair(self._layout, folder, first=first, second=second)
            else:
                found = self.pair(second, first).reversed()
            self._pairs[first, second] = found
        return self._pairs[first, second]

    def buddies(self, first: str, second: str, *, k: int) -> Buddies:
        """BB(first, second; k) (T4.3)."""
        pair = self.pair(first, second)
        index = pair.index_first, pair.index_second
        return best_buddies(*index, k, correlation=pair.correlation_first)

    def merged(
        self,
        models: str | Sequence[str] | None = None,
        *,
        min_correlation: float | None = None,
        neighbors: int | None = None,
    ) -> Merged:
        """Tuples of the anchor with some other models, and their concepts (T4.4)."""
        members, k = self.chosen(models), self.k(neighbors)
        check_correlation(min_correlation)
        key = (*(one.name for one in members), min_correlation, k)
        # Other threads may ask for others meanwhile: only what is held here is surely there.
        found = self._merged.get(key)
        if found is None:
            anchor = self.anchor.name
            pairs = [self.buddies(anchor, one.name, k=k) for one in members[1:]]
            if not pairs:
                msg = f"zoo {self.name!r} has one model only; a match takes two."
                raise NoMatches(msg)
            pairs = correlated(pairs, min_correlation)
            best = best_tuples(pairs)
            concepts = rosetta_concepts(best, self.buddies(anchor, anchor, k=k))
            found = Merged(members, pairs, best, concepts)
            self._merged = {key: found}
        return found

    def statistics(self, member: ZooMember) -> KeptStatistics:
        """Mean, variance and deadness of a model's units; read once."""
        if member.name not in self._statistics:
            found = read_statistics(self._layout, self.row["folder"], member.name)
            self._statistics[member.name] = found
        return self._statistics[member.name]

    @cached_property
    def pictures(self) -> npt.NDArray[np.uint8]:
        """The example pictures [X, S, S, 3]; raises `MapsNotStored`."""
        return read_pictures(self._layout, self.row["folder"], self._label)

    def example(self, image: int) -> int:
        """Check the number of an example picture; raises `MapsNotStored` or `BadQuestion`."""
        count = len(self.pictures)
        number = whole(image, "image", least=0, of="example picture")
        if number >= count:
            msg = f"zoo {self.name!r} keeps {count} example pictures, 0 to {count - 1}."
            raise BadQuestion(msg)
        return number

    def maps(self, member: ZooMember, unit: int) -> F32 | None:
        """A unit's normalized maps on all example pictures [X, h, w]; None where not kept.

        Raises `MapsNotStored` where the zoo keeps no examples.
        """
        address = member.address(unit)
        key = (member.name, address.module)
        if key not in self._maps:
            self._maps[key] = example_maps(self._examples, *key)
        kept = self._maps[key]
        if kept is None:
            return None
        place = int(np.searchsorted(kept.channels, address.channel))
        if place == len(kept.channels) or kept.channels[place] != address.channel:
            return None
        return kept.maps.read([place])[0].astype(np.float32)

    @property
    def _label(self) -> int:
        label = self.row["label"]
        if label is None:
            msg = (
                f"zoo {self.name!r} keeps no example pictures; "
                f"`lensbase rosetta mine` with --examples keeps some."
            )
            raise MapsNotStored(msg)
        return label

    @cached_property
    def _examples(self) -> Path:
        return self._layout.zoo_examples(self.row["folder"], self._label)


def check_correlation(given: float | None) -> None:
    """Raise `BadQuestion` for what is no lowest correlation."""
    number: Any = given
    if number is None or (
        isinstance(number, int | float | np.number)
        and not isinstance(number, bool)
        and -1 <= float(number) <= 1
    ):
        return
    msg = f"min_correlation={given!r} is no correlation; give a number from -1 to 1."
    raise BadQuestion(msg)
