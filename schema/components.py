"""One spelling for every component of a model: `L22.H8`, `L9.N391`, `L22.MLP`, `EMBED`, `T17`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .errors import BadAddress, BadName

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LAYERED = re.compile(r"L(\d+)\.(?:H(\d+)|N(\d+)|(ATTN|MLP))", re.IGNORECASE)
_SEVERAL = re.compile(r"(?:attn|mlp)(?:\[.*)?", re.IGNORECASE)
_TOKEN = re.compile(r"T(\d+)", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Head:
    """An attention head; layers and heads count from 0 as in the thesis' tables."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}.H{self.head}"


@dataclass(frozen=True, order=True)
class Neuron:
    """An MLP neuron: one channel after the activation function."""

    layer: int
    neuron: int

    def __str__(self) -> str:
        return f"L{self.layer}.N{self.neuron}"


@dataclass(frozen=True, order=True)
class Attention:
    """A whole layer's attention output at the class token."""

    layer: int

    def __str__(self) -> str:
        return f"L{self.layer}.ATTN"


@dataclass(frozen=True, order=True)
class Mlp:
    """A whole layer's MLP output at the class token."""

    layer: int

    def __str__(self) -> str:
        return f"L{self.layer}.MLP"


@dataclass(frozen=True)
class Embed:
    """The class token that enters the first block (after `ln_pre`)."""

    def __str__(self) -> str:
        return "EMBED"


@dataclass(frozen=True, order=True)
class Token:
    """An image token (patch), counted row by row from 0."""

    token: int

    def __str__(self) -> str:
        return f"T{self.token}"


@dataclass(frozen=True)
class ClassToken:
    """The class token."""

    def __str__(self) -> str:
        return "CLS"


Component = Head | Neuron | Attention | Mlp | Embed | Token | ClassToken


def parse_component(address: str) -> Component:
    """Read a component's address, without regard to case.

    Raises `BadAddress` for anything that is not one.
    """
    text = address.strip()
    if text.upper() == "EMBED":
        return Embed()
    if text.upper() == "CLS":
        return ClassToken()
    if match := _TOKEN.fullmatch(text):
        return Token(int(match[1]))
    if match := _LAYERED.fullmatch(text):
        layer = int(match[1])
        if match[2] is not None:
            return Head(layer, int(match[2]))
        if match[3] is not None:
            return Neuron(layer, int(match[3]))
        return Attention(layer) if match[4].upper() == "ATTN" else Mlp(layer)
    if _SEVERAL.fullmatch(text):
        msg = (
            f"{address!r} stands for several layers, which only ablate= takes; here each component "
            "is named by its own address, such as L22.H8 or L22.ATTN."
        )
        raise BadAddress(msg)
    msg = (
        f"{address!r} is not a component's address; write a head as L22.H8, a neuron as L9.N391, "
        "a layer as L22.ATTN or L22.MLP, the class token's embedding as EMBED, a patch as T17."
    )
    raise BadAddress(msg)


def parse_head(address: str) -> Head:
    """Read the address of a head; raises `BadAddress` for that of anything else."""
    component = parse_component(address)
    if isinstance(component, Head):
        return component
    msg = f"{address!r} is not a head; write L22.H8 for head 8 of layer 22."
    raise BadAddress(msg)


def split_run(address: str) -> tuple[str | None, str]:
    """Split `RUN:L22.H8` into the run's name (None when absent) and the component's address.

    Raises `BadAddress` for what is no text, `BadName` for what names no run.
    """
    given: Any = address
    if not isinstance(given, str):
        msg = f"{given!r} is not a component's address; write it as a text, such as 'L22.H8'."
        raise BadAddress(msg)
    run, colon, component = address.partition(":")
    if not colon or "[" in run:  # the colon of a slice, such as attn[:20]
        return None, address
    return check_name(run, kind="run"), component


def layer_terms(layers: int) -> list[str]:
    """Name the 2L+1 residual terms in the order in which the store keeps them (T2.4)."""
    names = [str(Embed())]
    for layer in range(layers):
        names += [str(Attention(layer)), str(Mlp(layer))]
    return names


def check_name(name: str, *, kind: str) -> str:
    """Return the name of a run, pool or data set, or raise `BadName`."""
    if _NAME.fullmatch(name):
        return name
    msg = (
        f"{name!r} cannot name a {kind}: use lower-case letters, digits, '.', '_' and '-', "
        f"beginning with a letter or digit, such as {slug(name)!r}."
    )
    raise BadName(msg)


def slug(text: str) -> str:
    """Turn any text into the nearest name that a run, pool or data set may have."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._") or "unnamed"
