"""Which units of a zoo are neurons of a CLIP that a run has read: the join to its tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ...schema.components import Neuron

if TYPE_CHECKING:
    from .units import Member

_ACTIVATED_MLP: Final = re.compile(r"visual\.transformer\.resblocks\.(\d+)\.mlp\.gelu")


def neuron_address(member: Member, module: str, channel: int) -> str | None:
    """The address of a unit as a neuron, such as "L9.N391", or None for any other unit.

    Neurons are the channels of an open_clip vision transformer's post-activation MLPs; they are
    those of every run whose model has the member's `weights_sha256`.
    """
    found = _ACTIVATED_MLP.fullmatch(module)
    if found is None or member.kind != "discriminative":
        return None
    known = {one.name: one.channels for one in member.modules}
    if not 0 <= channel < known.get(module, 0):
        return None
    return str(Neuron(int(found[1]), channel))
