"""Which MLP layers' neurons a pass can take in, and what they cost in memory.

A neuron of layer l acts through the J pairs of later layer and head (`second_order`), so early
layers cost most. The roots of ViT-L-14's first take 2.2 GB and those of all 18 GB, and what a fit
to 5,000 images keeps takes as much again and more: read in several passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..queries.second_order import LARGEST
from ..schema.errors import BadAddress, MemoryTooSmall, NoSecondOrderEffect, UnsupportedModel
from .settings import choose_layers
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
    """Raise `NoSecondOrderEffect` unless `layers` ascend and have attention after them."""
    ascending = all(a < b for a, b in zip(layers, list(layers)[1:], strict=False))
    if layers and ascending and layers[0] >= 0 and layers[-1] < count - 1:
        return
    msg = (
        f"layers {', '.join(map(str, layers)) or 'none'} are not ascending layers with attention "
        f"after them: 0 to {count - 2} of this tower's 0 to {count - 1}; the last has no "
        "second-order effect"
    )
    raise NoSecondOrderEffect(msg)


def choose_neuron_layers(choice: str | Sequence[int] | None, *, layers: int) -> tuple[int, ...]:
    """Read a choice of neuron layers among those with attention after them.

    `default` are the three before the last, `all` all but the last; else as `choose_layers`, with
    `last:4` counted from the one before the last. Raises `NoSecondOrderEffect` for the last
    layer and `BadAddress` for what chooses no layers.
    """
    last = layers - 1
    asked = "last:3" if choice == "default" else choice
    counted = isinstance(asked, str) and (asked == "all" or asked.startswith("last:"))
    given = choice if isinstance(choice, str) or choice is None else ",".join(map(str, choice))
    usable = (
        f"Write default (the three before the last), all, last:N, or numbers from 0 to {last - 1} "
        f"such as {','.join(map(str, range(max(0, last - 3), last)))}."
    )
    try:
        chosen = choose_layers(asked, layers=last if counted else layers, option="--neurons")
    except BadAddress:
        msg = f"--neurons {given} does not choose layers of a model with {layers}. {usable}"
        raise BadAddress(msg) from None
    if last in chosen:
        msg = (
            f"--neurons {given} has layer {last}, the last of the model: no attention reads its "
            f"neurons, so they have no second-order effect. {usable}"
        )
        raise NoSecondOrderEffect(msg)
    return chosen


def one_width(visual: nn.Module, layers: Sequence[int]) -> int:
    """Neurons of each of some layers, 0 for none; raises UnsupportedModel where they differ."""
    tower = read_tower(visual)
    found = {neuron_count(tower, layer) for layer in layers}
    if len(found) > 1:
        named, sizes = (", ".join(map(str, sorted(ones))) for ones in (layers, found))
        msg = f"layers {named} have {sizes} neurons; give layers with as many each."
        raise UnsupportedModel(msg)
    return found.pop() if found else 0


def root_bytes(visual: nn.Module, layer: int) -> int:
    """Bytes that `SecondOrder` keeps of one layer's Gram matrices: N J J numbers of float32.

    Raises NoSecondOrderEffect for a layer without attention after it, UnsupportedModel for other
    towers.
    """
    tower = read_tower(visual)
    check_layers((layer,), len(tower.blocks))
    return 4 * neuron_count(tower, layer) * path_count(tower, layer) ** 2


def fit_bytes(visual: nn.Module, layer: int, *, images: int, count: int = LARGEST) -> int:
    """Bytes that `NeuronFit` keeps of one layer for that many reference images.

    A mean in float64 and all norms, and of `count` images factors, norms and rows. Raises as
    `root_bytes` does.
    """
    tower = read_tower(visual)
    check_layers((layer,), len(tower.blocks))
    neurons, paths = neuron_count(tower, layer), path_count(tower, layer)
    return neurons * (8 * paths + 4 * images + min(count, images) * (4 * paths + 12))


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
    visual: nn.Module, layers: Sequence[int], *, images: int, memory: int
) -> tuple[tuple[int, ...], ...]:
    """Divide neuron layers over passes, each of at most `memory` bytes.

    Those are the `root_bytes` of its layers and their `fit_bytes` for that many reference images.
    First-fit from the largest layer on; layers ascend within a pass. Raises `MemoryTooSmall` where
    one layer alone does not fit, and for layers as `SecondOrder` does.
    """
    check_layers(layers, len(read_tower(visual).blocks))
    sizes = {
        layer: root_bytes(visual, layer) + fit_bytes(visual, layer, images=images)
        for layer in layers
    }
    passes: list[list[int]] = []
    for layer in sorted(sizes, key=lambda layer: -sizes[layer]):
        if sizes[layer] > memory:
            msg = (
                f"to fit layer {layer}'s neurons to {images:,} images takes {sizes[layer]:,} "
                f"bytes, more than the {memory:,} allowed: allow that much with --memory, leave "
                "the layer out of --neurons, or fit to fewer images with --reference"
            )
            raise MemoryTooSmall(msg)
        room = [one for one in passes if sum(map(sizes.__getitem__, one)) + sizes[layer] <= memory]
        if room:
            room[0].append(layer)
        else:
            passes.append([layer])
    return tuple(sorted(tuple(sorted(one)) for one in passes))
