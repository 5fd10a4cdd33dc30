"""Mining a zoo into a store: pictures, pairs that are still to be mined, examples, publishing.

Doing it again with further models mines the pairs that these are in, and no others.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...schema.catalog import create_store
from ...schema.components import check_name
from ...schema.errors import BadQuestion, RunBusy
from ...schema.snapshot import open_snapshot
from ...schema.zoo_errors import BadMember, ZooMismatch
from ...schema.zoo_files import zoo_folder
from ..devices import choose_device
from ..sources import open_source
from .examples import choose_pictures, make_examples
from .mining import mine_units
from .mining_options import MiningOptions
from .pictures import Pictures, SampledPictures, keys_sha256, readable_pictures
from .publishing import Zoo, concept_units, matched_units, publish_zoo
from .sources import load_zoo
from .specs import parse_spec
from .units import GeneratorMember, Member
from .zoo_arrays import (
    forget_others,
    keep_examples,
    keep_pair,
    keep_statistics,
    kept_pair,
    kept_statistics,
)

if TYPE_CHECKING:
    from ...schema.layout import Layout

SAMPLES = 1600  # of a generator, as the thesis took (section 4.3)
_LIBRARIES = ("torch", "torchvision", "timm", "open_clip_torch", "numpy", "pillow")

Notice = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def mine_zoo(
    images: Any,
    store: Path,
    *,
    zoo: str,
    models: Sequence[str | Member],
    anchor: str | None = None,
    options: MiningOptions | None = None,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> None:
    """Find the units that models share over some pictures, and keep them in a store as a zoo.

    `images` is what `ingest` takes, or None where one of the models is a generator: its samples
    are the pictures then. `models` are specifications or loaded members; those of a zoo that is
    there already need not be named again. The `anchor` is the model that tuples and concepts go
    through: by default the generator, or the first model.

    Raises what `load_member`, `open_source` and `mine_units` raise, `BadMember`, `BadQuestion`,
    `ZooMismatch` where the zoo is of other pictures or settings, and `RunBusy`.
    """
    chosen = options or MiningOptions()
    say, tell = notice or _silent, progress or _still
    check_name(zoo, kind="zoo")
    layout = create_store(store)
    known = _known_models(layout, zoo)
    if not models and not known:
        msg = "a zoo needs models; name them with models=[...] (--model NAME=SOURCE:ARCHITECTURE)."
        raise BadMember(msg)
    with _alone(layout, zoo):
        members = load_zoo(_all_models(models, known), device=choose_device(chosen.device))
        anchor = _anchor(members, anchor, known)
        pictures = pictures_for(images, members, options=chosen, progress=tell)
        rejected = pictures.facts.get("rejected", 0)
        if rejected:
            say(f"{rejected:,} images cannot be read and are left out")
        job = _Job(layout, zoo, anchor, members, pictures, chosen)
        job.check_same()
        missing = job.missing_pairs()
        if missing:
            job.mine(missing, say, tell)
        job.publish(tell)


@dataclass(frozen=True)
class _Job:
    layout: Layout
    zoo: str
    anchor: str
    members: tuple[Member, ...]
    pictures: Pictures
    options: MiningOptions

    @property
    def record(self) -> Zoo:
        """What the catalogue says of the zoo."""
        facts = self.pictures.facts
        return Zoo(
            self.zoo,
            self.anchor,
            images=len(self.pictures),
            dataset=facts["root"],
            keys_sha256=keys_sha256(self.pictures.keys),
            neighbors=self.options.neighbors,
            settings={
                "pictures": facts,
                "batch_size": self.options.batch_size,
                "memory": self.options.memory,
                "examples": self.options.examples,
                "device": self.options.device,
            },
            versions={name: metadata.version(name) for name in _LIBRARIES},
        )

    def facts(self, *members: Member) -> dict[str, Any]:
        """All that the numbers of a model or a pair depend on, in JSON."""
        return {
            "pictures": _content(self.pictures.facts),
            "keys_sha256": keys_sha256(self.pictures.keys),
            "images": len(self.pictures),
            "neighbors": self.options.neighbors,
            "models": [_identity(member) for member in sorted(members, key=lambda one: one.name)],
        }

    def check_same(self) -> None:
        """Raise `ZooMismatch` before any work where the zoo was mined with something else."""
        snapshot = open_snapshot(self.layout.root)
        try:
            found = snapshot.rows("SELECT * FROM rosetta_run WHERE name = ?", [self.zoo])
        finally:
            snapshot.connection.close()
        own = _shown(dataclasses.asdict(self.record), self.pictures.facts)
        for row in found:
            theirs = _shown(row, json.loads(row["settings"])["pictures"])
            differing = [name for name in own if own[name] != theirs.get(name)]
            if differing:
                msg = (
                    f"zoo {self.zoo!r} was mined on {row['images']:,} pictures of "
                    f"{row['dataset']} with {row['neighbors']} neighbors, not on these "
                    f"{len(self.pictures):,} with {self.options.neighbors}, which differ in "
                    f"{', '.join(differing)}: give the same ones, another --zoo, or "
                    "`lensbase rosetta drop` it first."
                )
                raise ZooMismatch(msg)
        forget_others(
            self.layout,
            self.zoo,
            models={member.name: self.facts(member) for member in self.members},
            pairs=self.every_pair(),
        )

    def every_pair(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All pairs of models, each with itself included, and what their numbers depend on."""
        return {
            (one.name, other.name): self.facts(*{one.name: one, other.name: other}.values())
            for one, other in combinations_with_replacement(self.members, 2)
        }

    def missing_pairs(self) -> list[tuple[str, str]]:
        """Pairs of the zoo that are not kept yet: all of its models, and the anchor with itself."""
        missing = [
            names
            for names, facts in self.every_pair().items()
            if (names[0] != names[1] or names[0] == self.anchor)
            and kept_pair(self.layout, self.zoo, names, facts=facts) is None
        ]
        for member in self.members:
            # Statistics come with any pair, but may have been lost alone.
            facts = self.facts(member)
            if kept_statistics(self.layout, self.zoo, member.name, facts=facts) is None and not any(
                member.name in pair for pair in missing
            ):
                missing.append((self.anchor, member.name))
        return list(dict.fromkeys(missing))

    def mine(self, pairs: Sequence[tuple[str, str]], say: Notice, tell: Progress) -> None:
        """Mine pairs and keep them; an interrupted run goes on from its state."""
        folder = self.layout.zoo_state(zoo_folder(self.layout, self.zoo))
        folder.mkdir(parents=True, exist_ok=True)
        named = {member.name: member for member in self.members}
        used = [member for member in self.members if any(member.name in pair for pair in pairs)]
        settings = self.facts(*used)
        found = mine_units(
            self.members,
            self.pictures,
            pairs=pairs,
            memory=self.options.memory,
            neighbors=self.options.neighbors,
            state=folder
            / f"{_short_hash([settings, list(pairs), self.options.batch_size])}.safetensors",
            settings=settings,
            notice=say,
            progress=lambda done, total: tell("mining", done, total),
        )
        for name, statistics in found.statistics.items():
            facts = self.facts(named[name])
            keep_statistics(self.layout, self.zoo, name, statistics=statistics, facts=facts)
        for pair in found.pairs:
            both = {name: named[name] for name in (pair.first, pair.second)}
            keep_pair(self.layout, self.zoo, pair, facts=self.facts(*both.values()))
        shutil.rmtree(folder, ignore_errors=True)

    def publish(self, tell: Progress) -> None:
        """Keep examples of what was found, and publish the zoo."""
        record, label = self.record, None
        if self.options.examples:
            units = matched_units(self.layout, record, members=self.members)
            anchor = next(one for one in self.members if one.name == self.anchor)
            chosen = choose_pictures(
                self.pictures,
                anchor,
                concept_units(self.layout, record, members=self.members),
                count=self.options.examples,
                progress=lambda done, total: tell("examples", done, total),
            )
            statistics: dict[str, Any] = {
                member.name: kept_statistics(
                    self.layout, self.zoo, member.name, facts=self.facts(member)
                )
                for member in self.members
            }
            examples = make_examples(
                self.pictures, self.members, chosen=chosen, units=units, statistics=statistics
            )
            label = keep_examples(self.layout, self.zoo, examples)
        publish_zoo(self.layout, record, members=self.members, label=label)


