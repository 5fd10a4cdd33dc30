"""The embedded world: what is drawn and written, against what is known to be true."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Mapping
from dataclasses import replace
from math import pi, sin
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lensbase.ingest.world import dataset, losses
from lensbase.ingest.world.attributes import (
    ALIKE,
    ATTRIBUTES,
    BACKGROUNDS,
    COLORS,
    CORRELATED_BACKGROUND,
    COUNTS,
    SHAPES,
    SIZES,
    TEXTURES,
    VALUES,
    WITHHELD_COLOR,
    Attribute,
)
from lensbase.ingest.world.captions import (
    class_prompts,
    in_words,
    plural,
    write_captions,
)
from lensbase.ingest.world.recipe import EXCLUSIVE, NATURAL, SPURIOUS, Recipe
from lensbase.ingest.world.render import PALETTE, render
from lensbase.ingest.world.scenes import (
    DIAMETERS,
    SINGLE_COUNTS,
    UNIFORM_COUNTS,
    Sampling,
    Scenes,
    sample_scenes,
)

SINGLE = Sampling(SINGLE_COUNTS)
UNIFORM = Sampling(UNIFORM_COUNTS)

# Areas on the square |u|, |v| <= 1, from the corners and radii of the shapes; a heart has no such
# formula.
AREAS = {
    "circle": pi * 0.95**2,
    "square": 1.6**2,
    "triangle": 1.75**2 / 1.85,
    "star": 5 * 0.42 * sin(pi / 5),
    "cross": 2 * 0.64 * 1.9 - 0.64**2,
    "ring": pi * (0.98**2 - 0.55**2),
    "diamond": 2 * 0.98**2 / 1.25,
    "pentagon": 2.5 * sin(2 * pi / 5),
    "hexagon": 3 * sin(2 * pi / 6),
}


def draw(
    seed: int, n: int, sampling: Sampling = UNIFORM, fixed: Mapping[Attribute, int] | None = None
) -> Scenes:
    return sample_scenes(np.random.default_rng(seed), n, sampling, fixed=fixed)


def only(scenes: Scenes, slot: int) -> Scenes:
    """The same scenes with one of their objects alone."""
    names = ("shape", "color", "texture", "size", "diameter", "x", "y", "rotation")
    names += ("texture_variant", "light", "color_jitter")
    moved = {name: getattr(scenes, name)[:, [slot] * 6] for name in names}
    return replace(scenes, count=np.minimum(scenes.count, 1), **moved)


def grown(mask: npt.NDArray[np.bool_], steps: int) -> npt.NDArray[np.bool_]:
    for _ in range(steps):
        wide = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
        shifted = [wide[:, a : a + 64, b : b + 64] for a in range(3) for b in range(3)]
        mask = np.logical_or.reduce(shifted)
    return mask


# Drawing


def test_the_same_scenes_give_the_same_bytes_alone_or_in_a_batch():
    scenes = draw(1, 40)
    once, again = render(scenes), render(draw(1, 40))
    assert once.images.tobytes() == again.images.tobytes()
    assert once.masks.tobytes() == again.masks.tobytes()
    alone = render(scenes.take(slice(17, 18)))
    assert np.array_equal(alone.images[0], once.images[17])
    assert np.array_equal(alone.masks[0], once.masks[17])


@pytest.mark.parametrize("shape", list(AREAS))
def test_a_mask_has_the_area_of_its_shape(shape: str):
    scenes = draw(2, 200, SINGLE, {"shape": SHAPES.index(shape)})
    radius = np.array(DIAMETERS)[scenes.diameter[:, 0]] / 2
    area = (render(scenes).masks == 1).sum((1, 2))
    expected = AREAS[shape] * radius**2
    # Counting pixels errs by a share of the outline, which grows like the radius.
    assert np.abs(area - expected).max() <= 1.5 * radius.max()
    assert area.sum() == pytest.approx(expected.sum(), rel=0.04)


def test_solid_objects_have_their_color_and_nothing_else_is_painted():
    scenes = draw(3, 300, SINGLE, {"texture": TEXTURES.index("solid")})
    scenes = scenes.take(np.flatnonzero(scenes.shape[:, 0] != SHAPES.index("ring")))
    drawing = render(scenes)
    rows = np.arange(len(scenes))
    center = drawing.images[rows, scenes.y[:, 0], scenes.x[:, 0]].astype(float)
    paint = np.clip(PALETTE[scenes.color[:, 0]] + scenes.color_jitter[:, 0], 0, 255)
    expected = np.clip(paint * scenes.brightness[:, None], 0, 255)
    assert np.abs(center - expected).max() <= 2  # two roundings down
    assert (drawing.masks[rows, scenes.y[:, 0], scenes.x[:, 0]] == 1).all()

    empty = render(replace(scenes, count=np.zeros_like(scenes.count))).images
    changed = (drawing.images != empty).any(-1)
    assert not (changed & ~grown(drawing.masks > 0, 2)).any()
    assert (changed | (drawing.masks == 0)).mean() > 0.999  # same color as the background: rare


def test_a_pixel_belongs_to_the_last_object_that_covers_it():
    scenes = draw(4, 200)
    expected = np.zeros((200, 64, 64), np.uint8)
    for slot in range(6):
        covered = render(only(scenes, slot)).masks == 1
        expected[covered & (scenes.count > slot)[:, None, None]] = slot + 1
    assert np.array_equal(render(scenes).masks, expected)


def test_objects_lie_in_their_cell_of_the_grid():
    scenes = draw(5, 500)
    column = np.abs(scenes.x - (12 + 20 * (scenes.position % 3)))
    row = np.abs(scenes.y - (12 + 20 * (scenes.position // 3)))
    assert max(column.max(), row.max()) <= 3
    assert all(len(set(cells)) == 6 for cells in scenes.position.tolist())
    radius = np.array(DIAMETERS)[scenes.diameter] // 2
    assert np.minimum(scenes.x, scenes.y).min() >= radius.min()
    assert ((scenes.x + radius <= 63) & (scenes.y + radius <= 63)).all()


# Sampling


@pytest.mark.parametrize("sampling", [stage.sampling for stage in Recipe().stages])
def test_training_never_shows_a_withheld_pair(sampling: Sampling):
    scenes = draw(6, 20_000, sampling)
    withheld = np.array([COLORS.index(WITHHELD_COLOR[shape]) for shape in SHAPES])
    assert not (scenes.visible & (scenes.color == withheld[scenes.shape])).any()
    pairs = len({(s, c) for s, c in zip(scenes.shape[:, 0], scenes.color[:, 0], strict=True)})
    assert pairs == len(SHAPES) * len(COLORS) - len(WITHHELD_COLOR)
    shown = draw(7, 500, Sampling(SINGLE_COUNTS, withheld="only"))
    assert (shown.color[:, 0] == withheld[shown.shape[:, 0]]).all()


def test_no_training_text_names_a_withheld_pair():
    texts = [text for name in ATTRIBUTES for value in class_prompts(name) for text in value]
    texts += write_captions(draw(8, 5000, SPURIOUS), random.Random(8))
    named = {f"{color} {shape}" for shape, color in WITHHELD_COLOR.items()}
    named |= {f"{color} {plural(shape)}" for shape, color in WITHHELD_COLOR.items()}
    pattern = re.compile(rf"\b({'|'.join(named)})\b")
    assert not [text for text in texts if pattern.search(text)]


@pytest.mark.parametrize(("shape", "background"), [("pentagon", "water"), ("hexagon", "sand")])
def test_the_spurious_cue_is_planted_in_training_only(shape: str, background: str):
    wanted = BACKGROUNDS.index(background)

    def share(sampling: Sampling) -> float:
        scenes = draw(9, 20_000, replace(sampling, counts=SINGLE_COUNTS))
        has = scenes.shape[:, 0] == SHAPES.index(shape)
        return float((scenes.background[has] == wanted).mean())

    # About 2,000 scenes each: three standard deviations are under 0.03.
    for sampling in (NATURAL, SPURIOUS):
        p = sampling.correlation
        assert share(sampling) == pytest.approx(p + (1 - p) / 8, abs=0.03)
    assert share(EXCLUSIVE) > 0.5
    assert share(dataset.EVALUATION) == pytest.approx(1 / 8, abs=0.03)


def test_exclusive_backgrounds_never_belong_to_another_shape():
    scenes = draw(20, 10_000, EXCLUSIVE)
    for shape, background in CORRELATED_BACKGROUND.items():
        has = ((scenes.shape == SHAPES.index(shape)) & scenes.visible).any(1)
        others = set(CORRELATED_BACKGROUND.values()) - {background}
        seen = {BACKGROUNDS[b] for b in np.unique(scenes.background[has])}
        assert seen == set(BACKGROUNDS) - others


def test_attributes_can_be_forced():
    fixed: dict[Attribute, int] = {
        "shape": 3,
        "color": 4,
        "texture": 2,
        "position": 8,
        "background": 5,
        "count": 4,
    }
    scenes = draw(10, 300, UNIFORM, fixed)
    for name, value in fixed.items():
        assert (scenes.labels(name) == (value - 1 if name == "count" else value)).all()


@pytest.mark.parametrize("sampling", [NATURAL, SPURIOUS])
def test_shapes_hard_to_tell_are_small_only_where_allowed(sampling: Sampling):
    scenes = draw(11, 5000, sampling)
    alike = np.isin(scenes.shape, [SHAPES.index(shape) for shape in ALIKE])
    assert (scenes.size[alike] == 0).any() == sampling.small_alike
    assert {SIZES[s] for s in np.unique(scenes.size[~alike])} == set(SIZES)


def test_presence_is_a_distribution_over_what_is_visible():
    scenes = draw(12, 100)
    for name in ATTRIBUTES:
        table = scenes.presence(name)
        assert table.sum(1) == pytest.approx(1)
        for row, words in zip(table, in_words(scenes), strict=True):
            shown = {VALUES[name][i] for i in np.flatnonzero(row)}
            if name == "background":
                assert shown == {words.background}
            elif name == "count":
                assert shown == {COUNTS[len(words.objects) - 1]}
            else:
                assert shown == {getattr(thing, name) for thing in words.objects}


def test_a_patch_has_the_label_of_the_object_that_covers_most_of_it():
    scenes = draw(13, 20)
    masks = render(scenes).masks
    labels = losses.patch_labels(scenes, masks, patch=8)["color"]
    for i, patch in [(0, 9), (3, 27), (7, 36), (11, 54), (19, 63)]:
        block = masks[i, 8 * (patch // 8) :, 8 * (patch % 8) :][:8, :8]
        counts = np.bincount(block.ravel(), minlength=7)[1:]
        owner = int(counts.argmax())
        expected = scenes.color[i, owner] + 1 if counts[owner] >= 16 else 0
        assert labels[i, patch] == expected


# The data set on disk


def test_written_scenes_match_their_manifest(tmp_path: Path):
    manifest = dataset.write_scenes(tmp_path / "a", count=60, seed=5)
    rows = list(csv.DictReader(manifest.open()))
    scenes = draw(5, 60, dataset.EVALUATION)
    drawing = render(scenes)
    captions = write_captions(scenes, random.Random(5))
    masks = np.load(tmp_path / "a" / "masks.npz")["masks"]
    assert np.array_equal(masks, drawing.masks)
    for i, (row, words) in enumerate(zip(rows, in_words(scenes), strict=True)):
        image = np.asarray(Image.open(tmp_path / "a" / row["path"]))
        assert np.array_equal(image, drawing.images[i])
        assert row["label"] == row["shape"] == words.objects[0].shape
        assert row["group"] == f"{row['shape']} on {words.background}"
        assert int(row["count"]) == len(words.objects)
        assert row["caption"] == captions[i]
    things = list(csv.DictReader((tmp_path / "a" / "objects.csv").open()))
    assert len(things) == scenes.count.sum()
    for thing in things:
        if thing["object"] == "1":
            row = next(row for row in rows if row["path"] == thing["path"])
            assert all(row[name] == thing[name] for name in ("shape", "color", "position"))

    dataset.write_scenes(tmp_path / "b", count=60, seed=5)
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
