"""Specifications of a zoo's members: `NAME=SOURCE:ARCHITECTURE[@PRETRAINED][#PATTERN]`.

What stands after `#` chooses modules (`default_modules` says how), and what stands between the
architecture and it, after the first `@`, names weights: a tag of the source's or a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ...schema.errors import BadName
from ...schema.zoo_errors import BadMember
from .default_modules import near_names

SOURCES: Final = ("open_clip", "timm", "torchvision", "checkpoint", "generator", "world")
GRAMMAR: Final = (
    "A member is NAME=SOURCE:ARCHITECTURE[@PRETRAINED][#PATTERN], such as "
    "'rn=torchvision:resnet50@IMAGENET1K_V2#layer3.*' or "
    "'mine=checkpoint:package.module:callable@weights.safetensors'; "
    f"sources: {', '.join(SOURCES)}"
)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A member's specification, taken apart; `text` is what was written."""

    text: str
    name: str
    source: str
    architecture: str
    pretrained: str | None
    pattern: str | None


def parse_spec(text: str) -> MemberSpec:
    """Take a specification apart; what its architecture and weights mean is the source's affair.

    Raises BadMember for a text of another form or an unknown source, BadName for a bad name.
    """
    name, equals, rest = text.partition("=")
    source, colon, rest = rest.partition(":")
    if not equals or not colon or not name or not rest:
        msg = f"{text!r} cannot be read. {GRAMMAR}"
        raise BadMember(msg)
    check_member_name(name)
    if source not in SOURCES:
        near = near_names(source, list(SOURCES), count=2)
        msg = f"there is no source {source!r}, nearest: {near}. {GRAMMAR}"
        raise BadMember(msg)
    rest, hash_sign, pattern = rest.partition("#")
    architecture, at, pretrained = rest.partition("@")
    if not architecture or (at and not pretrained) or (hash_sign and not pattern):
        empty = "architecture" if not architecture else "pattern" if hash_sign else "weights"
        msg = f"{text!r} leaves its {empty} empty. {GRAMMAR}"
        raise BadMember(msg)
    return MemberSpec(text, name, source, architecture, pretrained or None, pattern or None)


def check_member_name(name: str) -> None:
    """Raise BadName unless a member can be called `name`."""
    if not _NAME.fullmatch(name):
        msg = (
            f"a zoo's member cannot be called {name!r}: names are lower-case letters, digits, "
            "'.', '_' and '-', beginning with a letter or digit"
        )
        raise BadName(msg)


def check_distinct(names: list[str]) -> None:
    """Raise BadMember where two members of a zoo have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = (
            f"{twice[0]!r} is the name of {names.count(twice[0])} members: give each member of a "
            f"zoo its own, such as {twice[0]}-2=..."
        )
        raise BadMember(msg)
