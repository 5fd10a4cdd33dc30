"""What a store's catalogue says of a zoo that was mined before, and which models that makes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...schema.snapshot import open_snapshot
from ...schema.zoo_errors import BadMember
from ...schema.zoo_files import manifest_of
from .specs import parse_spec

if TYPE_CHECKING:
    from ...schema.layout import Layout
    from .units import Member
    from .zoo_records import Zoo


@dataclass(frozen=True)
class Recorded:
    """The row of a published zoo, and those of its models in order."""

    zoo: dict[str, Any]
    models: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """What it was mined with."""
        return json.loads(self.zoo["settings"])

    def is_of(self, members: Sequence[Member]) -> bool:
        """Whether its models are these, in this order, by all that their numbers depend on."""
        return [_weighed(row) for row in self.models] == [
            _weighed(model_facts(member)) for member in members
        ]

    def says(self, record: Zoo, members: Sequence[Member]) -> bool:
        """Whether publishing the zoo again would say nothing new of its pictures and models."""
        names = ("name", "spec", "source", "kind")
        specs = [[row[name] for name in names] for row in self.models]
        return (
            self.is_of(members)
            and specs == [[getattr(one, name) for name in names] for one in members]
            and (self.zoo["anchor"], self.zoo["dataset"]) == (record.anchor, record.dataset)
            and self.settings["pictures"] == json.loads(json.dumps(record.settings["pictures"]))
        )

    def examples(self, layout: Layout, record: Zoo, members: Sequence[Member]) -> int | None:
        """The label of its example pictures where they would be chosen and shown again."""
        label = self.zoo["label"]
        same = (
            label is not None
            and self.is_of(members)
            and self.zoo["anchor"] == record.anchor
            and self.settings.get("examples") == record.settings["examples"]
            and manifest_of(layout.zoo_examples(self.zoo["folder"], label)).exists()
        )
        return label if same else None


def recorded_zoo(layout: Layout, name: str) -> Recorded | None:
    """What the published generation says of a zoo; None where there is none, or no store."""
    if not layout.current.exists():
        return None
    snapshot = open_snapshot(layout.root)
    try:
        found = snapshot.rows("SELECT * FROM rosetta_run WHERE name = ?", [name])
        if not found:
            return None
        models = snapshot.rows(
            "SELECT * FROM rosetta_model WHERE rosetta_id = ? ORDER BY position",
            [found[0]["rosetta_id"]],
        )
    finally:
        snapshot.connection.close()
    return Recorded(found[0], models)


def model_facts(member: Member) -> dict[str, Any]:
    """What the numbers of a model depend on, in JSON."""
    return {
        "name": member.name,
        "weights_sha256": member.weights_sha256,
        "modules": [[one.name, one.channels, *one.grid] for one in member.modules],
        "preprocessing": member.preprocessing,
        "input_size": member.input_size,
    }


def all_models(models: Sequence[str | Member], known: Recorded | None) -> list[str | Member]:
    """The zoo's models as given, or as it recorded them, then the new ones.

    Raises `BadMember` for none, or where one is a module that has to be given again.
    """
    rows = known.models if known else []
    if not models and not rows:
        msg = "a zoo needs models; name them with models=[...] (--model NAME=SOURCE:ARCHITECTURE)."
        raise BadMember(msg)
    given = {parse_spec(one).name if isinstance(one, str) else one.name: one for one in models}
    if len(given) < len(models):
        return list(models)  # `load_zoo` says which name is there twice
    lost = [row["name"] for row in rows if row["source"] == "module" and row["name"] not in given]
    if lost:
        msg = (
            f"{', '.join(lost)} of this zoo came as a module from Python, which no specification "
            "brings back: pass it again with models=[...]."
        )
        raise BadMember(msg)
    earlier: dict[str, str | Member] = {str(row["name"]): str(row["spec"]) for row in rows}
    return list((earlier | given).values())


def chosen_anchor(members: Sequence[Member], asked: str | None, known: Recorded | None) -> str:
    """The model that tuples go through: as asked, as before, the generator, or the first.

    Raises `BadMember` where it is none of them, where they are too few, or have two generators.
    """
    names = [member.name for member in members]
    generators = [member.name for member in members if member.kind == "generator"]
    if len(generators) > 1:
        msg = (
            f"{', '.join(generators)} are all generators, and two generators never make the same "
            "picture; a zoo has one at most."
        )
        raise BadMember(msg)
    if asked is not None and asked not in names:
        msg = f"the anchor {asked!r} is none of the zoo's models: {', '.join(names)}."
        raise BadMember(msg)
    if len(members) < 2:
        msg = f"{names[0]} is alone; units are matched between two models or more."
        raise BadMember(msg)
    own = known.zoo["anchor"] if known else None
    return asked or own or (generators[0] if generators else names[0])


def _weighed(facts: Mapping[str, Any]) -> list[Any]:
    """Facts of a model as it is, or of its row, where lists are texts of JSON."""
    found: list[Any] = [facts[name] for name in ("name", "weights_sha256", "input_size")]
    for name in ("modules", "preprocessing"):
        value = facts[name]
        found.append(json.loads(value if isinstance(value, str) else json.dumps(value)))
    return found
