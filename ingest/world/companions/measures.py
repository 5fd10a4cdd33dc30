"""How good the companions are, on scenes and latents that no training saw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from torch import Tensor

from ..attributes import ATTRIBUTES, VALUES, Attribute
from ..dataset import EVALUATION
from ..evaluate import HELD_OUT_SEED
from ..model import normalize_images
from ..render import render
from ..scenes import SINGLE_COUNTS, UNIFORM_COUNTS, IntArray, Sampling, Scenes, sample_scenes
from .generator import Generator
from .latents import drawable, parameters_of
from .masked_autoencoder import (
    Encoder,
    MaskedAutoencoder,
    TransformerBlock,
    hidden_loss,
    to_patches,
)
from .readers import (
    agreement,
    embed_pictures,
    in_batches,
    mean_distance,
    pictures_of,
    read_logits,
    read_zero_shot,
)
from .resnet import ResNet

ALONE: Final = Sampling(SINGLE_COUNTS, withheld="avoid")
_RIDGE: Final = 1e-3
_REAL: Final = 500  # scenes that samples are as diverse as


def resnet_accuracies(model: ResNet, *, scenes: int = 1000) -> dict[Attribute, float]:
    """How often the likeliest value is the true one, 0..1.

    Of lone objects, none of a withheld pair; of counts, one to six objects equally often.
    """
    rng = np.random.default_rng(HELD_OUT_SEED)
    alone = sample_scenes(rng, scenes, ALONE)
    several = sample_scenes(rng, scenes, Sampling(UNIFORM_COUNTS, withheld="avoid"))
    read = read_logits(model, pictures_of(render(alone).images))
    read["count"] = read_logits(model, pictures_of(render(several).images))["count"]
    truth = _truth(alone)
    truth["count"] = several.labels("count")
    return agreement(read, truth)


def reconstruction(
    model: MaskedAutoencoder, *, visible: int, scenes: int = 500
) -> dict[str, float]:
    """Mean squared errors of the hidden patches of held-out scenes, pixels in -1..1.

    `model`: as it draws them; `mean`: each scene's mean color over the visible patches instead.
    """
    drawn = sample_scenes(np.random.default_rng(HELD_OUT_SEED), scenes, EVALUATION)
    patches = to_patches(normalize_images(render(drawn).images))
    order = np.random.default_rng(HELD_OUT_SEED).random(patches.shape[:2]).argsort(1)
    rows = torch.from_numpy(order[:, :visible])
    seen = patches.gather(1, rows[..., None].expand(-1, -1, patches.shape[-1]))
    color = seen.view(scenes, visible, 3, -1).mean((1, 3), keepdim=True)
    flat = color.expand(-1, patches.shape[1], -1, patches.shape[2] // 3).flatten(2)
    with torch.inference_mode():
        return {
            "model": float(hidden_loss(model(patches, rows), patches, rows)),
            "mean": float(hidden_loss(flat, patches, rows)),
        }


def linear_accuracies(
    encoder: Encoder, *, scenes: int = 1000, of: tuple[Attribute, ...] = ("color", "background")
) -> dict[str, float]:
    """How often a ridge classifier of frozen features names the value of held-out lone objects.

    Features are the mean and the maximum over patches of each neuron of the middle block; the
    classifier learns from twice as many scenes as it is tried on.
    """
    rng = np.random.default_rng(HELD_OUT_SEED)
    drawn = sample_scenes(rng, 3 * scenes, ALONE)
    block = encoder.blocks[len(encoder.blocks) // 2 - 1]
    seen: list[Tensor] = []
    hook = cast(TransformerBlock, block).mlp.act.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.detach())
    )
    in_batches(encoder, normalize_images(render(drawn).images))
    hook.remove()
    tokens = torch.cat(seen)
    features = torch.cat([tokens.mean(1), tokens.amax(1)], 1).double().numpy()
    return {name: _ridge_accuracy(features, drawn, name, 2 * scenes) for name in of}


def _ridge_accuracy(
    features: npt.NDArray[np.float64], scenes: Scenes, attribute: Attribute, learned: int
) -> float:
    centered = features - features[:learned].mean(0)
    known, labels = centered[:learned], scenes.labels(attribute)
    wanted = np.eye(len(VALUES[attribute]))[labels[:learned]]
    gram = known.T @ known / learned + _RIDGE * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, known.T @ (wanted - wanted.mean(0)) / learned)
    read = (centered[learned:] @ weights + wanted.mean(0)).argmax(1)
    return float(np.mean(read == labels[learned:]))


def generator_scores(
    generator: Generator,
    resnet: ResNet,
    clip: open_clip.CLIP,
    *,
    samples: int = 1000,
    seed: int = HELD_OUT_SEED,
) -> dict[str, Mapping[str, float]]:
    """What two independent readers make of random samples, and how diverse these are.

    `agreement`: how often CLIP (zero-shot) and ResNet name the same value; `clip` and `resnet`: how
    often each names what the latent says; `diversity_alone` and `diversity_all`: the mean distance
    between two samples over that between two scenes of one object, or of one to six, for CLIP's
    unit embeddings and for pixels; `error`: pixels' mean absolute difference (0..1) from what the
    renderer draws of the latents rounded to what it can draw.
    """
    z = sample_latents(samples, seed=seed)
    pictures = in_batches(generator, z)
    _, named = drawable(parameters_of(z))
    truth = _truth(named)
    images = embed_pictures(clip, pictures)
    first, second = read_zero_shot(clip, images), read_logits(resnet, pictures)
    rng = np.random.default_rng(seed)
    alone = _drawn(sample_scenes(rng, _REAL, Sampling(SINGLE_COUNTS)))
    natural = _drawn(sample_scenes(rng, _REAL, Sampling()))
    spread = {"clip": mean_distance(images), "pixels": mean_distance(pictures)}
    return {
        "agreement": _named(agreement(first, second)),
        "clip": _named(agreement(first, truth)),
        "resnet": _named(agreement(second, truth)),
        "diversity_alone": _ratios(spread, _spread(clip, alone)),
        "diversity_all": _ratios(spread, _spread(clip, natural)),
        "error": {"absolute": float((pictures - _drawn(named)).abs().mean())},
    }


def sample_latents(n: int, *, seed: int) -> Tensor:
    """Standard normal latents, [n, latent_size]; the same seed gives the same."""
    return torch.randn(n, Generator.latent_size, generator=torch.Generator().manual_seed(seed))


def _truth(scenes: Scenes) -> dict[Attribute, IntArray]:
    return {name: scenes.labels(name) for name in ATTRIBUTES}


def _drawn(scenes: Scenes) -> Tensor:
    return pictures_of(render(scenes).images)


def _spread(clip: open_clip.CLIP, pictures: Tensor) -> dict[str, float]:
    return {
        "clip": mean_distance(embed_pictures(clip, pictures)),
        "pixels": mean_distance(pictures),
    }


def _ratios(ours: dict[str, float], real: dict[str, float]) -> dict[str, float]:
    return {name: ours[name] / real[name] for name in ours}


def _named(scores: Mapping[Attribute, float]) -> dict[str, float]:
    return {name: scores[name] for name in ATTRIBUTES}
