"""Image descriptions from a language model: what it is asked, and which of its lines are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from ..schema.errors import BadDescriptions, BadQuestion
from .printing import counted
from .whole_numbers import whole

_ITEM = re.compile(r"\s*(?:\(?\d{1,4}[.):](?!\d)|[-*+•–—](?=\s))\s*(?P<text>\S.*)")
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_SOME = "give some, one a line in a file of --words, or leave them to the neurons (spurious_texts)."
_QUOTES = " \t\"'`“”‘’"
_IRREGULAR = {
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "man": "men",
    "mouse": "mice",
    "person": "people",
    "tooth": "teeth",
    "woman": "women",
}


class Describer(Protocol):
    """What writes `count` image descriptions of a class: a language model, or a grammar."""

    def __call__(
        self, shown: str, mistaken_for: str, words: Sequence[str], /, *, count: int, seed: int
    ) -> Sequence[str]:
        """Descriptions that show `shown` beside what `words` name, and no `mistaken_for`."""
        ...


@dataclass(frozen=True)
class Descriptions:
    """The descriptions that can be used, and how many were left out for which reason."""

    kept: list[str]
    mentioning: int = 0
    lacking: int = 0
    repeated: int = 0

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __str__(self) -> str:
        reasons = {
            "mention the other class": self.mentioning,
            "lack the class to be shown": self.lacking,
            "were there already": self.repeated,
        }
        left_out = [f"{number} that {reason}" for reason, number in reasons.items() if number]
        kept = counted(len(self), "description")
        return f"{kept}; left out {', '.join(left_out)}" if left_out else kept

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def prompt(shown: str, mistaken_for: str, words: Sequence[str], *, count: int = 50) -> str:
    """What to ask a language model for (the kind of Table B.2): `count` short descriptions.

    Each has to name the class `shown` and as many of `words` as possible, and must not name the
    class `mistaken_for`, for which images that show them may then be taken (thesis, section 3.5).
    Raises `BadQuestion` without words, or where the classes are blank or the same.
    """
    check_classes(shown, mistaken_for)
    count = whole(count, "count", least=1, of="descriptions")
    listed = ", ".join(checked_words(words))
    return (
        f"Write {counted(count, 'short image description')} for a text-to-image model. Answer "
        f"with a list numbered from 1 to {count}, one description a line, and with nothing else.\n"
        "\n"
        f'- In every description the word "{shown}" occurs, and what it names is in the picture.\n'
        f'- In no description does the word "{mistaken_for}" occur: not its plural either, no '
        "synonym, no kind or part of it, and nothing that is easily taken for it, even where the "
        "words below have it.\n"
        "- Otherwise build the descriptions from the words below: put as many of them as you can "
        "into each, as things, animals and places that one sees, and hardly any others.\n"
        "- Use a word only if you are sure of its meaning and it stands for something that a "
        "picture can show distinctly. Pass over names of people and places, unless they are widely "
        "known for how they look; then write what one would see, such as a landmark, a costume or "
        "a sign with the name on it.\n"
        "\n"
        f"Words: {listed}\n"
    )


def listed(answer: str, *, cut: bool = False) -> list[str]:
    """The items of a numbered or bulleted list in an answer, without numbers and quotes.

    What stands around the list is passed over, and so is what a model thought before; lines that
    are indented go on with the item above. `cut` says that the answer broke off: then its last
    item is left out. Raises `BadDescriptions` for an answer without a list.
    """
    items: list[str] = []
    for line in _THOUGHTS.sub("", answer).replace("**", "").splitlines():
        item = _ITEM.match(line)
        if item:
            items.append(item["text"])
        elif items and line[:1].isspace() and line.strip():
            items[-1] = f"{items[-1]} {line.strip()}"
    texts = [" ".join(item.split()).strip(_QUOTES) for item in (items[:-1] if cut else items)]
    texts = [text for text in texts if text]
    if not texts:
        begins = " ".join(answer.split())[:80]
        msg = (
            f"the answer holds no list of descriptions; it begins {begins!r}. Ask again, or ask "
            "another model: it has to answer with a numbered list, one description a line."
        )
        raise BadDescriptions(msg)
    return texts


def usable(
    texts: Iterable[str], shown: str, mistaken_for: str, *, forbidden: Sequence[str] = ()
) -> Descriptions:
    """Leave out descriptions that name the other class or lack the one to be shown; count them.

    Whole words count, singular and plural, in any case; `forbidden` are further names of the other
    class, such as synonyms. Raises `BadQuestion` where the classes are blank or the same.
    """
    check_classes(shown, mistaken_for)
    wanted = _pattern([shown])
    other = _pattern([mistaken_for, *forbidden])
    # Where one name is part of the other, as "truck" is of "tow truck", the longer one is no
    # mention of the shorter.
    within = other.search(shown) is not None
    kept: dict[str, str] = {}
    mentioning = lacking = repeated = 0
    for text in texts:
        if not wanted.search(text):
            lacking += 1
        elif other.search(wanted.sub("", text) if within else text):
            mentioning += 1
        elif text.casefold() in kept:
            repeated += 1
        else:
            kept[text.casefold()] = text
    return Descriptions(list(kept.values()), mentioning, lacking, repeated)


def check_classes(shown: str, mistaken_for: str) -> None:
    """Raise `BadQuestion` unless these are two different names."""
    for name in (shown, mistaken_for):
        if not isinstance(name, str) or not name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"{name!r} is no class name; give one such as 'dog'."
            raise BadQuestion(msg)
    if shown.strip().casefold() == mistaken_for.strip().casefold():
        msg = f"an image of {shown!r} cannot be mistaken for {mistaken_for!r}: name another class."
        raise BadQuestion(msg)


def checked_words(words: Sequence[str]) -> list[str]:
    """Words on one line each, without repetition; raises `BadQuestion` where there are none."""
    given: Any = words
    listed = [] if isinstance(given, str) else list(given)
    if not listed or not all(isinstance(word, str) for word in listed):
        msg = f"{given!r} is no list of words; {_SOME}"
        raise BadQuestion(msg)
    found = list(dict.fromkeys(filter(None, (" ".join(word.split()) for word in listed))))
    if not found:
        msg = f"all words are blank; {_SOME}"
        raise BadQuestion(msg)
    return found


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    forms = {form for name in names for form in _forms(name.casefold().split())}
    # The longest first, for `sub` to take all of it.
    ordered = sorted(forms, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(ordered)})(?!\w)", re.IGNORECASE)


def _forms(words: list[str]) -> list[str]:
    """Singular and plural of a name as patterns; "stop sign" is also "stop-sign" and "stopsign"."""
    if not words:
        return []
    *first, last = words
    plurals = {last, f"{last}s", f"{last}es", _IRREGULAR.get(last, last)}
    for ending, many in (("y", "ies"), ("fe", "ves"), ("f", "ves"), ("man", "men")):
        if last.endswith(ending):
            plurals.add(last.removesuffix(ending) + many)
    return [r"[\s\-]*".join(map(re.escape, [*first, form])) for form in plurals]
