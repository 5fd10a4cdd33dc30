"""Which MLP layers' neurons a pass can take in, and what they cost in memory.

A neuron of layer l acts through the J pairs of later layer and head (`second_order`), so early
layers cost most: 2.2 GB for the first of ViT-L-14, 18 GB for all of them, read in several passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .tower import read_tower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from .tower import Tower


def neuron_count(tower: Tower, layer: int) -> int:
    """N, the neurons of a layer."""
    return tower.blocks[layer].proj_weight.shape[1]


def path_count(tower: Tower, layer: int) -> int:
    """J, the pairs of later layer and head that a layer's neurons act through."""
    return tower.heads * (len(tower.blocks) - 1 - layer)


def check_layers(layers: Sequence[int], count: int) -> None:
    """Raise ValueError unless `layers` ascend and each has attention after it, of `count`."""
    ascending = all(a < b for a, b in zip(layers, list(layers)[1:], strict=False))
    if layers and ascending and layers[0] >= 0 and layers[-1] < count - 1:
        return
    msg = (
        f"layers {tuple(layers)} are not ascending layers with attention after them: 0 to "
        f"{count - 2} of this tower's 0 to {count - 1}; the last has no second-order effect"
    )
    raise ValueError(msg)


def root_bytes(visual: nn.Module, layer: int) -> int:
    """Bytes that `SecondOrder` keeps of one layer's Gram matrices: N J J numbers of float32.

    Raises ValueError for a layer without attention after it, UnsupportedModel for other towers.
    """
    tower = read_tower(visual)
    check_layers((layer,), len(tower.blocks))
    return 4 * neuron_count(tower, layer) * path_count(tower, layer) ** 2


def trace_bytes(visual: nn.Module, layers: Sequence[int]) -> int:
    """Bytes for one image more in a batch: what a trace of those layers keeps, and one's factors.

    Activations and updates of every layer, attention rows of all later layers, and for the layer
    at work N J factors three times (as they come, by neuron, and their product).
    """
    tower = read_tower(visual)
    check_layers(layers, len(tower.blocks))
    tokens = tower.grid[0] * tower.grid[1] + 1
    kept = sum(tokens * (neuron_count(tower, layer) + tower.width) for layer in layers)
    rows = tokens * path_count(tower, layers[0])
    factors = max(neuron_count(tower, layer) * path_count(tower, layer) for layer in layers)
    return 4 * (kept + rows + 3 * factors)


def plan_passes(
    visual: nn.Module, layers: Sequence[int], *, memory: int
) -> tuple[tuple[int, ...], ...]:
    """Divide neuron layers over passes, each with `root_bytes` of at most `memory` together.

    First-fit from the largest layer on; layers ascend within a pass. Raises ValueError where one
    layer alone does not fit, and for layers as `SecondOrder` does.
    """
    check_layers(layers, len(read_tower(visual).blocks))
    sizes = {layer: root_bytes(visual, layer) for layer in layers}
    passes: list[list[int]] = []
    for layer in sorted(sizes, key=lambda layer: -sizes[layer]):
        if sizes[layer] > memory:
            msg = (
                f"the Gram matrices of layer {layer}'s neurons need {sizes[layer]:,} bytes, more "
                f"than the {memory:,} allowed: allow that much memory, or leave the layer out"
            )
            raise ValueError(msg)
        room = [one for one in passes if sum(map(sizes.__getitem__, one)) + sizes[layer] <= memory]
        if room:
            room[0].append(layer)
        else:
            passes.append([layer])
    return tuple(sorted(tuple(sorted(one)) for one in passes))
