"""What is said about scenes: captions that are true of them, and class prompts for zero-shot."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .attributes import (
    BACKGROUNDS,
    COLORS,
    COUNTS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    WITHHELD_COLOR,
    Attribute,
)
from .scenes import Scenes

POSITION_PHRASES: Final[dict[str, str]] = {
    "top left": "in the top left",
    "top": "at the top",
    "top right": "in the top right",
    "left": "on the left",
    "center": "in the center",
    "right": "on the right",
    "bottom left": "in the bottom left",
    "bottom": "at the bottom",
    "bottom right": "in the bottom right",
}
BACKGROUND_PHRASES: Final[dict[str, tuple[str, str]]] = {
    "white": ("on a white background", "on white"),
    "black": ("on a black background", "on black"),
    "gray": ("on a gray background", "on gray"),
    "water": ("on water", "over water"),
    "sand": ("on sand", "on the beach"),
    "grass": ("on grass", "in a field of grass"),
    "night": ("at night", "in the night sky"),
    "brick": ("on a brick wall", "on bricks"),
}
RELATIONS: Final = ("left of", "right of", "above", "below")

# Zero-shot prompts are averaged over these, and training shows them too.
TRAINING_TEMPLATES: Final = ("{}", "a photo of {}", "an image of {}", "a picture of {}")
PROMPT_NOUNS: Final = ("object", "shape")
# Captions begin in more ways, so that every word of the unseen templates is known.
CAPTION_TEMPLATES: Final = (
    *("{}",) * 5,
    *TRAINING_TEMPLATES[1:],
    "a drawing of {}",
    "here is {}",
    "we see {}",
    "this scene shows {}",
)
UNSEEN_TEMPLATES: Final = (
    "here is a photo of {}",
    "this picture shows {}",
    "we see a drawing of {}",
    "this drawing shows an image of {}",
)
UNSEEN_NOUN: Final = "thing"

_NOUNS: Final = ("object", "object", "shape", "thing")
_PROMPT_COLORS: Final = ("red", "blue", "green", "yellow")


def with_article(phrase: str) -> str:
    """The phrase after "a" or "an"."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


@dataclass(frozen=True, slots=True)
class ObjectWords:
    """One object of a scene in words, and its center in pixels."""

    shape: str
    color: str
    texture: str
    size: str
    position: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class SceneWords:
    """One scene in words."""

    objects: tuple[ObjectWords, ...]
    background: str


def in_words(scenes: Scenes) -> list[SceneWords]:
    """Name everything that is visible in each scene."""
    columns = zip(
        scenes.count.tolist(),
        scenes.background.tolist(),
        scenes.shape.tolist(),
        scenes.color.tolist(),
        scenes.texture.tolist(),
        scenes.size.tolist(),
        scenes.position.tolist(),
        scenes.x.tolist(),
        scenes.y.tolist(),
        strict=True,
    )
    return [
        SceneWords(
            tuple(
                ObjectWords(
                    SHAPES[shape[k]],
                    COLORS[color[k]],
                    TEXTURES[texture[k]],
                    SIZES[size[k]],
                    POSITIONS[position[k]],
                    x[k],
                    y[k],
                )
                for k in range(count)
            ),
            BACKGROUNDS[background],
        )
        for count, background, shape, color, texture, size, position, x, y in columns
    ]


def write_captions(scenes: Scenes, rng: random.Random, *, detailed: bool = False) -> list[str]:
    """One true caption a scene, naming a random part of it; `detailed` names all it can.

    Detailed captions describe the first object fully, a second one loosely, and give count and
    background: they tell scenes apart and serve to measure retrieval.
    """
    write = _detailed_caption if detailed else _caption
    return [write(scene, rng) for scene in in_words(scenes)]


def _caption(scene: SceneWords, rng: random.Random) -> str:
    template = rng.choice(CAPTION_TEMPLATES)
    background = f" {_background(scene, rng)}" if rng.random() < 0.45 else ""
    if len(scene.objects) == 1:
        if rng.random() < 0.06:
            subject = rng.choice(("a scene", "something"))
            return template.format(f"{subject} {_background(scene, rng)}")
        body = _one_object(scene.objects[0], rng, position=0.45, count_word=0.1)
    else:
        body = _several(scene, rng)
        if template == "{}" and rng.random() < 0.15:
            many = body.split()[0] in COUNTS
            template = "there are {}" if many else "there is {}"
    return template.format(body + background)


