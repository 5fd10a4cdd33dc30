"""The embedded world's language model and text-to-image model: what is said is what is drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbase.api.descriptions import usable
from lensbase.ingest.world.adversary import describe_scene, named_values, paint, painted_scene
from lensbase.ingest.world.attributes import (
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    COUNTS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    VALUES,
    Attribute,
)
from lensbase.ingest.world.captions import write_captions
from lensbase.ingest.world.render import PALETTE, render
from lensbase.ingest.world.scene_captions import read_caption
from lensbase.ingest.world.scenes import Sampling, Scenes, sample_scenes
from lensbase.schema.errors import BadCaption, BadQuestion

SEEDS = st.integers(0, 2**32 - 1)


def maybe(values: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(values)


def value(scene: Scenes, attribute: Attribute, place: int) -> str:
    return VALUES[attribute][int(getattr(scene, attribute)[0, place])]


@given(
    shape=st.sampled_from(SHAPES),
    size=maybe(SIZES),
    texture=maybe(TEXTURES),
    color=maybe(COLORS),
    number=st.integers(1, 6),
    background=maybe(tuple(name for name in BACKGROUNDS if name in ("water", "sand", "grass"))),
    seed=SEEDS,
)
@settings(max_examples=150)
def test_painted_scenes_have_what_their_text_names(
    shape: str,
    size: str | None,
    texture: str | None,
    color: str | None,
    number: int,
    background: str | None,
    seed: int,
) -> None:
    pairs: list[tuple[str | None, Attribute]] = [
        (size, "size"),
        (texture, "texture"),
        (color, "color"),
    ]
    asked: dict[str, Attribute] = {
        named: attribute for named, attribute in pairs if named is not None
    }
    noun = shape if number == 1 else {"cross": "crosses"}.get(shape, f"{shape}s")
    text = " ".join(
        [COUNTS[number - 1], *asked, noun] + ([f"on {background}"] if background else [])
    )
    scene = painted_scene(text, seed)
    assert len(scene) == 1
    assert scene.count[0] == number
    for place in range(number):
        assert value(scene, "shape", place) == shape
        for named, attribute in asked.items():
            assert value(scene, attribute, place) == named
    assert background is None or BACKGROUNDS[scene.background[0]] == background
    assert len(set(scene.position[0, :number].tolist())) == number
    drawn = render(scene)
    assert np.array_equal(np.asarray(paint(text, seed)), drawn.images[0])
    assert number > 1 or set(np.unique(drawn.masks)) == {0, 1}


@given(
    position=st.sampled_from(POSITIONS),
    relation=st.sampled_from(["left of", "right of", "above", "below", "and"]),
    colors=st.tuples(st.sampled_from(COLORS), st.sampled_from(COLORS)),
    seed=SEEDS,
)
@settings(max_examples=100)
def test_painted_objects_lie_where_their_text_says(
    position: str, relation: str, colors: tuple[str, str], seed: int
) -> None:
    phrase = {"top": "at the top", "bottom": "at the bottom", "left": "on the left"}.get(
        position, "on the right" if position == "right" else f"in the {position}"
    )
    scene = painted_scene(f"a photo of a {colors[0]} star {phrase} at night", seed)
    assert (scene.count[0], value(scene, "position", 0)) == (1, position)
    column, row = POSITIONS.index(position) % 3, POSITIONS.index(position) // 3
    assert abs(scene.x[0, 0] - (12 + 20 * column)) <= 3 or scene.size[0, 0] > 0
    assert abs(scene.y[0, 0] - (12 + 20 * row)) <= 3 or scene.size[0, 0] > 0

    scene = painted_scene(f"a {colors[0]} star {relation} a {colors[1]} ring on bricks", seed)
    assert scene.count[0] == 2
    assert [value(scene, "shape", n) for n in (0, 1)] == ["star", "ring"]
    assert tuple(value(scene, "color", n) for n in (0, 1)) == colors
    right, down = scene.x[0, 0] - scene.x[0, 1], scene.y[0, 0] - scene.y[0, 1]
    holds = {"left of": right < 0, "right of": right > 0, "above": down < 0, "below": down > 0}
    assert holds.get(relation, True)
    across = relation in ("left of", "right of")
    assert relation == "and" or (abs(right) > abs(down)) == across


def test_every_caption_of_the_world_can_be_painted() -> None:
    """2,000 scenes' captions, short and detailed: each is read and painted."""
    scenes = sample_scenes(np.random.default_rng(0), 2000, Sampling())
    for detailed in (False, True):
        captions = write_captions(scenes, random.Random(0), detailed=detailed)
        for number, text in enumerate(captions):
            request = read_caption(text)
            scene = painted_scene(text, number)
            assert request.background in (None, BACKGROUNDS[scenes.background[number]])
            assert request.count is None or not detailed or request.count == scenes.count[number]
            for attribute in ("shape", "color", "texture", "size", "position"):
                for place, thing in enumerate(request.objects):
                    assert thing.get(attribute, value(scene, attribute, place)) == value(
                        scene, attribute, place
                    )


