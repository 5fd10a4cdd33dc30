"""One spelling for every unit of a Rosetta zoo: `resnet50:layer3.5.relu/117`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .components import Neuron
from .errors import BadAddress

_ADDRESS = re.compile(r"([^:]+):(.+)/(\d+)")
_CLIP_NEURONS = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.mlp\.gelu")


@dataclass(frozen=True, order=True)
class Unit:
    """A channel of a hooked module of one of a zoo's models; channels count from 0."""

    model: str
    module: str
    channel: int

    def __str__(self) -> str:
        return f"{self.model}:{self.module}/{self.channel}"


def parse_unit(address: str) -> Unit:
    """Read a unit's address; raises `BadAddress` for anything that is not one."""
    given: Any = address
    match = _ADDRESS.fullmatch(given.strip()) if isinstance(given, str) else None
    if match is None:
        msg = (
            f"{address!r} is not a unit's address; write MODEL:MODULE/CHANNEL, such as "
            "resnet50:layer3.5.relu/117, or of a CLIP's neuron clip:L9.N391."
        )
        raise BadAddress(msg)
    return Unit(match[1], match[2], int(match[3]))


def neuron_of(module: str, channel: int) -> Neuron | None:
    """The MLP neuron that a channel of an open_clip vision tower is, after its activation."""
    match = _CLIP_NEURONS.fullmatch(module)
    return None if match is None else Neuron(int(match[1]), channel)