def _several(scene: SceneWords, rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return _counted(scene, rng)
    first, second = rng.sample(scene.objects, 2)
    if kind < 0.7:
        return _one_object(first, rng, position=0.4)
    if kind < 0.88:
        return f"{_one_object(first, rng)} and {_one_object(second, rng)}"
    return f"{_one_object(first, rng)} {_relation(first, second)} {_one_object(second, rng)}"


def _detailed_caption(scene: SceneWords, rng: random.Random) -> str:
    first = scene.objects[0]
    body = with_article(f"{first.size} {first.texture} {first.color} {first.shape}")
    body = f"{body} {POSITION_PHRASES[first.position]}"
    if len(scene.objects) > 1:
        body = f"{COUNTS[len(scene.objects) - 1]} objects {body}"
        body = f"{body} and {_one_object(scene.objects[1], rng)}"
    return f"{body} {_background(scene, rng)}"


def _one_object(
    thing: ObjectWords, rng: random.Random, *, position: float = 0.0, count_word: float = 0.0
) -> str:
    words = [
        *([thing.size] if rng.random() < 0.3 else []),
        *([thing.texture] if rng.random() < 0.4 else []),
        *([thing.color] if rng.random() < 0.7 else []),
        thing.shape if rng.random() < 0.85 else rng.choice(_NOUNS),
    ]
    phrase = " ".join(words)
    phrase = f"{COUNTS[0]} {phrase}" if rng.random() < count_word else with_article(phrase)
    if rng.random() < position:
        return f"{phrase} {POSITION_PHRASES[thing.position]}"
    return phrase


def _counted(scene: SceneWords, rng: random.Random) -> str:
    """A number, and what all the objects share."""
    first, others = scene.objects[0], scene.objects[1:]
    words = [COUNTS[len(scene.objects) - 1]]
    if rng.random() < 0.25 and all(other.size == first.size for other in others):
        words.append(first.size)
    if rng.random() < 0.4 and all(other.texture == first.texture for other in others):
        words.append(first.texture)
    if rng.random() < 0.7 and all(other.color == first.color for other in others):
        words.append(first.color)
    named = rng.random() < 0.8 and all(other.shape == first.shape for other in others)
    words.append(plural(first.shape if named else rng.choice(_NOUNS)))
    return " ".join(words)


def _relation(first: ObjectWords, second: ObjectWords) -> str:
    right, down = first.x - second.x, first.y - second.y
    if abs(right) > abs(down):
        return "left of" if right < 0 else "right of"
    return "above" if down < 0 else "below"


def _background(scene: SceneWords, rng: random.Random) -> str:
    usual, other = BACKGROUND_PHRASES[scene.background]
    return usual if rng.random() < 0.65 else other


def class_prompts(
    attribute: Attribute, *, templates: Sequence[str] = TRAINING_TEMPLATES, unseen: bool = False
) -> list[list[str]]:
    """The texts that stand for each value of an attribute, in the order of its vocabulary.

    With `unseen`, the phrases too are such as no class prompt of the training had: another noun,
    shapes without colors.
    """
    nouns = (UNSEEN_NOUN,) if unseen else PROMPT_NOUNS
    phrases = _class_phrases(attribute, nouns, colored=not unseen)
    return [[template.format(p) for p in value for template in templates] for value in phrases]


def _class_phrases(attribute: Attribute, nouns: Sequence[str], *, colored: bool) -> list[list[str]]:
    match attribute:
        case "shape":
            return [_shape_phrases(shape, colored=colored) for shape in SHAPES]
        case "color":
            return [[with_article(f"{color} {noun}") for noun in nouns] for color in COLORS]
        case "texture":
            return [[with_article(f"{value} {noun}") for noun in nouns] for value in TEXTURES]
        case "size":
            return [[with_article(f"{value} {noun}") for noun in nouns] for value in SIZES]
        case "position":
            return [
                [f"{with_article(noun)} {POSITION_PHRASES[value]}" for noun in nouns]
                for value in POSITIONS
            ]
        case "background":
            return [
                [f"{with_article(noun)} {phrase}" for noun in nouns for phrase in phrases]
                for phrases in (BACKGROUND_PHRASES[value] for value in BACKGROUNDS)
            ]
        case "count":
            return [
                [f"{number} {noun if number == COUNTS[0] else plural(noun)}" for noun in nouns]
                for number in COUNTS
            ]


def _shape_phrases(shape: str, *, colored: bool) -> list[str]:
    phrases = [with_article(shape)]
    if colored:
        colors = [color for color in _PROMPT_COLORS if color != WITHHELD_COLOR[shape]][:3]
        phrases += [with_article(f"{color} {shape}") for color in colors]
    return phrases


def every_phrase() -> list[str]:
    """Phrases that between them hold every word a caption or a prompt can have."""
    number_nouns = (*SHAPES, *_NOUNS)
    return [
        *(SHAPES + COLORS + TEXTURES + SIZES + COUNTS),
        *(plural(noun) for noun in number_nouns),
        *number_nouns,
        *POSITION_PHRASES.values(),
        *(phrase for phrases in BACKGROUND_PHRASES.values() for phrase in phrases),
        *RELATIONS,
        *(t.replace("{}", "") for t in (*CAPTION_TEMPLATES, *UNSEEN_TEMPLATES)),
        "a scene something an and there is there are",
    ]
