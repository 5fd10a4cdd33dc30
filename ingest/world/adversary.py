"""The embedded world's stand-ins for a language model and for a text-to-image model.

`describe_scene` writes image descriptions out of given words and `paint` draws what a description
says: with both, the loop that makes adversarial images runs without any other model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np
from PIL import Image

from ...schema.errors import BadCaption, BadQuestion
from .attributes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    COUNTS,
    MAX_OBJECTS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    VALUES,
    Attribute,
)
from .captions import BACKGROUND_PHRASES, CAPTION_TEMPLATES, POSITION_PHRASES, plural, with_article
from .render import render
from .scene_captions import Named, SceneRequest, read_caption
from .scenes import Sampling, Scenes, sample_scenes

_SYNONYMS: Final = {"beach": "sand", "bricks": "brick"}
_WORDS: Final[dict[str, Attribute]] = {
    **dict.fromkeys(BACKGROUNDS, "background"),
    **dict.fromkeys(_SYNONYMS, "background"),
    **dict.fromkeys(COLORS, "color"),
    **dict.fromkeys(TEXTURES, "texture"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(POSITIONS, "position"),
    **dict.fromkeys(COUNTS, "count"),
}
# "left of" and "right of" are relations, not positions.
_NAMED_VALUE: Final = re.compile(
    rf"\b({'|'.join(sorted(_WORDS, key=len, reverse=True))})\b(?! of\b)", re.IGNORECASE
)
_PER_SCENE: Final = ("count", "background", "backdrop", "crop_x", "crop_y", "flip", "brightness")
_TRIES: Final = 200


def describe_scene(
    shown: str,
    mistaken_for: str,
    words: Sequence[str],
    *,
    count: int = 50,
    seed: int = 0,
) -> list[str]:
    """Write captions of scenes that show the shape `shown` and all else that `words` name.

    Every caption names one value of each attribute that occurs in the words: background, color,
    texture, size, and position or number. Words without one, and those that name the shape
    `mistaken_for`, are passed over. All captions differ, so few words may give fewer than `count`.
    Raises `BadQuestion` for a class that is no shape.
    """
    for name in (shown, mistaken_for):
        if name not in SHAPES:
            msg = f"{name!r} is no shape of the embedded world: {', '.join(SHAPES)}."
            raise BadQuestion(msg)
    other = re.compile(rf"\b({mistaken_for}|{plural(mistaken_for)})\b", re.IGNORECASE)
    named = named_values([word for word in words if not other.search(word)])
    rng = random.Random(f"{seed} {shown}")
    found: dict[str, None] = {}
    for _ in range(_TRIES * count):
        if len(found) >= count:
            break
        found[_caption(shown, named, rng)] = None
    return list(found)


def named_values(words: Sequence[str]) -> dict[Attribute, list[str]]:
    """The values of each attribute that words or texts name, in the order of their vocabulary."""
    found: dict[Attribute, set[str]] = {}
    for word in words:
        for match in _NAMED_VALUE.finditer(word):
            value = match[1].lower()
            found.setdefault(_WORDS[value], set()).add(_SYNONYMS.get(value, value))
    return {
        attribute: [value for value in VALUES[attribute] if value in found[attribute]]
        for attribute in ATTRIBUTES
        if attribute in found
    }


def paint(text: str, seed: int = 0) -> Image.Image:
    """Draw a scene of which a caption is true, 64 x 64 pixels; the same seed, the same pixels.

    Raises `BadCaption` for what is no caption of the embedded world.
    """
    return Image.fromarray(render(painted_scene(text, seed)).images[0])


def painted_scene(text: str, seed: int = 0) -> Scenes:
    """The scene that `paint` draws: what the caption does not say is drawn at random.

    The objects that it describes come first, in its order. Raises `BadCaption`.
    """
    request = read_caption(text)
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        scene = _scene(request, rng)
        if scene is not None:
            return scene
    msg = f"no scene can be as {text!r} says: what it says of places contradicts itself."
    raise BadCaption(msg)


def _caption(shown: str, named: Mapping[Attribute, Sequence[str]], rng: random.Random) -> str:
    chosen = {attribute: rng.choice(values) for attribute, values in named.items()}
    number = chosen.get("count", COUNTS[0])
    position = chosen.get("position")
    if position is not None and number != COUNTS[0]:
        # Captions give positions of single objects only.
        number, position = rng.choice([(number, None), (COUNTS[0], position)])
    order: tuple[Attribute, ...] = ("size", "texture", "color")
    words = [*(chosen[attribute] for attribute in order if attribute in chosen), shown]
    if number == COUNTS[0]:
        body = with_article(" ".join(words))
    else:
        body = " ".join([number, *words[:-1], plural(shown)])
    if position is not None:
        body = f"{body} {POSITION_PHRASES[position]}"
    if "background" in chosen:
        body = f"{body} {rng.choice(BACKGROUND_PHRASES[chosen['background']])}"
    return rng.choice(CAPTION_TEMPLATES).format(body)


def _scene(request: SceneRequest, rng: np.random.Generator) -> Scenes | None:
    """A scene with the described objects, unless the first one does not lie where it should."""
    least = max(1, len(request.objects))
    count = request.count or int(rng.integers(least, MAX_OBJECTS + 1))
    positions = _positions(request.objects, count, rng)
    if positions is None:
        return None
    # One scene for each object: independent of each other, with the sizes that a crowd has.
    free = sample_scenes(rng, count, Sampling(), fixed={"count": count})
    fixed: dict[Attribute, Any] = {"count": count, "position": positions}
    for attribute in ("shape", "color", "texture", "size"):
        fixed[attribute] = free.labels(attribute).copy()
        for place, thing in enumerate(request.objects):
            if attribute in thing:
                fixed[attribute][place] = VALUES[attribute].index(thing[attribute])
    if request.background is not None:
        fixed["background"] = BACKGROUNDS.index(request.background)
    scene = _together(sample_scenes(rng, count, Sampling(), fixed=fixed))
    if request.relation is None or _lies(scene, request.relation):
        return scene
    return None


def _positions(objects: Sequence[Named], count: int, rng: np.random.Generator) -> list[int] | None:
    """A place of its own for each object; None where two are asked to be in the same."""
    asked = [POSITIONS.index(one["position"]) if "position" in one else None for one in objects]
    taken = [place for place in asked if place is not None]
    if len(set(taken)) < len(taken):
        return None
    free = iter(rng.permutation([p for p in range(len(POSITIONS)) if p not in taken]).tolist())
    asked += [None] * (count - len(asked))
    return [next(free) if place is None else place for place in asked]


def _together(scenes: Scenes) -> Scenes:
    """One scene whose objects are the first objects of many scenes."""
    merged: dict[str, Any] = {}
    for field in fields(scenes):
        values = getattr(scenes, field.name)
        merged[field.name] = values[:1].copy()
        if field.name not in _PER_SCENE:
            merged[field.name][0, : len(scenes)] = values[:, 0]
    return Scenes(**merged)


def _lies(scene: Scenes, relation: str) -> bool:
    """Whether the first object lies so seen from the second, as captions have it."""
    right, down = (int(of[0, 0] - of[0, 1]) for of in (scene.x, scene.y))
    if abs(right) > abs(down):
        return relation == ("left of" if right < 0 else "right of")
    return relation == ("above" if down < 0 else "below")
