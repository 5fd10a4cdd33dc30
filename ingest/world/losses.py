"""What the embedded world's CLIP learns from: captions, class prompts, attributes and patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attributes import (
    ATTRIBUTES,
    COLORS,
    MAX_OBJECTS,
    SHAPES,
    TEXTURES,
    VALUES,
    WITHHELD_COLOR,
    Attribute,
)
from .recipe import Recipe
from .scenes import IMAGE_SIZE, Scenes

DENSE_ATTRIBUTES: Final[dict[Attribute, int]] = {
    "shape": len(SHAPES) + 1,
    "color": len(COLORS) + 1,
    "texture": len(TEXTURES) + 1,
}
_EMPTY_PATCH_WEIGHT: Final = 0.15
_COVERED: Final = 0.25
_EMBEDDING_SCALE: Final = 12.0
_NEVER: Final = -1e4

VALUE_COUNTS: Final = tuple(len(VALUES[name]) for name in ATTRIBUTES)


class Probes(nn.Module):
    """Linear classifiers that help the training and are then thrown away."""

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.attributes = nn.Linear(embedding, sum(VALUE_COUNTS))
        self.patches = nn.Linear(width, sum(DENSE_ATTRIBUTES.values()))


@dataclass(frozen=True)
class Targets:
    """What is true of a batch.

    `presence` [b, values] and, of patches, a class [b*p] for each attribute; `common` [b, 2]: the
    shape and the color that all of a scene's objects share, -1 where they differ.
    """

    presence: dict[Attribute, Tensor]
    patches: dict[Attribute, Tensor]
    common: Tensor


def targets(
    scenes: Scenes, masks: npt.NDArray[np.uint8], *, patch: int, device: torch.device
) -> Targets:
    """Targets of a batch of scenes and their masks [b, 64, 64]."""
    labels = patch_labels(scenes, masks, patch=patch)
    common = np.stack([scenes.common("shape"), scenes.common("color")], axis=1)
    return Targets(
        {name: torch.from_numpy(scenes.presence(name)).to(device) for name in ATTRIBUTES},
        {name: torch.from_numpy(labels[name]).flatten().to(device) for name in DENSE_ATTRIBUTES},
        torch.from_numpy(common).to(device),
    )


def withheld_together(shape: Tensor, color: Tensor) -> Tensor:
    """Whether shapes [...] and colors [...] are pairs kept out of training; -1 never is."""
    table = torch.zeros(len(SHAPES) + 1, len(COLORS) + 1, dtype=torch.bool, device=shape.device)
    for name, withheld in WITHHELD_COLOR.items():
        table[SHAPES.index(name), COLORS.index(withheld)] = True
    return table[shape, color]


def _spared(shape: Tensor, color: Tensor, *, offset: int = 0) -> dict[Attribute, Tensor]:
    """Classes [b, values] that would complete a withheld pair with what is there.

    Training never shows these, and so would teach that they never are; left out of a softmax, they
    are not taught about at all. `offset` classes come before the values.
    """
    shapes = torch.arange(-offset, len(SHAPES), device=shape.device).clamp(min=-1)
    colors = torch.arange(-offset, len(COLORS), device=shape.device).clamp(min=-1)
    return {
        "shape": withheld_together(shapes[None], color[:, None]),
        "color": withheld_together(shape[:, None], colors[None]),
    }


def patch_labels(
    scenes: Scenes, masks: npt.NDArray[np.uint8], *, patch: int
) -> dict[Attribute, npt.NDArray[np.int64]]:
    """For each patch, 1 + the value of the object that covers most of it; 0 if under a quarter.

    Returns int64 [n, patches] for each dense attribute.
    """
    n, grid = len(scenes), IMAGE_SIZE // patch
    blocks = masks.reshape(n, grid, patch, grid, patch).transpose(0, 1, 3, 2, 4)
    blocks = blocks.reshape(n, grid * grid, patch * patch)
    cover = np.stack([(blocks == k).mean(2) for k in range(1, MAX_OBJECTS + 1)], axis=2)
    owner, covered = cover.argmax(2), cover.max(2) >= _COVERED
    rows = np.arange(n)[:, None]
    return {
        name: np.where(covered, getattr(scenes, name)[rows, owner] + 1, 0)
        for name in DENSE_ATTRIBUTES
    }


def contrastive_loss(
    scale: Tensor, images: Tensor, texts: Tensor, *, common: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of unit embeddings [b, d'], and how often an image finds its text.

    With the scenes' `common` shape and color [b, 2], no two of them are each other's negatives
    where the shape of one and the color of the other are a withheld pair.
    """
    logits = scale * images @ texts.T
    if common is not None:
        pairs = withheld_together(common[:, :1], common[None, :, 1])
        logits = logits.masked_fill(pairs | pairs.T, _NEVER)
    own = torch.arange(len(images), device=images.device)
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(1) == own).float().mean().detach()


def attribute_losses(
    logits: Tensor, presence: dict[Attribute, Tensor], *, common: Tensor | None = None
) -> dict[Attribute, Tensor]:
    """Kullback-Leibler divergence of each attribute's softmax from what the scenes show.

    `logits` [b, all values], attributes side by side in the order of ATTRIBUTES. With the scenes'
    `common` shape and color [b, 2], the other halves of withheld pairs are left out.
    """
    parts = dict(zip(ATTRIBUTES, logits.split(VALUE_COUNTS, dim=1), strict=True))
    if common is not None:
        for name, spared in _spared(common[:, 0], common[:, 1]).items():
            parts[name] = parts[name].masked_fill(spared, _NEVER)
    return {
        name: F.kl_div(F.log_softmax(part, 1), presence[name], reduction="batchmean")
        for name, part in parts.items()
    }


def patch_losses(
    logits: Tensor, labels: dict[Attribute, Tensor], *, spare_withheld: bool = False
) -> dict[Attribute, Tensor]:
    """Cross-entropy of patch classes, `logits` [b*p, all]; empty patches count less.

    With `spare_withheld`, the other halves of withheld pairs are left out.
    """
    sizes = tuple(DENSE_ATTRIBUTES.values())
    parts = dict(zip(DENSE_ATTRIBUTES, logits.split(sizes, dim=1), strict=True))
    if spare_withheld:
        for name, spared in _spared(labels["shape"] - 1, labels["color"] - 1, offset=1).items():
            parts[name] = parts[name].masked_fill(spared, _NEVER)
    losses: dict[Attribute, Tensor] = {}
    for name, part in parts.items():
        weight = torch.ones(part.shape[1], device=logits.device)
        weight[0] = _EMPTY_PATCH_WEIGHT
        losses[name] = F.cross_entropy(part, labels[name], weight=weight)
    return losses


def weighted(losses: dict[Attribute, Tensor], recipe: Recipe) -> Tensor:
    """Sum of losses with the recipe's weight for each attribute."""
    return torch.stack(
        [recipe.attribute_weight[name] * loss for name, loss in losses.items()]
    ).sum()


def probe_logits(probes: Probes, images: Tensor) -> Tensor:
    """Attribute logits [b, all values] of unit image embeddings [b, d']."""
    return probes.attributes(images * _EMBEDDING_SCALE)
