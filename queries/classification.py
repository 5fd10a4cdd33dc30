"""Zero-shot classification: prompts, class directions, predictions and accuracy per group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadTemplate

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

Template: TypeAlias = str | Callable[[str], str]
"""A text with `{}` where the class's name goes, or a function from the name to the text."""


class GroupCounts(NamedTuple):
    """How many images each group has [G], and how many of them are predicted right [G]."""

    images: I64
    correct: I64

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """The share predicted right in each group, NaN in one without images."""
        shares = np.full(len(self.images), np.nan)
        return np.divide(self.correct, self.images, out=shares, where=self.images > 0)


def prompt(template: Template, name: str) -> str:
    """The text that a template makes of a class's name; raises `BadTemplate`."""
    if isinstance(template, str):
        if "{}" not in template:
            msg = (
                f"the template {template!r} says nowhere where the class goes; "
                "put {} there, as in 'An image of a {}'."
            )
            raise BadTemplate(msg)
        return template.replace("{}", name)
    made: Any = template(name)
    if not isinstance(made, str):
        msg = f"the template {_called(template)} makes {made!r} of {name!r}; it has to make a text."
        raise BadTemplate(msg)
    return made


def template_text(template: Template) -> str:
    """A template as a text: a function as what it makes of `{}`, or by its name."""
    if isinstance(template, str):
        return template
    made = prompt(template, "{}")
    return made if "{}" in made else _called(template)


def class_directions(embeddings: Numbers) -> F32:
    """The direction of each class: the mean over templates of unit embeddings, at unit length.

    `embeddings` [C, templates, d'], each of unit length; gives [C, d'] (T2.1; thesis, section 2.2).
    """
    mean = np.asarray(embeddings, np.float64).mean(axis=1)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    return np.divide(mean, length, out=mean, where=length > 0).astype(np.float32)


def predict(representations: F32, weights: F32) -> I64:
    """The class of the largest `<M(I), w>` for each image [k]; the first of equal ones.

    `representations` [k, d'] need no unit length: an image's length changes no order of its
    classes. `weights` [C, d'].
    """
    return (representations @ weights.T).argmax(axis=1)


def group_counts(predicted: I64, labels: I64, groups: I64, *, count: int) -> GroupCounts:
    """Count images and right predictions in groups 0 .. count-1; all arguments are [k]."""
    correct = np.bincount(groups[predicted == labels], minlength=count)
    return GroupCounts(np.bincount(groups, minlength=count), correct)


def _called(template: Sequence[Any] | Callable[..., Any]) -> str:
    return str(getattr(template, "__qualname__", None) or repr(template))