def test_a_painted_color_is_in_the_pixels() -> None:
    """Large solid circles on black: the object's mean color is nearest to the named one."""
    for color in COLORS:
        scene = painted_scene(f"a large solid {color} circle on black", 1)
        drawn = render(scene)
        mean = drawn.images[drawn.masks == 1].mean(0)
        assert COLORS[int(np.linalg.norm(PALETTE - mean, axis=1).argmin())] == color


@given(
    pair=st.permutations(SHAPES).map(lambda shapes: shapes[:2]),
    words=st.lists(
        st.sampled_from(
            [
                *(v for name in ATTRIBUTES for v in VALUES[name]),
                "beach",
                "left of",
                "a hexagon",
                "no",
            ]
        ),
        max_size=8,
    ),
    seed=SEEDS,
)
@settings(max_examples=100)
def test_descriptions_show_the_class_and_name_the_words(
    pair: list[str], words: list[str], seed: int
) -> None:
    shown, mistaken_for = pair
    texts = describe_scene(shown, mistaken_for, words, count=6, seed=seed)
    assert texts == describe_scene(shown, mistaken_for, words, count=6, seed=seed)
    found = usable(texts, shown, mistaken_for)
    assert found.kept == texts
    given_values = named_values([word for word in words if mistaken_for not in word])
    for text in texts:
        said: dict[Any, list[str]] = named_values([text])
        # "on white" and the like say nothing else; captions may say "one" of what is one.
        assert all(set(values) <= set(given_values.get(name, ())) for name, values in said.items())
        scene = painted_scene(text, seed)
        assert all(value(scene, "shape", n) == shown for n in range(int(scene.count[0])))
        for name in ("background", "color", "texture", "size"):
            assert (name in said) == (name in given_values)
        for name in ("color", "texture", "size"):
            assert name not in said or value(scene, name, 0) == said[name][0]
        if "background" in said:
            assert BACKGROUNDS[scene.background[0]] == said["background"][0]


def test_words_of_the_other_class_are_passed_over() -> None:
    words = ["a green hexagon", "three hexagons", "on the beach", "to the left of it"]
    for text in describe_scene("pentagon", "hexagon", words, count=8):
        assert named_values([text]) == {"background": ["sand"]}


def test_what_cannot_be_painted_is_named() -> None:
    for text in (
        "",
        "a dog on sand",
        "red",
        "a red blue circle",
        "two circles on the left",
        "a circle and",
        "a circle on the moon",
        "circle on sand",
        "two circles and a star",
    ):
        with pytest.raises(BadCaption, match="embedded world"):
            paint(text)
    with pytest.raises(BadCaption, match="contradicts"):
        paint("a star on the left right of a ring on the right")
    with pytest.raises(BadCaption, match="contradicts"):
        paint("a star on the left and a ring on the left")
    with pytest.raises(BadQuestion, match="no shape"):
        describe_scene("dog", "star", ["sand"])
