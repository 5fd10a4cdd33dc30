"""What the world's CLIP and ResNet read off pictures: each names the value of an attribute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torch import Tensor, nn

from ..attributes import ATTRIBUTES, Attribute
from ..evaluate import embed_classes
from ..losses import VALUE_COUNTS

Labels = npt.NDArray[np.int64]
_BATCH: Final = 250


def normalized(pictures: Tensor) -> Tensor:
    """Pictures in 0..1 as the world's models take them, in -1..1."""
    return pictures * 2 - 1


@torch.inference_mode()
def in_batches(model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """A model's outputs for inputs [n, ...], computed some hundreds at a time."""
    return torch.cat([model(part) for part in inputs.split(_BATCH)])


def embed_pictures(clip: open_clip.CLIP, pictures: Tensor) -> Tensor:
    """The CLIP's unit embeddings of pictures [n, 3, 64, 64] in 0..1: [n, d']."""

    def embed(part: Tensor) -> Tensor:
        return clip.encode_image(normalized(part), normalize=True)

    return in_batches(embed, pictures)


def read_zero_shot(clip: open_clip.CLIP, images: Tensor) -> dict[Attribute, Labels]:
    """Each attribute's nearest class prompt for unit image embeddings [n, d']: [n] each."""
    return {name: (images @ embed_classes(clip, name).T).argmax(1).numpy() for name in ATTRIBUTES}


def read_logits(resnet: nn.Module, pictures: Tensor) -> dict[Attribute, Labels]:
    """Each attribute's likeliest value for pictures [n, 3, 64, 64] in 0..1: [n] each."""
    logits = in_batches(lambda part: resnet(normalized(part)), pictures)
    parts = zip(ATTRIBUTES, logits.split(VALUE_COUNTS, dim=1), strict=True)
    return {name: part.argmax(1).numpy() for name, part in parts}


def agreement(
    first: Mapping[Attribute, Labels], second: Mapping[Attribute, Labels]
) -> dict[Attribute, float]:
    """How often two readings name the same value, 0..1 for each attribute."""
    return {name: float(np.mean(first[name] == second[name])) for name in first}


def mean_distance(vectors: Tensor) -> float:
    """Mean Euclidean distance between two different rows of [n, d]."""
    rows = vectors.flatten(1).double()
    distances = torch.cdist(rows, rows, compute_mode="use_mm_for_euclid_dist")
    return float(distances.fill_diagonal_(0).sum()) / (len(rows) * (len(rows) - 1))


def pictures_of(images: npt.NDArray[Any]) -> Tensor:
    """Drawn images uint8 [n, 64, 64, 3] as pictures [n, 3, 64, 64] in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
