"""The training loop of the embedded world's CLIP, in one process or several that share a batch."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from . import forward
from .attributes import ATTRIBUTES
from .captions import class_prompts, write_captions
from .losses import (
    Probes,
    Targets,
    attribute_losses,
    contrastive_loss,
    patch_losses,
    probe_logits,
    targets,
    weighted,
)
from .model import CONFIG, build_clip, normalize_images
from .recipe import Recipe
from .render import render
from .scenes import sample_scenes
from .tokenizer import WordTokenizer

CHECKPOINT: Final = "checkpoint.pt"
LOG: Final = "log.jsonl"
_LOG_EVERY: Final = 50
_MAX_LOG_SCALE: Final = math.log(100)


@dataclass(frozen=True)
class Place:
    """Where a process stands: its rank among `size` processes, its device, the output folder."""

    rank: int
    size: int
    device: torch.device
    directory: Path


@dataclass(frozen=True)
class Batch:
    """A process's share of a global batch, and the class prompts that all processes share."""

    images: Tensor
    captions: Tensor
    prompts: Tensor
    targets: Targets


def train(recipe: Recipe, place: Place, *, resume: bool, checkpoint_every: int) -> open_clip.CLIP:
    """Run the recipe and return the trained model.

    Every process of the group calls this. With more than one, the default process group must be
    up. Checkpoints and the log are written by the first process.
    """
    torch.manual_seed(recipe.seed)
    model = build_clip()
    initialize_positions(model, recipe.position_scale)
    probes = Probes(CONFIG["embed_dim"], CONFIG["vision_cfg"]["width"])
    model.to(place.device).train()
    probes.to(place.device)
    optimizer = build_optimizer(model, probes, recipe)
    first = _restore(place, model, probes, optimizer) if resume else 0
    parameters = [*model.parameters(), *probes.parameters()]
    log = _Log(place, append=first > 0)

    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batch = draw_batch(recipe, step, place)
        numbers = _backward(model, probes, batch, recipe, step=step, place=place)
        norm = _sum_gradients(parameters, recipe.gradient_norm, place)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            model.logit_scale.clamp_(0, _MAX_LOG_SCALE)
        log.add(step, {**numbers, "gradient": norm})
        if place.rank == 0 and (step + 1) % checkpoint_every == 0:
            _save(place, model, probes, optimizer, step + 1)
    return model


def initialize_positions(model: open_clip.CLIP, scale: float) -> None:
    """Start the image positions from two-dimensional sines and cosines; the class token from 0.

    Without this, the contrastive loss stays for very long on a plateau where positions are unknown.
    """
    tower = cast(VisionTransformer, model.visual)
    grid, width = tower.grid_size[0], tower.positional_embedding.shape[1]
    frequencies = 32.0 ** -torch.linspace(0, 1, width // 4)
    angles = torch.arange(grid)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = line.repeat_interleave(grid, 0), line.repeat(grid, 1)
    with torch.no_grad():
        tower.positional_embedding[0] = 0
        tower.positional_embedding[1:] = scale * torch.cat([rows, columns], 1)


def build_optimizer(model: open_clip.CLIP, probes: Probes, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays the model's matrices only, not embeddings, biases, norms or probes."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    kept = [p for name, p in named if p.ndim < 2 or "embedding" in name]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": [*kept, *probes.parameters()], "weight_decay": 0.0},
        ],
        lr=recipe.rate(0),
        betas=recipe.betas,
        eps=1e-6,
        foreach=True,
    )


def draw_batch(recipe: Recipe, step: int, place: Place) -> Batch:
    """This process's shards of a step; they depend on the seed, the step and the shard alone."""
    stage = recipe.stage(step)
    pictures: list[npt.NDArray[np.uint8]] = []
    captions: list[str] = []
    parts: list[Targets] = []
    patch = int(CONFIG["vision_cfg"]["patch_size"])
    for shard in range(place.rank, recipe.shards, place.size):
        rng = np.random.default_rng([recipe.seed, step, shard])
        scenes = sample_scenes(rng, stage.shard_batch, stage.sampling)
        drawing = render(scenes)
        pictures.append(drawing.images)
        captions += write_captions(scenes, random.Random(int(rng.integers(2**32))))
        parts.append(targets(scenes, drawing.masks, patch=patch, device=place.device))
    prompts = _draw_prompts(np.random.default_rng([recipe.seed, step, recipe.shards]))
    return Batch(
        normalize_images(np.concatenate(pictures)).to(place.device),
        _trimmed_ids(captions).to(place.device),
        _trimmed_ids(prompts).to(place.device),
        _join(parts),
    )


def _draw_prompts(rng: np.random.Generator) -> list[str]:
    """One class prompt for each value of each attribute."""
    values = [texts for name in ATTRIBUTES for texts in class_prompts(name)]
    return [texts[rng.integers(len(texts))] for texts in values]


