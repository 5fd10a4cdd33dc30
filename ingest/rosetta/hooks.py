"""Forward hooks on a model's modules, and their outputs as maps [B, C, h, w].

How an output is laid out is read once, from a forward pass over two pictures, and holds from then
on: a square picture's maps are square, which tells channels from places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import torch
from torch import nn

from .units import UnitModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

PROBES: Final = 2
"""Pictures in the forward pass that finds out how a model's outputs are laid out."""

_MOST_PREFIX = 16  # tokens before the grid that are believed without the model's word
_UNORDERED = ("Hiera",)  # their tokens follow masked units, not the rows of a grid


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the channels and places of an output are.

    `kind` is "channels" [B, C, h, w], "places" [B, h, w, C], "tokens" [B, T, C] or "token rows"
    [T, B, C], the last two with `prefix` tokens before those of the grid.
    """

    kind: Literal["channels", "places", "tokens", "token rows"]
    grid: tuple[int, int]
    prefix: int = 0

    def map(self, output: Tensor) -> Tensor:
        """Give the output of any batch as float32 [B, C, h, w]; differentiable, maybe a view."""
        if self.kind == "channels":
            return output.float()
        if self.kind == "places":
            return output.float().permute(0, 3, 1, 2)
        if self.kind == "token rows":
            output = output.transpose(0, 1)
        tokens = output.float()[:, self.prefix :]
        return tokens.transpose(1, 2).unflatten(2, self.grid)


@dataclass(frozen=True, slots=True)
class Hook:
    """A hooked module: its unit module, its name inside the network that runs, and its layout.

    `overwritten` where a later module works in place on the output, which is then copied.
    """

    unit: UnitModule
    inside: str
    layout: Layout
    overwritten: bool


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """What a vision transformer says of its tokens: class and register tokens, patches' grid."""

    prefix: int | None
    grid: tuple[int, int] | None
    ordered: bool


def token_grid(network: nn.Module) -> TokenGrid:
    """Read the attributes `num_prefix_tokens` (timm) and `grid_size` (timm, open_clip)."""
    prefix, grid, ordered = None, None, True
    for module in network.modules():
        count, size = getattr(module, "num_prefix_tokens", None), getattr(module, "grid_size", None)
        if prefix is None and isinstance(count, int):
            prefix = count
        if grid is None and isinstance(size, tuple | list) and len(cast("Any", size)) == 2:
            grid = (int(cast("Any", size)[0]), int(cast("Any", size)[1]))
        ordered = ordered and type(module).__name__ not in _UNORDERED
    return TokenGrid(prefix, grid, ordered)


def read_layout(output: object, tokens: TokenGrid) -> Layout | str:
    """How the output of a pass over two pictures is laid out, or why it has no maps."""
    if not isinstance(output, torch.Tensor):
        return f"gives {type(output).__name__}, no tensor"
    shape = tuple(output.shape)
    if not output.is_floating_point():
        return f"gives {output.dtype}"
    layout = None
    if output.ndim == 4 and shape[0] == PROBES:
        if shape[2] == shape[3]:
            layout = Layout("channels", (shape[2], shape[3]))
        elif shape[1] == shape[2]:
            layout = Layout("places", (shape[1], shape[2]))
    elif output.ndim == 3 and PROBES in shape[:2]:
        first = shape[0] == PROBES
        found = _token_places(shape[1] if first else shape[0], tokens)
        if isinstance(found, str):
            return f"gives {_shown(shape)}, {found}"
        layout = Layout("tokens" if first else "token rows", found[1], found[0])
    if layout is None:
        return f"gives {_shown(shape)} of {PROBES} pictures"
    if layout.grid == (1, 1):
        return f"gives {_shown(shape)} of {PROBES} pictures: one place, so pooled"
    return layout


def _token_places(count: int, tokens: TokenGrid) -> tuple[int, tuple[int, int]] | str:
    """The tokens before the grid, and the grid."""
    if not tokens.ordered:
        return "tokens that are not in the order of a grid"
    if tokens.grid is not None:
        rest = count - tokens.grid[0] * tokens.grid[1]
        if rest == 0 or (rest > 0 and rest == tokens.prefix):
            return rest, tokens.grid
    declared = count - (tokens.prefix or 0)
    if declared > 0 and math.isqrt(declared) ** 2 == declared:
        side = math.isqrt(declared)
        return count - declared, (side, side)
    side = math.isqrt(count)
    if count - side * side > _MOST_PREFIX:
        return f"{count} tokens that are no square grid with a few tokens before it"
    return count - side * side, (side, side)


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def run_hooked(
    network: nn.Module,
    names: Iterable[str],
    run: Callable[[], Tensor],
    *,
    copied: frozenset[str] = frozenset(),
) -> tuple[Tensor, dict[str, Any], frozenset[str]]:
    """Run a forward pass and give its result, the outputs of modules, and who was overwritten.

    Of a module that is called several times, such as the `relu` that torchvision's residual blocks
    use three times, the last call counts: there, the block's output. Of a tuple, its first tensor.
    The outputs of `copied` modules are copied before anything can work on them in place. Modules
    that were not called are left out. Who was overwritten cannot be told in inference mode.
    """
    kept: dict[str, Any] = {}
    versions: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, tuple | list) and output:
                output = cast("Any", output)[0]
            if isinstance(output, torch.Tensor):
                if name in copied:
                    output = output.clone()
                if not output.is_inference():
                    versions[name] = output._version
            kept[name] = output

        return keep

    handles = [network.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    overwritten = frozenset(n for n, version in versions.items() if kept[n]._version != version)
    return result, kept, overwritten


def run_mapped(
    network: nn.Module, hooks: Iterable[Hook], run: Callable[[], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The result of a forward pass and the float32 maps [B, C, h, w] of hooks, by unit module."""
    hooks = list(hooks)
    copied = frozenset(hook.inside for hook in hooks if hook.overwritten)
    result, outputs, _ = run_hooked(network, [h.inside for h in hooks], run, copied=copied)
    return result, {hook.unit.name: hook.layout.map(outputs[hook.inside]) for hook in hooks}


def read_hooks(
    outputs: Mapping[str, Any], names: Iterable[str], tokens: TokenGrid
) -> tuple[dict[str, Layout], dict[str, str]]:
    """The layouts of those modules that have maps, and the reasons of those that have none."""
    layouts: dict[str, Layout] = {}
    reasons: dict[str, str] = {}
    for name in names:
        found = (
            read_layout(outputs[name], tokens)
            if name in outputs
            else "is not called by the forward pass"
        )
        if isinstance(found, Layout):
            layouts[name] = found
        else:
            reasons[name] = found
    return layouts, reasons
