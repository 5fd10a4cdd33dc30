"""Training the companions: one loop, and what each of them is asked to do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attributes import ATTRIBUTES, Attribute
from ..losses import VALUE_COUNTS, patch_losses, targets
from ..model import normalize_images
from ..render import Drawing, render
from ..scenes import Scenes, sample_scenes
from .atlas import draw_outlines, draw_patterns
from .generator import Generator, Sketches
from .latents import LATENT_SIZE, drawable, parameters_of
from .masked_autoencoder import PATCH, Encoder, MaskedAutoencoder, hidden_loss, to_patches
from .recipes import MIXED, CompanionRecipe
from .resnet import PatchProbe, ResNet

Step = Callable[[int], dict[str, Tensor]]
Log = Callable[[dict[str, float]], None]

VISIBLE: Final = 24  # of 64 patches
_SHAPE_WEIGHT: Final = 3.0
_PROBE_WEIGHT: Final = 0.5
_OBJECT_WEIGHT: Final = 4.0
_SKETCH_WEIGHT: Final = 0.5
_LOG_EVERY: Final = 50


def train_resnet(recipe: CompanionRecipe, *, log: Log) -> ResNet:
    """Learn which values of each attribute a scene shows, and for a while what each patch is."""
    torch.manual_seed(recipe.seed)
    model, probe = ResNet(), PatchProbe()
    weights = {name: _SHAPE_WEIGHT if name == "shape" else 1.0 for name in ATTRIBUTES}

    def step(number: int) -> dict[str, Tensor]:
        scenes, drawing = _draw(recipe, number)
        maps = model.maps(normalize_images(drawing.images))
        logits = model.classify(maps[-1].mean((2, 3))).float()
        losses: dict[str, Tensor] = {
            name: weights[name] * loss for name, loss in presence_losses(logits, scenes).items()
        }
        truth = targets(scenes, drawing.masks, patch=PATCH, device=torch.device("cpu"))
        dense = patch_losses(probe(maps[2]).float(), truth.patches)
        fading = _PROBE_WEIGHT * (1 - number / recipe.steps)
        return losses | {f"patch {name}": fading * loss for name, loss in dense.items()}

    _run(nn.ModuleList([model, probe]), recipe, step, log=log)
    return model.eval()


def presence_losses(logits: Tensor, scenes: Scenes) -> dict[Attribute, Tensor]:
    """Binary cross-entropy of what scenes show, summed over an attribute's values."""
    parts = dict(zip(ATTRIBUTES, logits.split(VALUE_COUNTS, dim=1), strict=True))
    shown = {name: torch.from_numpy(scenes.presence(name) > 0).float() for name in ATTRIBUTES}
    return {
        name: F.binary_cross_entropy_with_logits(part, shown[name], reduction="sum") / len(logits)
        for name, part in parts.items()
    }


def train_mae(recipe: CompanionRecipe, *, log: Log) -> MaskedAutoencoder:
    """Learn to draw the patches that are hidden; the encoder is the companion."""
    torch.manual_seed(recipe.seed)
    model = MaskedAutoencoder(Encoder())

    def step(number: int) -> dict[str, Tensor]:
        _, drawing = _draw(recipe, number)
        patches = to_patches(normalize_images(drawing.images))
        visible = torch.rand(patches.shape[:2]).argsort(1)[:, :VISIBLE]
        return {"hidden": hidden_loss(model(patches, visible).float(), patches, visible)}

    _run(model, recipe, step, log=log)
    return model.eval()


def train_generator(recipe: CompanionRecipe, *, log: Log) -> Generator:
    """Learn to draw what the renderer draws of the scenes that latents speak of."""
    torch.manual_seed(recipe.seed)
    model, sketches = Generator(), Sketches()
    model.layers.outlines.copy_(draw_outlines())
    model.layers.patterns.copy_(draw_patterns())

    def step(number: int) -> dict[str, Tensor]:
        parameters, scenes = drawable(parameters_of(torch.randn(recipe.batch, LATENT_SIZE)))
        drawing = render(scenes)
        truth = torch.from_numpy(drawing.images).permute(0, 3, 1, 2).float() / 255
        mask = torch.from_numpy(drawing.masks > 0)[:, None].float()
        maps = model.maps(parameters)
        apart = model.draw(maps[-1]).float().sigmoid() - truth
        weight = 1 + _OBJECT_WEIGHT * mask
        losses = {
            "absolute": (weight * apart.abs()).mean(),
            "squared": 2 * (weight * apart.square()).mean(),
        }
        fading = _SKETCH_WEIGHT * (1 - number / recipe.steps)
        for sketch in sketches(maps):
            side = sketch.shape[-1]
            color, covered = F.adaptive_avg_pool2d(torch.cat([truth, mask], 1), side).split(
                (3, 1), 1
            )
            outline = F.binary_cross_entropy_with_logits(
                sketch[:, 3:], covered, weight=1 + _OBJECT_WEIGHT * covered
            )
            losses[f"sketch {side}"] = fading * (F.mse_loss(sketch[:, :3], color) + outline)
        return losses

    _run(nn.ModuleList([model, sketches]), recipe, step, log=log)
    return model.eval()


def log_to(path: Path) -> Log:
    """Write each line of numbers to a file, one JSON object a line."""
    path.write_text("")

    def write(numbers: dict[str, float]) -> None:
        with path.open("a") as file:
            file.write(json.dumps(numbers) + "\n")

    return write


def _draw(recipe: CompanionRecipe, step: int) -> tuple[Scenes, Drawing]:
    """A step's scenes; they depend on the seed and the step alone."""
    rng = np.random.default_rng([recipe.seed, step])
    scenes = sample_scenes(rng, recipe.batch, recipe.sampling or MIXED)
    return scenes, render(scenes)


def _run(model: nn.Module, recipe: CompanionRecipe, step: Step, *, log: Log) -> None:
    """Minimize the sum of a step's losses, in bfloat16 where torch sees fit."""
    model.train().to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=1e-6,
        foreach=True,
    )
    started = time.monotonic()
    pending: list[dict[str, float]] = []
    for number in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(number)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = step(number)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        pending.append({name: float(loss.detach()) for name, loss in losses.items()})
        if (number + 1) % _LOG_EVERY == 0 or number + 1 == recipe.steps:
            means = {k: round(float(np.mean([p[k] for p in pending])), 4) for k in losses}
            seconds = round(time.monotonic() - started, 1)
            log({"step": number + 1, "seconds": seconds, **means})
            pending.clear()
