"""One unit of a Rosetta zoo: what it translates to in the other models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from ..schema.zoo_errors import MapsNotStored
from .card import Card
from .open_zoo import OpenZoo, ZooMember
from .printing import counted
from .result import Result


class UnitView:
    """A channel of a hooked module of one of a zoo's models."""

    def __init__(self, zoo: OpenZoo, address: str) -> None:
        self._zoo = zoo
        self._member, self._unit = zoo.unit(address)
        self.address = str(self._member.address(self._unit))

    @property
    def model(self) -> str:
        """The name of its model in the zoo."""
        return self._member.name

    @property
    def component(self) -> str | None:
        """Of a CLIP's MLP: the neuron that it is, such as "L9.N391"; else None."""
        return self._member.neuron(self._unit)

    def partners(
        self, model: str | None = None, k: int | None = None, *, mutual: bool = True
    ) -> Result:
        """Units of the other models that it matches, by model, nearest first (T4.3).

        Of `model` only, which may be its own; by default of all models that it was compared with,
        its own included. `k` is how many nearest units make best buddies, by default all that the
        zoo keeps. Columns `model`, `unit`, `component` (of a CLIP), `correlation`, `rank` (of this
        unit's nearest), `rank_back` (of the partner's nearest, None where this unit is none of
        them). With `mutual=False` also units that it is not among the nearest of. Raises
        `UnknownMember`, or `BadQuestion`.
        """
        zoo, own, k = self._zoo, self._member, self._zoo.k(k)
        found: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        for other in self._others(model):
            pair = zoo.pair(own.name, other.name)
            near, said = pair.index_first[self._unit, :k], pair.correlation_first[self._unit, :k]
            for rank, (unit, correlation) in enumerate(
                zip(near.tolist(), said.tolist(), strict=True), start=1
            ):
                if unit < 0 or not correlation > 0:
                    continue
                (places,) = np.nonzero(pair.index_second[unit, :k] == self._unit)
                if not len(places) and mutual:
                    continue
                found["model"].append(other.name)
                found["unit"].append(str(other.address(unit)))
                found["component"].append(other.neuron(unit))
                found["correlation"].append(correlation)
                found["rank"].append(rank)
                found["rank_back"].append(int(places[0]) + 1 if len(places) else None)
        if not any(found["component"]):
            del found["component"]
        found["correlation"] = np.array(found["correlation"], np.float32)  # type: ignore[assignment]
        note = None if found["unit"] else self._why_none(model, k)
        return Result.of(dict(found), note=note)

    def activity(self, images: int | Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Its maps on example pictures [n, h, w], less its mean and in standard deviations.

        Raises `MapsNotStored` or `BadQuestion`.
        """
        maps = self._zoo.maps(self._member, self._unit)
        if maps is None:
            msg = (
                f"zoo {self._zoo.name!r} keeps no maps of {self.address}, only of units that are "
                "in a match of all models; `lensbase rosetta matches` lists those."
            )
            raise MapsNotStored(msg)
        if images is None:
            return maps
        chosen = [images] if not isinstance(images, Sequence) else images
        return maps[[self._zoo.example(image) for image in chosen]]

    def info(self) -> Card:
        """A card: its module, grid, mean and standard deviation, and how many it matches."""
        zoo, member = self._zoo, self._member
        statistics = zoo.statistics(member)
        place = member.place(self._unit)
        height, width = member.grids[place]
        partners = self.partners()
        facts = {
            "model": member.name,
            "module": member.modules[place],
            "maps": f"{height} x {width}",
            "mean": f"{statistics.mean[self._unit]:.4g}",
            "std": f"{np.sqrt(statistics.variance[self._unit]):.4g}",
            "dead": "yes: it never varies" if statistics.dead[self._unit] else "no",
        }
        if self.component is not None:
            facts["component"] = self.component
        facts["partners"] = counted(len(partners), "unit")
        return Card(f"unit {self.address}", facts)

    def _others(self, model: str | None) -> list[ZooMember]:
        zoo, own = self._zoo, self._member
        if model is None:
            return [one for one in zoo.members.values() if zoo.has_pair(own.name, one.name)]
        other = zoo.member(model)
        if not zoo.has_pair(own.name, other.name):
            whom = "itself" if own is other else other.name
            among = [one.name for one in zoo.members.values() if zoo.has_pair(own.name, one.name)]
            msg = (
                f"zoo {zoo.name!r} has not compared {own.name} with {whom}; ask for its partners "
                f"in {', '.join(among)}."
            )
            raise BadQuestion(msg)
        return [other]

    def _why_none(self, model: str | None, k: int) -> str:
        if self._zoo.statistics(self._member).dead[self._unit]:
            return "this unit never varies over the pictures, so it matches none"
        whose = "any model" if model is None else model
        return f"no unit of {whose} and this one are among each other's {k} nearest"

    def __repr__(self) -> str:
        return f"unit {self.address} of zoo {self._zoo.name!r}"

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()  # pyright: ignore[reportPrivateUsage]


_COLUMNS = ("model", "unit", "component", "correlation", "rank", "rank_back")