def _silent(text: str) -> None:
    """Tell nobody what was noticed."""


def _still(stage: str, done: int, total: int) -> None:
    """Tell nobody how far a mining is."""


def _identity(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "weights_sha256": member.weights_sha256,
        "modules": [[one.name, one.channels, *one.grid] for one in member.modules],
        "preprocessing": member.preprocessing,
        "input_size": member.input_size,
    }


def _content(pictures: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of pictures less where they lie, which is not what they are."""
    if pictures["kind"] == "samples":
        return dict(pictures)
    return {"rejected": pictures["rejected"], "content": pictures["sha256"]}


def _shown(record: Mapping[str, Any], pictures: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same whenever a model joins a zoo, by names for a message; in JSON."""
    facts = {"number": record["images"], "names": record["keys_sha256"]}
    facts |= {"neighbors": record["neighbors"]} | _content(pictures)
    return json.loads(json.dumps(facts))


def _short_hash(value: Any) -> str:
    return keys_sha256([json.dumps(value, sort_keys=True)])[:16]


def _known_models(layout: Layout, zoo: str) -> list[dict[str, Any]]:
    """Rows of the models that a published zoo has, in order, with the zoo's anchor."""
    snapshot = open_snapshot(layout.root)
    try:
        return snapshot.rows(
            """SELECT m.name, m.source, m.spec, z.anchor FROM rosetta_model m
               JOIN rosetta_run z USING (rosetta_id) WHERE z.name = ? ORDER BY m.position""",
            [zoo],
        )
    finally:
        snapshot.connection.close()


def _all_models(
    models: Sequence[str | Member], known: Sequence[Mapping[str, Any]]
) -> list[str | Member]:
    """The zoo's models as given, or as it recorded them, then the new ones."""
    given = {parse_spec(one).name if isinstance(one, str) else one.name: one for one in models}
    if len(given) < len(models):
        return list(models)  # `load_zoo` says which name is there twice
    lost = [row["name"] for row in known if row["source"] == "module" and row["name"] not in given]
    if lost:
        msg = (
            f"{', '.join(lost)} of this zoo came as a module from Python, which no specification "
            "brings back: pass it again with models=[...]."
        )
        raise BadMember(msg)
    earlier: dict[str, str | Member] = {str(row["name"]): str(row["spec"]) for row in known}
    return list((earlier | given).values())


def _anchor(
    members: Sequence[Member], asked: str | None, known: Sequence[Mapping[str, Any]]
) -> str:
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
    own = known[0]["anchor"] if known else None
    return asked or own or (generators[0] if generators else names[0])


def pictures_for(
    images: Any,
    members: Sequence[Member],
    *,
    options: MiningOptions,
    progress: Progress | None = None,
) -> Pictures:
    """The pictures to show members: a source's, or samples where one of them is a generator.

    Raises `BadQuestion` where there are neither or both, and what `open_source` raises.
    """
    tell = progress or _still
    generator = next((one for one in members if one.kind == "generator"), None)
    if images is None:
        if not isinstance(generator, GeneratorMember):
            msg = (
                "no pictures: name a source of images, or a generator among the models, whose "
                "samples they are then."
            )
            raise BadQuestion(msg)
        return SampledPictures(
            generator, options.samples or SAMPLES, options.seed, options.batch_size
        )
    if generator is not None:
        msg = (
            f"{generator.name} is a generator: its units respond to latents, not to pictures. "
            "Leave out the images, so that its samples are taken, or leave out the generator."
        )
        raise BadQuestion(msg)
    if options.samples is not None:
        msg = "samples (--samples) are a generator's; of images, take some with --limit."
        raise BadQuestion(msg)
    source = open_source(images, limit=options.limit, where=options.where)
    return readable_pictures(
        source,
        batch_size=options.batch_size,
        progress=lambda done, total: tell("reading", done, total),
    )


@contextmanager
def _alone(layout: Layout, zoo: str) -> Generator[None]:
    """Keep others from mining the same zoo; raises `RunBusy`."""
    from filelock import FileLock, Timeout

    path = layout.publish_lock.with_name(f"rosetta-{zoo}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout as error:
        msg = f"zoo {zoo!r} is being mined by another process; wait for it, or end it first."
        raise RunBusy(msg) from error
