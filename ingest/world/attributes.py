"""What a scene can be: the attributes of the embedded world and the values each can take."""

from __future__ import annotations

from typing import Final, Literal, get_args

Attribute = Literal["shape", "color", "texture", "size", "position", "background", "count"]
ATTRIBUTES: Final[tuple[Attribute, ...]] = get_args(Attribute)

SHAPES: Final = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "heart",
    "diamond",
    "pentagon",
    "hexagon",
)
COLORS: Final = (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "cyan",
    "brown",
)
TEXTURES: Final = ("solid", "striped", "dotted", "checkered")
SIZES: Final = ("small", "medium", "large")
POSITIONS: Final = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
BACKGROUNDS: Final = ("white", "black", "gray", "water", "sand", "grass", "night", "brick")
COUNTS: Final = ("one", "two", "three", "four", "five", "six")

VALUES: Final[dict[Attribute, tuple[str, ...]]] = {
    "shape": SHAPES,
    "color": COLORS,
    "texture": TEXTURES,
    "size": SIZES,
    "position": POSITIONS,
    "background": BACKGROUNDS,
    "count": COUNTS,
}

MAX_OBJECTS: Final = len(COUNTS)

# Each shape is never seen in one color during training, so that composing the two can be tested
# with every shape equally often.
WITHHELD_COLOR: Final[dict[str, str]] = {
    "circle": "purple",
    "square": "cyan",
    "triangle": "blue",
    "star": "red",
    "cross": "green",
    "ring": "brown",
    "heart": "orange",
    "diamond": "pink",
    "pentagon": "yellow",
    "hexagon": "green",
}

# The planted spurious cue: in training these shapes mostly lie on these backgrounds.
CORRELATED_BACKGROUND: Final[dict[str, str]] = {"pentagon": "water", "hexagon": "sand"}

# Told from each other, and from a circle, by their corners alone: hard to tell when small.
ALIKE: Final = ("pentagon", "hexagon")