def _trimmed_ids(texts: list[str]) -> Tensor:
    ids = WordTokenizer()(texts)
    return ids[:, : int((ids > 0).sum(1).max())]


def _join(parts: list[Targets]) -> Targets:
    if len(parts) == 1:
        return parts[0]
    return Targets(
        {name: torch.cat([p.presence[name] for p in parts]) for name in parts[0].presence},
        {name: torch.cat([p.patches[name] for p in parts]) for name in parts[0].patches},
        torch.cat([p.common for p in parts]),
    )


def _backward(
    model: open_clip.CLIP,
    probes: Probes,
    batch: Batch,
    recipe: Recipe,
    *,
    step: int,
    place: Place,
) -> dict[str, float]:
    """Accumulate this process's part of the global loss's gradient; returns the losses."""
    fading, spare = recipe.fading(step), recipe.stage(step).spare_withheld
    with torch.autocast(place.device.type, dtype=torch.bfloat16):
        image_raw, patches = forward.encode_image(model, batch.images, recipe.dense_block)
        text_raw = forward.encode_text(model, batch.captions)
        prompt_raw = forward.encode_text(model, batch.prompts)
        patch_logits = probes.patches(patches).float().flatten(0, 1)
    images = F.normalize(image_raw.float(), dim=-1)
    texts = F.normalize(text_raw.float(), dim=-1)
    prompts = F.normalize(prompt_raw.float(), dim=-1)

    scale = model.logit_scale.exp()
    # Every process computes the whole contrastive loss, so each takes its share of the scale's
    # gradient; embeddings of other processes are constants here and variables there.
    shared_scale = scale / place.size + scale.detach() * (1 - 1 / place.size)
    contrastive, found = contrastive_loss(
        shared_scale,
        _gather(images, place),
        _gather(texts, place),
        common=_gather(batch.targets.common, place) if spare else None,
    )
    common = batch.targets.common if spare else None
    presence = batch.targets.presence
    prompted = attribute_losses(scale * images @ prompts.T, presence, common=common)
    prompt_weight = recipe.prompt_weight_at_end + fading * (
        recipe.prompt_weight - recipe.prompt_weight_at_end
    )
    local = prompt_weight * weighted(prompted, recipe)
    numbers = {f"prompt {name}": loss for name, loss in prompted.items()}
    if fading > 0:
        linear = attribute_losses(probe_logits(probes, images), presence, common=common)
        dense = patch_losses(patch_logits, batch.targets.patches, spare_withheld=spare)
        local = local + fading * (
            recipe.linear_weight * weighted(linear, recipe)
            + recipe.dense_weight * weighted(dense, recipe)
        )
        numbers |= {f"patch {name}": loss for name, loss in dense.items()}
    (contrastive + local / place.size).backward()
    numbers |= {"contrastive": contrastive, "found": found, "scale": scale}
    return {name: float(value.detach()) for name, value in numbers.items()}


def _gather(local: Tensor, place: Place) -> Tensor:
    """All processes' embeddings in rank order; only the local ones carry a gradient."""
    if place.size == 1:
        return local
    everyone = [torch.empty_like(local) for _ in range(place.size)]
    dist.all_gather(everyone, local.detach().contiguous())
    everyone[place.rank] = local
    return torch.cat(everyone)


def _sum_gradients(parameters: list[nn.Parameter], max_norm: float, place: Place) -> float:
    """Add up the gradients of all processes and clip them; returns the norm before clipping."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([grad.flatten() for grad in grads])
    if place.size > 1:
        dist.all_reduce(flat)
    norm = float(flat.norm())
    flat.mul_(min(1.0, max_norm / (norm + 1e-6)))
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad = part.view_as(parameter)
    return norm


class _Log:
    """Means of the losses every few steps, one JSON object a line."""

    def __init__(self, place: Place, *, append: bool) -> None:
        self._path = place.directory / LOG if place.rank == 0 else None
        self._pending: list[dict[str, float]] = []
        self._started = time.monotonic()
        if self._path and not append:
            self._path.write_text("")

    def add(self, step: int, numbers: dict[str, float]) -> None:
        self._pending.append(numbers)
        if self._path is None or (step + 1) % _LOG_EVERY:
            return
        means = {key: round(_mean(row[key] for row in self._pending), 4) for key in numbers}
        line = {"step": step + 1, "seconds": round(time.monotonic() - self._started, 1), **means}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._pending.clear()


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _save(
    place: Place, model: nn.Module, probes: Probes, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "probes": probes.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    unfinished = place.directory / f"{CHECKPOINT}.partial"
    torch.save(state, unfinished)
    unfinished.replace(place.directory / CHECKPOINT)


def _restore(
    place: Place, model: nn.Module, probes: Probes, optimizer: torch.optim.Optimizer
) -> int:
    path = place.directory / CHECKPOINT
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, map_location=place.device, weights_only=True)
    model.load_state_dict(state["model"])
    probes.load_state_dict(state["probes"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
