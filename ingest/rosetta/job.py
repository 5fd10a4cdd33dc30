"""Mining a zoo into a store: pictures, pairs that are still to be mined, examples, publishing.

Doing it again with further models mines the pairs that these are in, and no others.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

from ...schema.catalog import check_place, create_store
from ...schema.components import check_name
from ...schema.errors import BadQuestion
from ...schema.layout import Layout
from ...schema.zoo_errors import ZooMismatch
from ...schema.zoo_files import zoo_folder
from ...schema.zoos import mining_alone
from ..devices import choose_device
from ..sources import open_source
from .examples import choose_pictures, make_examples
from .mining import mine_units
from .mining_options import MiningOptions
from .mining_plan import plan_mining
from .pictures import (
    Pictures,
    SampledPictures,
    SourcePictures,
    keys_sha256,
    readable_pictures,
)
from .publishing import Zoo, concept_units, matched_units, publish_zoo
from .recorded import Recorded, all_models, chosen_anchor, model_facts, recorded_zoo
from .sources import load_zoo
from .units import GeneratorMember, Member
from .zoo_arrays import (
    forget_others,
    keep_examples,
    keep_pair,
    keep_statistics,
    kept_pair,
    kept_statistics,
)

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
    through: by default the generator, or the first model. Where the store has all of this
    already, nothing is published.

    Raises what `load_member`, `open_source` and `mine_units` raise, `BadMember`, `BadQuestion`,
    `ZooMismatch` where the zoo is of other pictures or settings, and `RunBusy`.
    """
    chosen = options or MiningOptions()
    say, tell = notice or _silent, progress or _still
    check_name(zoo, kind="zoo")
    layout = Layout(store)
    check_place(layout)

    def job_of(known: Recorded | None) -> _Job:
        every = all_models(models, known)
        members = load_zoo(every, device=choose_device(chosen.device))
        through = chosen_anchor(members, anchor, known)
        pictures = pictures_for(images, members, options=chosen, progress=tell)
        return _Job(layout, zoo, through, members, pictures, chosen, known)

    job = None
    if not layout.current.exists():
        # Of what cannot be mined, nothing is left behind where there was no store.
        job = job_of(None)
        job.check_memory()
    create_store(store)
    with mining_alone(layout, zoo):
        known = recorded_zoo(layout, zoo)
        if job is None or known is not None:
            job = job_of(known)
        if isinstance(job.pictures, SourcePictures) and (left_out := job.pictures.left_out()):
            say(left_out)
        job.check_same()
        missing = job.missing_pairs()
        if missing:
            job.mine(missing, say, tell)
        elif job.is_published():
            say(f"zoo {zoo!r} has all of this already: nothing was mined")
            return
        job.publish(tell, anew=bool(missing))


@dataclass(frozen=True)
class _Job:
    layout: Layout
    zoo: str
    anchor: str
    members: tuple[Member, ...]
    pictures: Pictures
    options: MiningOptions
    known: Recorded | None

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
            "models": [model_facts(member) for member in sorted(members, key=lambda one: one.name)],
        }

    def check_same(self) -> None:
        """Raise `ZooMismatch` before any work where the zoo was mined with something else."""
        if self.known is not None:
            row = self.known.zoo
            own = _shown(dataclasses.asdict(self.record), self.pictures.facts)
            theirs = _shown(row, self.known.settings.get("pictures", {}))
            differing = [name for name in own if own[name] != theirs.get(name)]
            if differing == ["content"] and theirs["content"] is None:
                msg = (
                    f"zoo {self.zoo!r} was mined by a version of lensbase that did not keep what "
                    "its pictures hold, so that nothing says whether these are the same: mine it "
                    "anew under another --zoo, or `lensbase rosetta drop` it first."
                )
                raise ZooMismatch(msg)
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

    def check_memory(self) -> None:
        """Raise `MemoryTooSmall` where a zoo of all these models could not be mined."""
        plan_mining(
            {member.name: member.modules for member in self.members},
            pairs=[pair for pair in self.every_pair() if self._is_needed(pair)],
            neighbors=self.options.neighbors,
            memory=self.options.memory,
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
            if self._is_needed(names)
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

    def _is_needed(self, names: tuple[str, str]) -> bool:
        return names[0] != names[1] or names[0] == self.anchor

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

    def is_published(self) -> bool:
        """Whether the published generation has all that this would keep, examples included."""
        if self.known is None or not self.known.says(self.record, self.members):
            return False
        if not self.options.examples:
            return self.known.zoo["label"] is None
        return self.known.examples(self.layout, self.record, self.members) is not None

    def publish(self, tell: Progress, *, anew: bool) -> None:
        """Keep examples of what was found, and publish the zoo.

        Unless `anew`, its pairs are those of before, and the examples too where these fit.
        """
        record, label = self.record, None
        if self.known is not None and not anew and self.options.examples:
            label = self.known.examples(self.layout, record, self.members)
        if self.options.examples and label is None:
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


def _content(pictures: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of pictures less where they lie, which is not what they are."""
    if pictures.get("kind") == "samples":
        return dict(pictures)
    # Zoos that were mined before content was hashed lack it.
    return {"rejected": pictures.get("rejected"), "content": pictures.get("sha256")}


def _shown(record: Mapping[str, Any], pictures: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same whenever a model joins a zoo, by names for a message; in JSON."""
    facts = {"number": record["images"], "names": record["keys_sha256"]}
    facts |= {"neighbors": record["neighbors"]} | _content(pictures)
    return json.loads(json.dumps(facts))


def _short_hash(value: Any) -> str:
    return keys_sha256([json.dumps(value, sort_keys=True)])[:16]


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
