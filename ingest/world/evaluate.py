"""Held-out zero-shot accuracy of a CLIP of the embedded world, attribute by attribute."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from .attributes import ATTRIBUTES, COLORS, SHAPES, Attribute
from .captions import UNSEEN_TEMPLATES, class_prompts, with_article, write_captions
from .model import normalize_images
from .render import render
from .scenes import SINGLE_COUNTS, UNIFORM_COUNTS, Sampling, Scenes, sample_scenes
from .tokenizer import WordTokenizer

HELD_OUT_SEED: Final = 1_000_000
_BATCH: Final = 250

Prompts = Literal["training", "unseen"]


@dataclass(frozen=True)
class Scores:
    """Accuracies in 0..1.

    Per attribute with the prompts of training and with unseen ones, on scenes without withheld
    pairs; of shape, color and the pair of both on pairs seen in training and on withheld ones;
    and how often an image finds its own detailed caption among 500.
    """

    training_prompts: dict[Attribute, float]
    unseen_prompts: dict[Attribute, float]
    seen_pairs: dict[str, float]
    withheld_pairs: dict[str, float]
    image_to_text_recall: float

    def as_dict(self) -> dict[str, object]:
        """Plain dictionaries, for JSON."""
        return asdict(self)


def evaluate(model: open_clip.CLIP, *, scenes: int = 1000, seed: int = HELD_OUT_SEED) -> Scores:
    """Measure a model on freshly drawn scenes in which nothing is correlated.

    Attributes are asked of single objects, counts of one to six objects equally often.
    """
    rng = np.random.default_rng(seed)
    single = Sampling(SINGLE_COUNTS, withheld="avoid")
    alone = sample_scenes(rng, scenes, single)
    several = sample_scenes(rng, scenes, Sampling(UNIFORM_COUNTS, withheld="avoid"))
    withheld = sample_scenes(rng, scenes, Sampling(SINGLE_COUNTS, withheld="only"))
    mixed = sample_scenes(rng, 500, Sampling(withheld="avoid"))
    alone_images = embed_scenes(model, alone)
    several_images = embed_scenes(model, several)

    def accuracy(attribute: Attribute, prompts: Prompts) -> float:
        counted = attribute == "count"
        images = several_images if counted else alone_images
        labels = (several if counted else alone).labels(attribute)
        return _accuracy(images, embed_classes(model, attribute, prompts), labels)

    return Scores(
        training_prompts={name: accuracy(name, "training") for name in ATTRIBUTES},
        unseen_prompts={name: accuracy(name, "unseen") for name in ATTRIBUTES},
        seen_pairs=_pair_accuracies(model, alone, alone_images),
        withheld_pairs=_pair_accuracies(model, withheld, embed_scenes(model, withheld)),
        image_to_text_recall=_retrieval(model, mixed, seed),
    )


@torch.inference_mode()
def embed_scenes(model: open_clip.CLIP, scenes: Scenes) -> Tensor:
    """Unit image embeddings of scenes, [n, d'] float32 on the CPU."""
    device = model.logit_scale.device
    batches = [
        model.encode_image(normalize_images(images).to(device), normalize=True).cpu()
        for images in _batches(render(scenes).images)
    ]
    return torch.cat(batches)


@torch.inference_mode()
def embed_texts(model: open_clip.CLIP, texts: Sequence[str]) -> Tensor:
    """Unit text embeddings, [texts, d'] float32 on the CPU."""
    ids = WordTokenizer()(texts).to(model.logit_scale.device)
    return torch.cat(
        [model.encode_text(batch, normalize=True).cpu() for batch in ids.split(_BATCH)]
    )


def embed_classes(
    model: open_clip.CLIP, attribute: Attribute, prompts: Prompts = "training"
) -> Tensor:
    """One unit embedding for each value of an attribute, the mean of its prompts': [values, d']."""
    if prompts == "training":
        texts = class_prompts(attribute)
    else:
        texts = class_prompts(attribute, templates=UNSEEN_TEMPLATES, unseen=True)
    return F.normalize(torch.stack([embed_texts(model, value).mean(0) for value in texts]), dim=-1)


def _batches(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    return [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]


def _accuracy(images: Tensor, classes: Tensor, labels: npt.NDArray[np.int64]) -> float:
    return float(np.mean((images @ classes.T).argmax(1).numpy() == labels))


def _pair_accuracies(model: open_clip.CLIP, scenes: Scenes, images: Tensor) -> dict[str, float]:
    pairs = [with_article(f"{color} {shape}") for color in COLORS for shape in SHAPES]
    labels = scenes.labels("color") * len(SHAPES) + scenes.labels("shape")
    return {
        "shape": _accuracy(images, embed_classes(model, "shape"), scenes.labels("shape")),
        "color": _accuracy(images, embed_classes(model, "color"), scenes.labels("color")),
        "pair": _accuracy(images, embed_texts(model, pairs), labels),
    }


def _retrieval(model: open_clip.CLIP, scenes: Scenes, seed: int) -> float:
    captions = write_captions(scenes, random.Random(seed), detailed=True)
    similarity = embed_scenes(model, scenes) @ embed_texts(model, captions).T
    return float((similarity.argmax(1) == torch.arange(len(scenes))).float().mean())
