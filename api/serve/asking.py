"""Parameters that questions share, each within bounds."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Path, Query
from pydantic import BeforeValidator, Field

LONGEST = 500

Text: TypeAlias = Annotated[
    str, Query(min_length=1, max_length=LONGEST, description="A text, such as `a red circle`.")
]
MaybeText: TypeAlias = Annotated[
    str, Query(max_length=LONGEST, description="A text; left out or empty, nothing is asked.")
]
K: TypeAlias = Annotated[int, Query(ge=1, le=200, description="How many rows, best first.")]
M: TypeAlias = Annotated[int, Query(ge=1, le=128, description="How many texts are picked.")]
PoolName: TypeAlias = Annotated[
    str | None, Query(max_length=200, description="A pool's name; by default the run's pool.")
]
HeadName: TypeAlias = Annotated[
    str, Path(max_length=40, description="A head's address, such as `L22.H8`.")
]
NeuronName: TypeAlias = Annotated[
    str, Path(max_length=40, description="A neuron's address, such as `L9.N391`.")
]
ImageId: TypeAlias = Annotated[int, Path(ge=0, le=2**63 - 1, description="An image's number.")]
Like: TypeAlias = Annotated[
    str, Query(max_length=LONGEST, description="An image's number or key; empty for none.")
]
Layer: TypeAlias = Annotated[
    Annotated[int, Field(ge=0, le=10_000)] | None,
    # A form sends its empty choice as an empty text.
    BeforeValidator(lambda given: None if given == "" else given),
    Query(description="A layer, from 0; by default all kept ones."),
]


def named_image(name: str) -> int | str:
    """An image by its number where that is what a text holds, else by its key."""
    return int(name) if name.isascii() and name.isdigit() and len(name) < 19 else name
