"""The embedded world's own text pool, and which attribute each of its texts is about."""

from __future__ import annotations

from functools import cache
from typing import Final

from .attributes import ATTRIBUTES, COLORS, SHAPES, TEXTURES, Attribute
from .captions import CAPTION_TEMPLATES, TRAINING_TEMPLATES, class_prompts, with_article

# About as many texts for an attribute with few values as for one with many, so that no attribute
# wins a head merely by being asked for more often.
_TEMPLATES: Final[dict[Attribute, tuple[str, ...]]] = {
    "shape": ("{}",),
    "color": TRAINING_TEMPLATES[:2],
    "texture": (*TRAINING_TEMPLATES, "a drawing of {}"),
    "size": tuple(dict.fromkeys(CAPTION_TEMPLATES)),
    "position": TRAINING_TEMPLATES[:2],
    "background": ("{}",),
    "count": TRAINING_TEMPLATES[:3],
}


@cache
def _pool() -> dict[str, Attribute | None]:
    texts: dict[str, Attribute | None] = {}
    for name in ATTRIBUTES:
        for value in class_prompts(name, templates=_TEMPLATES[name]):
            texts |= {text: name for text in value if name != "shape" or len(text.split()) == 2}
    texts |= {f"a photo of {with_article(shape)}": "shape" for shape in SHAPES}
    texts |= {f"a picture of {with_article(shape)}": "shape" for shape in SHAPES}
    texts |= {with_article(f"{color} {shape}"): None for color in COLORS for shape in SHAPES}
    texts |= {with_article(f"{texture} {shape}"): None for texture in TEXTURES for shape in SHAPES}
    return texts


def text_pool() -> list[str]:
    """Texts about every value of every attribute, plain ones like "a red circle" among them."""
    return list(_pool())


def text_attribute(text: str) -> Attribute | None:
    """The one attribute a text of the pool is about; None if it speaks of two.

    Raises KeyError for a text that is not in the pool.
    """
    return _pool()[text]
