"""The embedded world: what is said of scenes is true, and all of it is in the vocabulary."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbase.ingest.world import pool
from lensbase.ingest.world.attributes import (
    ATTRIBUTES,
    COLORS,
    COUNTS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Attribute,
)
from lensbase.ingest.world.captions import (
    BACKGROUND_PHRASES,
    CAPTION_TEMPLATES,
    POSITION_PHRASES,
    TRAINING_TEMPLATES,
    UNSEEN_TEMPLATES,
    ObjectWords,
    SceneWords,
    class_prompts,
    in_words,
    plural,
    with_article,
    write_captions,
)
from lensbase.ingest.world.recipe import NATURAL
from lensbase.ingest.world.scenes import (
    UNIFORM_COUNTS,
    Sampling,
    Scenes,
    sample_scenes,
)
from lensbase.ingest.world.tokenizer import CONTEXT_LENGTH, WordTokenizer

UNIFORM = Sampling(UNIFORM_COUNTS)


def draw(seed: int, n: int, sampling: Sampling) -> Scenes:
    return sample_scenes(np.random.default_rng(seed), n, sampling)


# Captions

_ADJECTIVES = {"size": SIZES, "texture": TEXTURES, "color": COLORS}
_GENERIC = ("object", "shape", "thing")
_OPENINGS = sorted(
    ({t.removesuffix("{}") for t in CAPTION_TEMPLATES} | {"there is ", "there are "}) - {""},
    key=len,
    reverse=True,
)


def fits(thing: ObjectWords, words: list[str]) -> bool:
    """Whether all the words are true of one object."""
    for word in words:
        named = [name for name, values in _ADJECTIVES.items() if word in values]
        if named:
            true = getattr(thing, named[0]) == word
        else:
            true = word in _GENERIC or word == thing.shape
        if not true:
            return False
    return True


def split_position(phrase: str) -> tuple[str, str | None]:
    for value in sorted(POSITIONS, key=lambda v: -len(POSITION_PHRASES[v])):
        if phrase.endswith(f" {POSITION_PHRASES[value]}"):
            return phrase.removesuffix(f" {POSITION_PHRASES[value]}"), value
    return phrase, None


def described(scene: SceneWords, phrase: str) -> list[ObjectWords]:
    """The objects that "a small red circle at the top" is true of."""
    phrase, position = split_position(phrase)
    article, *words = phrase.split()
    assert article in ("a", "an", "one")
    if article == "one" and len(scene.objects) > 1:
        return []
    return [t for t in scene.objects if fits(t, words) and position in (None, t.position)]


def holds(scene: SceneWords, caption: str) -> bool:
    """Whether a caption is true, read word by word with a grammar of its own."""
    for opening in _OPENINGS:
        caption = caption.removeprefix(opening)
    for value, phrases in BACKGROUND_PHRASES.items():
        for phrase in phrases:
            if caption.endswith(f" {phrase}"):
                caption = caption.removesuffix(f" {phrase}")
                if value != scene.background:
                    return False
    if caption in ("something", "a scene"):
        return True
    number, _, rest = caption.partition(" ")
    if number in COUNTS[1:]:
        *adjectives, noun = rest.split()
        singular = next(n for n in (*SHAPES, *_GENERIC) if plural(n) == noun)
        everything = all(fits(thing, [*adjectives, singular]) for thing in scene.objects)
        return everything and len(scene.objects) == COUNTS.index(number) + 1
    for relation in ("left of", "right of", "above", "below", "and"):
        first, found, second = caption.partition(f" {relation} ")
        if found:
            pairs = [(a, b) for a in described(scene, first) for b in described(scene, second)]
            return any(a is not b and related(a, relation, b) for a, b in pairs)
    return bool(described(scene, caption))


def related(a: ObjectWords, relation: str, b: ObjectWords) -> bool:
    return {
        "left of": a.x < b.x,
        "right of": a.x > b.x,
        "above": a.y < b.y,
        "below": a.y > b.y,
        "and": True,
    }[relation]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_captions_are_true(seed: int):
    scenes = draw(seed, 50, NATURAL)
    captions = write_captions(scenes, random.Random(seed))
    for scene, caption in zip(in_words(scenes), captions, strict=True):
        assert holds(scene, caption), (caption, scene)


def test_the_caption_reader_notices_lies():
    scenes = draw(14, 2000, NATURAL)
    captions = write_captions(scenes, random.Random(14))
    words = in_words(scenes)
    # Of another scene, only what says very little can be true ("an object").
    assert np.mean([holds(words[i - 1], captions[i]) for i in range(len(words))]) < 0.15


def test_detailed_captions_name_the_first_object_fully():
    scenes = draw(15, 200, UNIFORM)
    captions = write_captions(scenes, random.Random(15), detailed=True)
    for scene, caption in zip(in_words(scenes), captions, strict=True):
        first = scene.objects[0]
        phrase = with_article(f"{first.size} {first.texture} {first.color} {first.shape}")
        assert f"{phrase} {POSITION_PHRASES[first.position]}" in caption
        assert caption.endswith(BACKGROUND_PHRASES[scene.background])


def test_every_word_is_in_the_vocabulary():
    tokenizer = WordTokenizer()
    scenes = draw(16, 4000, UNIFORM)
    texts = write_captions(scenes, random.Random(16))
    texts += write_captions(scenes, random.Random(16), detailed=True)
    texts += [t for name in ATTRIBUTES for value in class_prompts(name) for t in value]
    texts += [t for n in ATTRIBUTES for v in unseen_prompts(n) for t in v]
    texts += pool.text_pool()
    ids = tokenizer(texts)
    assert not (ids == tokenizer.vocabulary.index("<unknown>")).any()
    # Cut at the context length, nothing: every text ends in the end token.
    assert (ids == tokenizer.vocab_size - 1).sum(1).eq(1).all()
    assert all(tokenizer.decode(row) == text for row, text in zip(ids.tolist(), texts, strict=True))


def unseen_prompts(attribute: Attribute) -> list[list[str]]:
    return class_prompts(attribute, templates=UNSEEN_TEMPLATES, unseen=True)


def test_unseen_templates_are_unseen():
    openings = {t.removesuffix("{}") for t in CAPTION_TEMPLATES}
    assert not {t.removesuffix("{}") for t in UNSEEN_TEMPLATES} & openings
    assert set(TRAINING_TEMPLATES) <= set(CAPTION_TEMPLATES)
    seen = {t for name in ATTRIBUTES for value in class_prompts(name) for t in value}
    assert not seen & {t for n in ATTRIBUTES for value in unseen_prompts(n) for t in value}


def test_the_tokenizer_is_called_like_open_clips():
    tokenizer = WordTokenizer()
    ids = tokenizer("A red, circle!")
    assert ids.shape == (1, CONTEXT_LENGTH)
    assert ids.dtype == torch.int64
    assert tokenizer.decode(ids[0].tolist()) == "a red circle"
    assert int(ids.argmax()) == 4  # start, three words, end: the end has the largest id
    unknown = tokenizer.vocabulary.index("<unknown>")
    assert tokenizer.encode("a zebra") == [tokenizer.vocabulary.index("a"), unknown]
    assert tokenizer.unknown_words("A zebra, a Zebra, 3 red stars") == ["zebra"]
    long = tokenizer(["red " * 100, ""], context_length=10)
    assert long.shape == (2, 10)
    assert long[:, :].max(1).values.tolist() == [tokenizer.vocab_size - 1] * 2


# The pool


def test_the_pool_covers_every_value_and_knows_its_attributes():
    texts = pool.text_pool()
    assert 300 <= len(texts) <= 600
    assert len(set(texts)) == len(texts)
    assert "a red circle" in texts
    about = [pool.text_attribute(text) for text in texts]
    sizes = [about.count(name) for name in ATTRIBUTES]
    assert max(sizes) <= 2 * min(sizes)
    for name in ATTRIBUTES:
        for value in class_prompts(name):
            assert set(value) & {t for t, a in zip(texts, about, strict=True) if a == name}
    with pytest.raises(KeyError):
        pool.text_attribute("a zebra")
