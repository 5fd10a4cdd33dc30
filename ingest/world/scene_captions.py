"""Reading captions of the embedded world: what a scene has to show for one to be true of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from ...schema.errors import BadCaption
from .attributes import COLORS, COUNTS, SHAPES, SIZES, TEXTURES, Attribute
from .captions import (
    BACKGROUND_PHRASES,
    CAPTION_TEMPLATES,
    POSITION_PHRASES,
    RELATIONS,
    UNSEEN_TEMPLATES,
    plural,
)

Named: TypeAlias = dict[Attribute, str]
"""Values of attributes that one object has to have."""

_STARTS: Final = sorted(
    {
        *(template.replace("{}", "") for template in (*CAPTION_TEMPLATES, *UNSEEN_TEMPLATES)),
        "there is ",
        "there are ",
    }
    - {""},
    key=len,
    reverse=True,
)
_ENDS: Final = sorted(
    ((phrase, name) for name, phrases in BACKGROUND_PHRASES.items() for phrase in phrases),
    key=lambda pair: -len(pair[0]),
)
_PLACES: Final = sorted(
    ((phrase, name) for name, phrase in POSITION_PHRASES.items()), key=lambda pair: -len(pair[0])
)
_NOUNS: Final = (*SHAPES, "object", "shape", "thing")
_SINGULAR: Final = {noun: noun for noun in _NOUNS} | {plural(noun): noun for noun in _NOUNS}
_ADJECTIVES: Final[dict[str, Attribute]] = {
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(TEXTURES, "texture"),
    **dict.fromkeys(COLORS, "color"),
}
_NUMBERS: Final = {"a": 1, "an": 1} | {word: n for n, word in enumerate(COUNTS, start=1)}
_PAIR: Final = re.compile(rf" ({'|'.join((*RELATIONS, 'and'))}) (?=(?:an?|one) )")
_AMONG: Final = re.compile(rf"^({'|'.join(COUNTS[1:])}) objects (?=an? )")


@dataclass(frozen=True, slots=True)
class SceneRequest:
    """What a caption says: all that is not said may be anything.

    `objects` are the objects that it describes, `count` how many there are (None: it does not
    say), `relation` where the first of two lies seen from the second.
    """

    objects: tuple[Named, ...] = ()
    count: int | None = None
    background: str | None = None
    relation: str | None = None


def read_caption(text: str) -> SceneRequest:
    """Read a caption of the grammar in which captions.py writes them.

    A picture of "a circle" shows one object. Raises `BadCaption`.
    """
    body = " ".join(re.findall(r"[a-z]+", text.lower()))
    start = next((start for start in _STARTS if body.startswith(start)), "")
    body, background = _without_ending(body.removeprefix(start), _ENDS)
    if body == "a scene":
        return SceneRequest(background=background)
    if body == "something":
        return SceneRequest(({},), 1, background)
    among = _AMONG.match(body)
    first, relation, second = (*_PAIR.split(body[among.end() if among else 0 :], 1), "", "")[:3]
    objects = [_objects(first, text)] + ([_objects(second, text)] if second else [])
    if second and any(len(one) != 1 for one in objects):
        raise _not_understood(text)
    described = tuple(thing for one in objects for thing in one)
    count = _NUMBERS[among[1]] if among else len(described)
    request = SceneRequest(described, count, background)
    return replace(request, relation=relation) if relation in RELATIONS else request


def _objects(phrase: str, text: str) -> list[Named]:
    """The objects of "two small red circles", which all are alike, or of "a star at the top"."""
    rest, position = _without_ending(phrase, _PLACES)
    number, *adjectives, noun = rest.split() if " " in rest else ("", rest)
    shared: Named = {}
    for word in adjectives:
        attribute = _ADJECTIVES.get(word)
        if attribute is None or attribute in shared:
            raise _not_understood(text)
        shared[attribute] = word
    count = _NUMBERS.get(number, 0)
    if noun not in _SINGULAR or not count or (position is not None and count > 1):
        raise _not_understood(text)
    if _SINGULAR[noun] in SHAPES:
        shared["shape"] = _SINGULAR[noun]
    if position is not None:
        shared["position"] = position
    return [dict(shared) for _ in range(count)]


def _without_ending(text: str, endings: list[tuple[str, str]]) -> tuple[str, str | None]:
    for phrase, name in endings:
        if text.endswith(f" {phrase}"):
            return text.removesuffix(f" {phrase}"), name
    return text, None


def _not_understood(text: str) -> BadCaption:
    msg = (
        f"{text!r} is no caption of the embedded world; such are 'a small red circle on the left "
        "on sand', 'three striped stars at night' or 'a circle above a blue square'."
    )
    return BadCaption(msg)
