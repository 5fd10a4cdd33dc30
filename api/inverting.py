"""Inversion and editing with a zoo's generator, guided by the matches in the store (thesis 4.4)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..queries.rosetta_tuples import correlated
from ..schema.errors import BadQuestion, CheckpointMismatch
from ..schema.stages import Progress, stage
from ..schema.zoo_errors import BadLatent, NoGenerator, NoMatches
from ..schema.zoo_files import as_json
from .inverted import Inverted
from .open_zoo import OpenZoo, ZooMember, check_correlation

if TYPE_CHECKING:
    from ..ingest.rosetta.inversion import Pairs
    from ..schema.zoo_files import KeptStatistics

Models = str | Sequence[str] | None
Addresses = list[tuple[str, str]]

_LOG = logging.getLogger(__name__)


class RosettaInversions:
    """What a zoo with a generator can do beside answering: invert, visualize and edit.

    These calls load the zoo's models again, as they were mined, and need `lensbase[ingest]`.
    """

    _zoo: OpenZoo
    _loaded: dict[tuple[str, str], Any] | None = None

    def invert(
        self,
        image: Any,
        models: Models = None,
        *,
        min_correlation: float | None = None,
        neighbors: int | None = None,
        members: Mapping[str, Any] | None = None,
        device: str = "auto",
        progress: Progress = None,
        **settings: Any,
    ) -> Inverted:
        """Find latents of the generator whose pictures match images in the matched units' maps.

        `image` is a file, a PIL image, pixels ([n, S, S, 3] in uint8, or [n, 3, S, S] in [0, 1]),
        the number of an example picture of the zoo, or a list of files or PIL images. The pairs
        are the generator's best buddies with each of `models` (by default all that it was mined
        with); of several, those of its units that have one in every model (T4.4);
        `min_correlation` and `neighbors` choose among them as for `matches`. `settings` are those
        of `lensbase.ingest.rosetta.inversion`'s `invert`: `loss` ("pixel", "l1", "lpips",
        "perceptual" or a function; None for guidance alone, which also takes images unlike the
        generator's), `reader` (the model whose maps a perceptual loss compares: a name, by default
        the first), `alpha` (0.1), `regularizer` ("l2", "l1"), `beta` (1), `steps` (500), `rate`
        (0.1), `start` (a seed or latents), `starts` (1), `keep_every` and `batch_size`. beta=0 with
        a loss goes without guidance, for which no matches are needed.

        `members` gives models that no specification can load, by name. `progress` is told steps
        done and in all; by default a bar is shown on a terminal and in notebooks, False shows none.
        Raises `NoGenerator`, `NoMatches`, `UnknownMember`, `CheckpointMismatch` where a model has
        other weights, modules or preprocessing than were mined, and what `invert` and the loading
        of models raise.
        """
        from ..ingest.rosetta.inversion import invert

        load = self._loader(members, device)
        pairs, addresses = list[Any](), Addresses()
        alone = settings.get("beta") == 0 and settings.get("loss") is not None
        check_correlation(min_correlation)
        if alone and models is not None:
            self._zoo.named(models)
        elif not alone:
            pairs, addresses = self._guidance(
                models, min_correlation=min_correlation, neighbors=neighbors, load=load
            )
        names = [one.member.name for one in pairs]
        reader = settings.get("reader")
        if isinstance(reader, str) or (
            reader is None and alone and settings["loss"] == "perceptual"
        ):
            settings["reader"] = load(self._matched(reader or models)[0])
        target = self._target(image)
        what = f"inverting into {self._generator.name}"
        with stage(_LOG, what, unit="step", progress=progress) as work:
            found = invert(
                load(self._generator),
                target,
                pairs=pairs,
                statistics=self._statistics([self._generator.name, *names]),
                progress=work.tell,
                **settings,
            )
        title = f"inversion into {self._generator.name}"
        return Inverted(found, title=title, target_title="target", pairs=addresses)

    def visualize(
        self,
        unit: str,
        image: Any,
        *,
        partner: str | None = None,
        starts: int = 4,
        members: Mapping[str, Any] | None = None,
        device: str = "auto",
        progress: Progress = None,
        **settings: Any,
    ) -> Inverted:
        """What a unit stands for: pictures from random starts that match its map on an image.

        `unit` is the address of a unit of the generator or of a model that matches one, `partner`
        that of the other side, by default its best match. `image` and the rest as for `invert`,
        of a single pair. Raises `NoMatches` where the unit has none, and as `invert` does.
        """
        from ..ingest.rosetta.inversion import Pairs, visualize

        load = self._loader(members, device)
        ours, member, theirs = self._pair(unit, partner)
        pair = Pairs(load(member), [ours], [theirs])
        target = self._target(image)
        what = f"visualizing {unit}"
        with stage(_LOG, what, unit="step", progress=progress) as work:
            found = visualize(
                load(self._generator),
                target,
                pair=pair,
                statistics=self._statistics([self._generator.name, member.name]),
                starts=starts,
                progress=work.tell,
                **settings,
            )
        addresses = [(str(self._generator.address(ours)), str(member.address(theirs)))]
        title = f"what {' and '.join(addresses[0])} stand for"
        return Inverted(found, title=title, target_title="target", pairs=addresses)

    def edit(
        self,
        latent: Any,
        change: Any,
        *,
        models: Models = None,
        only: Sequence[str] | None = None,
        min_correlation: float | None = None,
        neighbors: int | None = None,
        members: Mapping[str, Any] | None = None,
        device: str = "auto",
        progress: Progress = None,
        settings: Mapping[str, Any] | None = None,
        **amounts: Any,
    ) -> Inverted:
        """Edit a generated picture through the maps of matched units, without touching its pixels.

        `latent` is a latent ([*latent] or [n, *latent]), such as an inversion's, or a seed of which
        one is drawn. `change` is "zoom" (`factor`, 2), "shift" (`right`, `down`: shares of the
        picture), "copy-paste" (`by`, 0.25; `vertical`), "lower" or "raise", and `amounts` go with
        it. `only` are addresses of the generator's units to edit and match, by default all that
        are matched. `settings` are those of `lensbase.ingest.rosetta.editing`'s `edit`, such as
        `{"steps": 200, "alpha": 0.05, "maps_from": "model"}`. The rest as for `invert`.
        Raises `UnknownEdit` or `BadEdit`, and as `invert` does.
        """
        from ..ingest.rosetta.editing import edit

        load = self._loader(members, device)
        pairs, addresses = self._guidance(
            models, min_correlation=min_correlation, neighbors=neighbors, load=load
        )
        chosen = None if only is None else [self._own_unit(one) for one in only]
        if only is not None:
            addresses = [pair for pair in addresses if pair[0] in only]
        generator = load(self._generator)
        if isinstance(latent, int | np.integer) and not isinstance(latent, bool):
            start = generator.sample(1, int(latent))
        else:
            start = _numbers(latent)
        names = [self._generator.name, *(one.member.name for one in pairs)]
        what = f"editing by {change}"
        with stage(_LOG, what, unit="step", progress=progress) as work:
            found = edit(
                generator,
                start,
                change,
                pairs=pairs,
                statistics=self._statistics(names),
                amounts=amounts,
                only=chosen,
                progress=work.tell,
                **(settings or {}),
            )
        title = f"{change} in {self._generator.name}"
        return Inverted(found, title=title, target_title="before", pairs=addresses)

    # What the calls share

    @property
    def _generator(self) -> ZooMember:
        for member in self._zoo.members.values():
            if self._recorded(member)["kind"] == "generator":
                return member
        msg = (
            f"zoo {self._zoo.name!r} has no generator, so it cannot make pictures; "
            "`lensbase rosetta mine` with a model such as g=world:generator adds one to a zoo."
        )
        raise NoGenerator(msg)

    def _recorded(self, member: ZooMember) -> dict[str, Any]:
        (row,) = self._zoo.console.query(
            """SELECT kind, spec, weights_sha256, modules, preprocessing FROM rosetta_model
               WHERE rosetta_id = ? AND name = ?""",
            [self._zoo.row["rosetta_id"], member.name],
        ).to_pylist()
        return row

    def _statistics(self, names: Sequence[str]) -> dict[str, KeptStatistics]:
        return {name: self._zoo.statistics(self._zoo.member(name)) for name in names}

    def _matched(self, models: Models) -> list[ZooMember]:
        """The discriminative models that the generator's units are to be matched with."""
        generator = self._generator
        if models is None:
            found = [
                one
                for one in self._zoo.members.values()
                if one is not generator and self._zoo.has_pair(generator.name, one.name)
            ]
        else:
            found = self._zoo.named(models)
        for one in found:
            if one is generator or not self._zoo.has_pair(generator.name, one.name):
                msg = f"{one.name} was not matched with the generator {generator.name}."
                raise NoMatches(msg)
        if not found:
            msg = f"the generator {generator.name} was matched with no model."
            raise NoMatches(msg)
        return found

    def _guidance(
        self,
        models: Models,
        *,
        min_correlation: float | None,
        neighbors: int | None,
        load: Callable[[ZooMember], Any],
    ) -> tuple[list[Pairs], Addresses]:
        """Pairs with each model, of generator units with a match in all; and their addresses."""
        from ..ingest.rosetta.inversion import Pairs

        check_correlation(min_correlation)
        generator, matched = self._generator, self._matched(models)
        k = self._zoo.k(neighbors)
        found = [self._zoo.buddies(generator.name, one.name, k=k) for one in matched]
        found = correlated(found, min_correlation)
        shared: npt.NDArray[np.int64] = reduce(np.intersect1d, [one.first for one in found])
        if not len(shared):
            msg = (
                f"no unit of {generator.name} matches one in each of "
                f"{', '.join(one.name for one in matched)}; fewer models=, or a lower "
                "min_correlation=, may have matches."
            )
            raise NoMatches(msg)
        found = [one.where(np.isin(one.first, shared)) for one in found]
        addresses: Addresses = []
        for member, pairs in zip(matched, found, strict=True):
            ours, theirs = generator.addresses(pairs.first), member.addresses(pairs.second)
            addresses += list(zip(ours, theirs, strict=True))
        made = [
            Pairs(load(member), pairs.first, pairs.second)
            for member, pairs in zip(matched, found, strict=True)
        ]
        return made, addresses

    def _own_unit(self, address: str) -> int:
        """The number of a unit of the generator."""
        member, unit = self._zoo.unit(address)
        if member is not self._generator:
            msg = f"{address} is a unit of {member.name}; name units of {self._generator.name}."
            raise BadQuestion(msg)
        return unit

    def _pair(self, unit: str, partner: str | None) -> tuple[int, ZooMember, int]:
        """A pair of units: the generator's, the other model, and its unit."""
        generator = self._generator
        member, number = self._zoo.unit(unit)
        if partner is not None:
            other, theirs = self._zoo.unit(partner)
            if member is not generator:
                member, number, other, theirs = other, theirs, member, number
            if member is not generator or other is generator:
                msg = f"of {unit} and {partner}, one must be a unit of {generator.name}."
                raise BadQuestion(msg)
            return number, other, theirs
        best: tuple[float, int, ZooMember, int] | None = None
        for other in self._matched(None if member is generator else member.name):
            pairs = self._zoo.buddies(generator.name, other.name, k=self._zoo.neighbors)
            sides = (pairs.first, pairs.second)
            here = sides[0] if member is generator else sides[1]
            for place in np.flatnonzero(here == number):
                said = float(pairs.correlation[place])
                if best is None or said > best[0]:
                    best = (said, int(sides[0][place]), other, int(sides[1][place]))
        if best is None:
            msg = (
                f"{unit} matches no unit on the other side; `unit({unit!r}).partners()` says more."
            )
            raise NoMatches(msg)
        return best[1:]

    def _target(self, image: Any) -> Any:
        """PIL images or pixels of what was given."""
        if isinstance(image, np.ndarray) or hasattr(image, "new_tensor"):
            return image  # torch's tensors are told without loading torch
        from PIL import Image

        if isinstance(image, int | np.integer) and not isinstance(image, bool):
            return Image.fromarray(np.asarray(self._zoo.pictures[self._zoo.example(int(image))]))
        from ..ingest.images import opened

        given = list(image) if isinstance(image, list | tuple) else [image]
        return [opened(one) for one in given]

    def _loader(self, members: Mapping[str, Any] | None, device: str) -> Callable[[ZooMember], Any]:
        """Loads models as they were recorded, each once; `members` are taken as they are."""
        from ..ingest.devices import choose_device
        from ..ingest.rosetta.sources import load_member

        where = choose_device(device)
        if self._loaded is None:
            self._loaded = {}
        loaded = self._loaded

        def load(member: ZooMember) -> Any:
            recorded = self._recorded(member)
            if members is not None and member.name in members:
                found = members[member.name]
            else:
                if (member.name, where) not in loaded:
                    loaded[member.name, where] = load_member(recorded["spec"], device=where)
                found = loaded[member.name, where]
            if found.weights_sha256 != recorded["weights_sha256"]:
                msg = (
                    f"{recorded['spec']} has other weights than when zoo {self._zoo.name!r} was "
                    "mined; load those, or mine a new zoo with these."
                )
                raise CheckpointMismatch(msg)
            modules = [[one.name, one.channels, *one.grid] for one in found.modules]
            asked = as_json([modules, found.preprocessing])
            if asked != [json.loads(recorded[name]) for name in ("modules", "preprocessing")]:
                msg = (
                    f"{member.name} has other hooked modules, or is shown pictures otherwise, than "
                    f"when zoo {self._zoo.name!r} was mined with {recorded['spec']}; load it like "
                    "that, or mine a new zoo."
                )
                raise CheckpointMismatch(msg)
            return found

        return load


def _numbers(latent: Any) -> npt.NDArray[np.float32]:
    try:
        return np.asarray(latent, np.float32)
    except (TypeError, ValueError) as error:
        msg = f"{latent!r} is no latent; pass numbers, such as an inversion's `latent`, or a seed."
        raise BadLatent(msg) from error
