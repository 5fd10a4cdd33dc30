"""Semantic adversarial examples: images of one class that a model takes for another (section 3.5).

Words that pull a model from one class toward another (`spurious_texts`) go into image descriptions
that show the first class and never name the second; a text-to-image model paints them; the run's
model classifies the images. Nothing is optimised. How often it is fooled, compared with other
lists of words, says how much the words tell of the model (Table 3.3).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from ..schema.components import slug
from ..schema.durable import read_json, write_json
from ..schema.errors import BadDescriptions, BadQuestion
from .chat import ChatEndpoint
from .classifier import Templates
from .descriptions import (
    Describer,
    Descriptions,
    check_classes,
    checked_words,
    listed,
    prompt,
    usable,
)
from .fooling import Fooled, Judge, judge, score
from .open_run import OpenRun
from .painting import Painted, Painter, generate
from .printing import counted
from .result import Result
from .whole_numbers import whole

__all__ = [
    "Adversarial",
    "Describer",
    "Experiment",
    "Painter",
    "adversarial",
    "chat_describer",
    "describe",
    "generate",
    "prompt",
    "score",
]

Words: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]]
"""Words that pull toward the other class, or named lists of them to compare."""

DESCRIPTIONS = "descriptions.json"

_ASKED = 50
_ONLY = "words"


@dataclass(frozen=True, eq=False)
class Experiment:
    """One repetition with one list of words: descriptions, images, and what the model made of it.

    `chosen` are the descriptions that were painted, out of those that `described` kept.
    """

    name: str
    repeat: int
    words: list[str]
    described: Descriptions
    chosen: list[str]
    painted: Painted
    found: Fooled


@dataclass(frozen=True, eq=False, repr=False)
class Adversarial:
    """How many painted images of one class a model takes for another, by list of words."""

    shown: str
    mistaken_for: str
    experiments: list[Experiment]

    @property
    def table(self) -> Result:
        """A row for each list of words, as in Table 3.3.

        Columns `words` (the list's name), `repeats`; over these the means of `images` and of
        `fooled`, and `std`, the population standard deviation of `fooled`; the `share` fooled of
        all images.
        """
        names = list(dict.fromkeys(one.name for one in self.experiments))
        by_name = [[one.found for one in self.experiments if one.name == name] for name in names]
        images = [np.array([found.images for found in group]) for group in by_name]
        fooled = [np.array([found.fooled for found in group]) for group in by_name]
        columns = {
            "words": names,
            "repeats": [len(group) for group in by_name],
            "images": [float(counts.mean()) for counts in images],
            "fooled": [float(counts.mean()) for counts in fooled],
            "std": [float(counts.std()) for counts in fooled],
            "share": [float(f.sum() / i.sum()) for f, i in zip(fooled, images, strict=True)],
        }
        return Result.of(columns, note=f"{self.shown} taken for {self.mistaken_for}")

    @property
    def images(self) -> Result:
        """A row for each image: `words`, `repeat`, `path` and the columns of `Fooled.rows`."""
        columns: dict[str, list[Any]] = {name: [] for name in ("words", "repeat", "path")}
        columns |= {name: [] for name in self.experiments[0].found.rows.columns}
        for one in self.experiments:
            for row in one.found.rows:
                path = one.painted.manifest.parent / row["key"]
                whose = {"words": one.name, "repeat": one.repeat, "path": str(path)}
                for name, value in (whose | row).items():
                    columns[name].append(value)
        return Result.of(columns)

    def __str__(self) -> str:
        lines = [f"{self.shown} taken for {self.mistaken_for}"]
        rows = self.table.rows()
        width = max(len(row["words"]) for row in rows)
        for row in rows:
            counts = f"{row['fooled']:.1f} (±{row['std']:.1f}) of {row['images']:.1f} images"
            lines.append(f"  {row['words'].ljust(width)}  {counts}, {row['share']:.1%}")
        repeats = counted(max(row["repeats"] for row in rows), "repetition")
        left_out = sum(one.described.mentioning + one.described.lacking for one in self.experiments)
        lines.append(f"  {repeats}; {counted(left_out, 'description')} left out")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table._repr_html_()  # pyright: ignore[reportPrivateUsage]


def describe(
    prompt: str,
    *,
    shown: str,
    mistaken_for: str,
    endpoint: ChatEndpoint | None = None,
    forbidden: Sequence[str] = (),
) -> Descriptions:
    """Send a prompt to a language model and keep the descriptions that can be used.

    By default to the endpoint that LENSBASE_CHAT_URL, LENSBASE_CHAT_MODEL and LENSBASE_CHAT_KEY
    name. Descriptions that name the other class (or a word of `forbidden`) or lack the one to be
    shown are left out and counted. Raises `ChatNotConfigured`, `ChatFailed`, `BadDescriptions`
    for an answer without a list, or `BadQuestion`.
    """
    check_classes(shown, mistaken_for)
    answer = (endpoint or ChatEndpoint.from_environment()).ask(prompt)
    found = listed(answer.text, cut=answer.cut)
    return usable(found, shown, mistaken_for, forbidden=forbidden)


def chat_describer(endpoint: ChatEndpoint | None = None) -> Describer:
    """A language model as a describer, by default the one that the environment names.

    Raises `ChatNotConfigured` at once, not at the first call.
    """
    chat = endpoint or ChatEndpoint.from_environment()

    def described(
        shown: str, mistaken_for: str, words: Sequence[str], /, *, count: int, seed: int
    ) -> Sequence[str]:
        # A model draws anew each time: few endpoints know a seed, and some refuse one.
        answer = chat.ask(prompt(shown, mistaken_for, words, count=count))
        return listed(answer.text, cut=answer.cut)

    return described


def adversarial(
    run: OpenRun,
    shown: str,
    mistaken_for: str,
    *,
    words: Words,
    describer: Describer,
    painter: Painter,
    folder: str | os.PathLike[str],
    descriptions: int = 10,
    per_description: int = 10,
    asked: int = _ASKED,
    repeats: int = 3,
    seed: int = 0,
    forbidden: Sequence[str] = (),
    templates: Templates = None,
    progress: Callable[[Experiment], None] | None = None,
) -> Adversarial:
    """Make images of `shown` that are to be taken for `mistaken_for`, and count those that are.

    `words` are those that `spurious_texts(shown, mistaken_for)` gives, or named lists of words to
    compare: {"second order": [...], "random neurons": [...]}. For each list and each of `repeats`
    repetitions the describer is asked for `asked` descriptions; of those that can be used,
    `descriptions` are drawn at random and painted `per_description` times each into
    FOLDER/LIST/REPETITION, and the run's model classifies the images. `forbidden` are further
    names of `mistaken_for` that no description may have.

    The same call again goes on where it stopped: descriptions and images that are there are kept,
    and images that a person has deleted after painting are counted no more (as in the thesis,
    where images that show the wrong thing are taken out by hand).
    Raises `BadQuestion` for arguments or a folder of another experiment, `BadDescriptions` where
    none can be used, `PainterFailed`, what the describer raises, or what `score` raises.
    """
    check_classes(shown, mistaken_for)
    lists = _lists(words)
    whole(descriptions, "descriptions", least=1, of="descriptions")
    whole(per_description, "per_description", least=1, of="images")
    whole(asked, "asked", least=1, of="descriptions")
    whole(repeats, "repeats", least=1, of="repetitions")
    seed = whole(seed, "seed", least=0, of="a random sequence")
    seeing: Judge | None = None
    experiments: list[Experiment] = []
    for name, listed_words in lists.items():
        for repeat in range(repeats):
            place = Path(folder, slug(name), str(repeat))
            drawn = seed + repeat
            facts = {
                "shown": shown,
                "mistaken_for": mistaken_for,
                "words": listed_words,
                "asked": asked,
                "forbidden": list(forbidden),
                "seed": drawn,
            }
            described = _described(place, facts, describer)
            rng = random.Random(drawn)
            chosen = rng.sample(described.kept, min(descriptions, len(described)))
            painted = generate(
                chosen, painter, place, per_description=per_description, seed=drawn, label=shown
            )
            # Not before there is something to see.
            seeing = seeing or judge(run, shown, mistaken_for, templates=templates)
            found = seeing.score(place)
            experiments.append(
                Experiment(name, repeat, listed_words, described, chosen, painted, found)
            )
            if progress is not None:
                progress(experiments[-1])
    return Adversarial(shown, mistaken_for, experiments)


def _lists(words: Words) -> dict[str, list[str]]:
    given: Any = words
    named = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {_ONLY: given}
    lists = {str(name): checked_words(listed_words) for name, listed_words in named.items()}
    folders = {slug(name) for name in lists}
    if not lists or len(folders) < len(lists):
        msg = (
            f"the lists of words are called {', '.join(map(repr, lists)) or 'nothing'}; give at "
            "least one, and names that differ in letters and digits: each has a folder."
        )
        raise BadQuestion(msg)
    return lists


def _described(place: Path, facts: dict[str, Any], describer: Describer) -> Descriptions:
    """The descriptions of one experiment: those kept in its folder, or new ones."""
    path = place / DESCRIPTIONS
    if path.is_file():
        kept = read_json(path)
        if kept["asked_for"] != facts:
            differ = sorted(name for name in facts if kept["asked_for"].get(name) != facts[name])
            msg = (
                f"{place} holds an experiment with other {', '.join(differ)}; give another folder, "
                "or remove this one."
            )
            raise BadQuestion(msg)
        return Descriptions(**kept["found"])
    shown, mistaken_for, words = facts["shown"], facts["mistaken_for"], facts["words"]
    texts = describer(shown, mistaken_for, words, count=facts["asked"], seed=facts["seed"])
    found = usable(texts, shown, mistaken_for, forbidden=facts["forbidden"])
    if not found.kept:
        msg = (
            f"none of the descriptions from the words for {place.name!r} can be used: {found}. "
            "Give other words, or ask another model."
        )
        raise BadDescriptions(msg)
    write_json(path, {"asked_for": facts, "found": found.as_dict()})
    return found
