"""What texts say of scenes of the embedded world, what holds of them, and their class prompts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lensbase.api.classifier import Classifier
from lensbase.api.run import RunView
from lensbase.ingest.world.attributes import ATTRIBUTES, VALUES, Attribute
from lensbase.ingest.world.captions import (
    BACKGROUND_PHRASES,
    POSITION_PHRASES,
    TRAINING_TEMPLATES,
    class_prompts,
    plural,
)
from lensbase.ingest.world.scenes import Scenes

Flags = npt.NDArray[np.bool_]


class Statement(NamedTuple):
    """That something has a value of an attribute."""

    attribute: Attribute
    value: str


VALUE_PAIRS = [Statement(name, value) for name in ATTRIBUTES for value in VALUES[name]]


def statements(text: str) -> list[Statement]:
    """What a text of the pool says: "a red circle" is about a color and a shape."""
    found: list[Statement] = []
    phrased = [
        (phrase, Statement("background", name))
        for name, phrases in BACKGROUND_PHRASES.items()
        for phrase in phrases
    ]
    phrased += [(phrase, Statement("position", name)) for name, phrase in POSITION_PHRASES.items()]
    for phrase, statement in sorted(phrased, key=lambda pair: -len(pair[0])):
        if text.endswith(f" {phrase}"):
            found.append(statement)
            text = text.removesuffix(f" {phrase}")
    words = text.split()
    attributes: tuple[Attribute, ...] = ("color", "texture", "size", "shape", "count")
    for name in attributes:
        plain = [value for value in VALUES[name] if value in words]
        several = [value for value in VALUES["shape"] if plural(value) in words]
        found += [
            Statement(name, value) for value in (several if name == "shape" and several else plain)
        ]
    return found


def true_of(scenes: Scenes, texts: list[str]) -> Flags:
    """[K, M]: whether a text is true of a scene, some object of which has all that it says."""
    out = np.zeros((len(scenes), len(texts)), np.bool_)
    for place, text in enumerate(texts):
        said = statements(text)
        assert said, f"{text!r} says nothing of a scene"
        objects, scene = scenes.visible.copy(), np.ones(len(scenes), np.bool_)
        for name, value in said:
            number = VALUES[name].index(value)
            if name in ("background", "count"):
                scene &= scenes.labels(name) == number
            else:
                objects &= getattr(scenes, name) == number
        out[:, place] = scene & objects.any(1)
    return out


def attribute_classifier(clip: RunView, attribute: Attribute) -> Classifier:
    """A classifier of an attribute's values by the prompts of the model's training."""
    phrases = class_prompts(attribute, templates=("{}",))
    # The manifest has counts as numbers.
    labels = [
        str(number) if attribute == "count" else value
        for number, value in enumerate(VALUES[attribute], start=1)
    ]
    classes = {label: phrase for label, (phrase, *_) in zip(labels, phrases, strict=True)}
    return clip.classifier(classes, templates=TRAINING_TEMPLATES)
