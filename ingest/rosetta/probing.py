"""The first look at a model: one forward pass over two pictures, before any long work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...schema.zoo_errors import NoSpatialMaps, NoSuchModule
from .default_modules import default_modules, matching_modules, near_names
from .hooks import Hook, read_hooks, run_hooked, token_grid
from .units import UnitModule
from .user_code import forward_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

_SHOWN = 3


def find_hooks(
    network: nn.Module,
    run: Callable[[], Any],
    *,
    name: str,
    prefix: str,
    pattern: str | None,
) -> list[Hook]:
    """Hook a network's default modules, or those that a pattern over full names chooses.

    `run` makes a forward pass over two pictures; modules are called `prefix` and their dotted
    name. Raises NoSuchModule where the pattern matches nothing or there are no default modules,
    NoSpatialMaps where a chosen module has no maps, ForwardFailed where the pass fails.
    """
    inside = {f"{prefix}{module}": module for module, _ in network.named_modules() if module}
    if pattern is None:
        full = [f"{prefix}{module}" for module in default_modules(network)]
    else:
        full = matching_modules(list(inside), pattern)
    outputs, overwritten = _outputs(network, [inside[one] for one in full], run, name=name)
    layouts, reasons = read_hooks(outputs, [inside[one] for one in full], token_grid(network))
    if pattern is not None and reasons:
        listed = "; ".join(f"{prefix}{one} {why}" for one, why in list(reasons.items())[:_SHOWN])
        more = "" if len(reasons) <= _SHOWN else f"; and {len(reasons) - _SHOWN} more"
        msg = (
            f"{name}: the pattern {pattern!r} chooses modules without spatial maps: {listed}"
            f"{more}. Choose modules that keep the picture's places (an output [B, C, h, w], "
            "[B, h, w, C] or [B, tokens, C]), or take these out with ',!GLOB'"
        )
        raise NoSpatialMaps(msg)
    if not layouts:
        reason = "it has no activation modules"
        if reasons:
            one, why = next(iter(reasons.items()))
            reason = f"none of its activations keeps places ({prefix}{one} {why})"
        msg = (
            f"{name} has no default modules: {reason}. Choose modules with #PATTERN (globs over "
            f"dotted names), among: {near_names('layer', list(inside), count=8)}"
        )
        raise NoSpatialMaps(msg) if full else NoSuchModule(msg)
    return [
        Hook(
            UnitModule(one, _channels(outputs[inside[one]], layout.kind), layout.grid),
            inside[one],
            layout,
            inside[one] in overwritten,
        )
        for one in full
        if (layout := layouts.get(inside[one])) is not None
    ]


def _outputs(
    network: nn.Module, names: list[str], run: Callable[[], Any], *, name: str
) -> tuple[dict[str, Any], frozenset[str]]:
    with torch.no_grad(), forward_of(name, over="two pictures of the member's input size"):
        _, outputs, overwritten = run_hooked(network, names, run)
    return outputs, overwritten


def _channels(output: Any, kind: str) -> int:
    return int(output.shape[1] if kind == "channels" else output.shape[-1])
