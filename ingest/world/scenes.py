"""Sampling scenes: a batch of them is a set of integer arrays that say what is where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .attributes import (
    ALIKE,
    BACKGROUNDS,
    COLORS,
    CORRELATED_BACKGROUND,
    COUNTS,
    MAX_OBJECTS,
    POSITIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    WITHHELD_COLOR,
    Attribute,
)

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

IMAGE_SIZE: Final = 64
DIAMETERS: Final = (13, 14, 15, 19, 20, 21, 27, 28, 29)
DIAMETERS_PER_SIZE: Final = 3
ROTATIONS: Final = (-12.0, -4.0, 4.0, 12.0)
TEXTURE_VARIANTS: Final = 6
BACKDROP_VARIANTS: Final = 24
BACKDROP_MARGIN: Final = 32

_GRID_ORIGIN, _GRID_PITCH, _GRID_JITTER = 12, 20, 3
_COLOR_JITTER = 8.0

NATURAL_COUNTS: Final = (0.38, 0.20, 0.14, 0.11, 0.09, 0.08)
MOSTLY_SINGLE_COUNTS: Final = (0.70, 0.10, 0.08, 0.05, 0.04, 0.03)
SINGLE_COUNTS: Final = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
UNIFORM_COUNTS: Final = (1 / 6,) * 6


@dataclass(frozen=True, slots=True)
class Sampling:
    """A distribution of scenes.

    `counts` are the probabilities of one to six objects; `correlation` is the probability that the
    planted background replaces a random one; `withheld` says what happens to the color and shape
    pairs kept out of training: `avoid` never draws them, `allow` draws them like any other, `only`
    gives every scene's first object one of them. Without `small_alike`, the shapes that are hard
    to tell apart when small are medium or large. With `exclusive`, no scene with a planted shape
    lies on the background of another one.
    """

    counts: tuple[float, ...] = NATURAL_COUNTS
    correlation: float = 0.0
    withheld: Literal["avoid", "allow", "only"] = "allow"
    small_alike: bool = True
    exclusive: bool = False


@dataclass(frozen=True, slots=True)
class Scenes:
    """A batch of n scenes of up to six objects each.

    What captions speak of: `count` [n] in 1..6, `background` [n], and per object `shape`, `color`,
    `texture`, `size`, `position` [n, 6], all indices into the vocabularies. How it is drawn, per
    object: `diameter` (index into DIAMETERS), `x`, `y` (center, pixels), `rotation`,
    `texture_variant`, `light` (the second color of a texture is lighter, not darker) [n, 6] and
    `color_jitter` [n, 6, 3] (in 0..255 units); per scene: `backdrop`, `crop_x`, `crop_y`, `flip`,
    `brightness` [n]. Objects at or past `count` are not drawn.
    """

    count: IntArray
    background: IntArray
    shape: IntArray
    color: IntArray
    texture: IntArray
    size: IntArray
    position: IntArray
    diameter: IntArray
    x: IntArray
    y: IntArray
    rotation: IntArray
    texture_variant: IntArray
    light: npt.NDArray[np.bool_]
    color_jitter: FloatArray
    backdrop: IntArray
    crop_x: IntArray
    crop_y: IntArray
    flip: npt.NDArray[np.bool_]
    brightness: FloatArray

    def __len__(self) -> int:
        return len(self.count)

    @property
    def visible(self) -> npt.NDArray[np.bool_]:
        """Which of the six objects are drawn, [n, 6]."""
        return np.arange(MAX_OBJECTS) < self.count[:, None]

    def take(self, rows: slice | npt.NDArray[np.int64]) -> Scenes:
        """The scenes at `rows`."""
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def labels(self, attribute: Attribute) -> IntArray:
        """Each scene's value of an attribute, [n]; of the first object where objects have one."""
        if attribute == "count":
            return self.count - 1
        if attribute == "background":
            return self.background
        values: IntArray = getattr(self, attribute)
        return values[:, 0]

    def common(self, attribute: Attribute) -> IntArray:
        """The value that all of a scene's objects share, [n]; -1 where they differ."""
        values: IntArray = getattr(self, attribute)
        same = (values == values[:, :1]) | ~self.visible
        return np.where(same.all(1), values[:, 0], -1)

    def presence(self, attribute: Attribute) -> FloatArray:
        """Which values of an attribute each scene shows: [n, values], rows sum to 1."""
        rows = np.arange(len(self))
        table = np.zeros((len(self), _VALUE_COUNTS[attribute]), np.float32)
        if attribute in ("count", "background"):
            table[rows, self.labels(attribute)] = 1
            return table
        scene, slot = np.nonzero(self.visible)
        table[scene, getattr(self, attribute)[scene, slot]] = 1
        return table / table.sum(1, keepdims=True)


_VALUE_COUNTS: Final[dict[Attribute, int]] = {
    "shape": len(SHAPES),
    "color": len(COLORS),
    "texture": len(TEXTURES),
    "size": len(SIZES),
    "position": len(POSITIONS),
    "background": len(BACKGROUNDS),
    "count": len(COUNTS),
}
_WITHHELD = np.array([COLORS.index(WITHHELD_COLOR[shape]) for shape in SHAPES])
_ALIKE = np.array([SHAPES.index(shape) for shape in ALIKE])


def sample_scenes(
    rng: np.random.Generator,
    n: int,
    sampling: Sampling,
    *,
    fixed: Mapping[Attribute, npt.ArrayLike] | None = None,
) -> Scenes:
    """Draw n scenes.

    `fixed` forces attributes: an index, or [n] indices, for the background, the count (as a number
    of objects) or the first object's shape, color, texture, size or position. Objects of a scene
    often share attributes, so that captions such as "three red circles" are common.
    """
    forced = {name: np.broadcast_to(np.asarray(v), (n,)) for name, v in (fixed or {}).items()}
    per_object = (n, MAX_OBJECTS)

    count = forced.get("count", rng.choice(MAX_OBJECTS, n, p=sampling.counts) + 1).astype(np.int64)
    crowded = (count >= 3)[:, None]
    shape = rng.integers(len(SHAPES), size=per_object)
    color = rng.integers(len(COLORS), size=per_object)
    texture = rng.choice(len(TEXTURES), size=per_object, p=(0.4, 0.2, 0.2, 0.2))
    size = rng.integers(3, size=per_object)
    size = np.where(crowded & (size == 2), rng.integers(2, size=per_object), size)
    for name, values in (("shape", shape), ("color", color), ("texture", texture), ("size", size)):
        if name in forced:
            values[:, 0] = forced[name]

    shape = _share(shape, rng.random(n) < 0.6)
    color = _share(color, rng.random(n) < 0.5)
    texture = _share(texture, rng.random(n) < 0.6)
    size = _share(size, rng.random(n) < 0.5)

    if sampling.withheld == "avoid":
        other = (color + rng.integers(1, len(COLORS), size=per_object)) % len(COLORS)
        color = np.where(color == _WITHHELD[shape], other, color)
    elif sampling.withheld == "only":
        color[:, 0] = _WITHHELD[shape[:, 0]]
    larger = np.where(crowded, 1, rng.integers(1, 3, size=per_object))
    if not sampling.small_alike:
        size = np.where((size == 0) & np.isin(shape, _ALIKE), larger, size)

    position = np.argsort(rng.random((n, len(POSITIONS))), axis=1)[:, :MAX_OBJECTS]
    if "position" in forced:
        position = _move_first(position, forced["position"])
    background = rng.integers(len(BACKGROUNDS), size=n)
    background = _plant(background, shape, count, rng.random(n) < sampling.correlation)
    if sampling.exclusive:
        background = _keep_apart(background, shape, count, rng)
    background = forced.get("background", background).astype(np.int64)

    diameter = DIAMETERS_PER_SIZE * size + rng.integers(DIAMETERS_PER_SIZE, size=per_object)
    radius = np.array(DIAMETERS)[diameter] // 2
    x = _place(position % 3, radius, rng)
    y = _place(position // 3, radius, rng)
    return Scenes(
        count=count,
        background=background,
        shape=shape,
        color=color,
        texture=texture,
        size=size,
        position=position,
        diameter=diameter,
        x=x,
        y=y,
        rotation=rng.integers(len(ROTATIONS), size=per_object),
        texture_variant=rng.integers(TEXTURE_VARIANTS, size=per_object),
        light=rng.random(per_object) < 0.5,
        color_jitter=rng.normal(0.0, _COLOR_JITTER, (*per_object, 3)).astype(np.float32),
        backdrop=rng.integers(BACKDROP_VARIANTS, size=n),
        crop_x=rng.integers(BACKDROP_MARGIN + 1, size=n),
        crop_y=rng.integers(BACKDROP_MARGIN + 1, size=n),
        flip=rng.random(n) < 0.5,
        brightness=rng.uniform(0.88, 1.08, n).astype(np.float32),
    )


def _share(values: IntArray, shared: npt.NDArray[np.bool_]) -> IntArray:
    return np.where(shared[:, None], values[:, :1], values)


def _move_first(position: IntArray, wanted: npt.NDArray[np.int64]) -> IntArray:
    """Put the wanted cell first; an object that had it takes the first one's cell."""
    clash = position == wanted[:, None]
    moved = np.where(clash, position[:, :1], position)
    moved[:, 0] = wanted
    return moved


def _plant(
    background: IntArray, shape: IntArray, count: IntArray, planted: npt.NDArray[np.bool_]
) -> IntArray:
    visible = np.arange(MAX_OBJECTS) < count[:, None]
    present = {
        name: ((shape == SHAPES.index(name)) & visible).any(1) for name in CORRELATED_BACKGROUND
    }
    ambiguous = np.logical_and.reduce(list(present.values()))
    for name, wanted in CORRELATED_BACKGROUND.items():
        moved = present[name] & ~ambiguous & planted
        background = np.where(moved, BACKGROUNDS.index(wanted), background)
    return background


def _keep_apart(
    background: IntArray, shape: IntArray, count: IntArray, rng: np.random.Generator
) -> IntArray:
    """Move scenes with a planted shape off the others' backgrounds, onto unplanted ones."""
    planted = [BACKGROUNDS.index(name) for name in CORRELATED_BACKGROUND.values()]
    neutral = np.setdiff1d(np.arange(len(BACKGROUNDS)), planted)
    visible = np.arange(MAX_OBJECTS) < count[:, None]
    wrong = np.zeros(len(count), np.bool_)
    for name, own in CORRELATED_BACKGROUND.items():
        present = ((shape == SHAPES.index(name)) & visible).any(1)
        wrong |= present & np.isin(background, planted) & (background != BACKGROUNDS.index(own))
    return np.where(wrong, rng.choice(neutral, len(count)), background)


def _place(cell: IntArray, radius: IntArray, rng: np.random.Generator) -> IntArray:
    """Pixel coordinates of centers in a row or column of the 3 x 3 grid, kept inside the image."""
    jitter = rng.integers(-_GRID_JITTER, _GRID_JITTER + 1, size=cell.shape)
    return np.clip(_GRID_ORIGIN + _GRID_PITCH * cell + jitter, radius, IMAGE_SIZE - 1 - radius)
