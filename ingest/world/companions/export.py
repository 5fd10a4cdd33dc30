"""Writing a companion's weights, and a card of what made them and how good they are."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from ..model import IMAGE_MEAN, IMAGE_STD, load_clip
from .generator import Generator
from .loading import load_companion
from .masked_autoencoder import MaskedAutoencoder
from .measures import generator_scores, linear_accuracies, reconstruction, resnet_accuracies
from .recipes import RECIPES, Companion, CompanionRecipe
from .resnet import ResNet
from .training import VISIBLE, Log, log_to, train_generator, train_mae, train_resnet

_DIGITS: Final = 4


def train_companion(name: Companion, directory: Path, *, steps: int | None = None) -> None:
    """Train a companion and write `NAME.safetensors` and `NAME.json` to a folder.

    One thread of a CPU; the same machine gives the same bytes. `steps` shortens the recipe, for
    trying it out. The generator is measured with the shipped CLIP and ResNet.
    """
    recipe = RECIPES[name] if steps is None else replace(RECIPES[name], steps=steps)
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    _TRAIN[name](recipe, directory, log_to(directory / f"{name}.jsonl"))


def export_resnet(model: ResNet, recipe: CompanionRecipe, directory: Path) -> None:
    """Write a trained ResNet, and its accuracies as loaded again."""
    write_weights(model, "resnet", directory, recipe=recipe)
    scores = resnet_accuracies(load_companion("resnet", directory))
    write_card(model, "resnet", directory, recipe=recipe, held_out={"accuracy": scores})


def export_mae(model: MaskedAutoencoder, recipe: CompanionRecipe, directory: Path) -> None:
    """Write a masked autoencoder's encoder; the card also tells how well the whole reconstructs."""
    write_weights(model.encoder, "mae", directory, recipe=recipe)
    scores = {
        "reconstruction": reconstruction(model, visible=VISIBLE),
        "linear": linear_accuracies(load_companion("mae", directory)),
    }
    write_card(model.encoder, "mae", directory, recipe=recipe, held_out=scores)


def export_generator(model: Generator, recipe: CompanionRecipe, directory: Path) -> None:
    """Write a trained generator, and what the shipped CLIP and ResNet read off its samples."""
    write_weights(model, "generator", directory, recipe=recipe)
    generator = load_companion("generator", directory)
    scores = generator_scores(generator, load_companion("resnet"), load_clip()[0])
    write_card(model, "generator", directory, recipe=recipe, held_out=scores)


def write_weights(
    model: nn.Module, name: Companion, directory: Path, *, recipe: CompanionRecipe
) -> None:
    """Write a model's parameters and buffers, float16 where they are floats."""
    weights = {
        key: (w.half() if w.is_floating_point() else w).contiguous()
        for key, w in model.state_dict().items()
    }
    # One entry, because safetensors writes several in another order each time.
    made_by = {"made_by": json.dumps(_made_by(recipe))}
    save_file(weights, directory / f"{name}.safetensors", metadata=made_by)


def write_card(
    model: nn.Module,
    name: Companion,
    directory: Path,
    *,
    recipe: CompanionRecipe,
    held_out: dict[str, Any],
) -> None:
    """Write `NAME.json`: recipe, seed, steps, versions, preprocessing and measured numbers."""
    facts: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    if name != "generator":
        facts["preprocess"] = {"mean": IMAGE_MEAN, "std": IMAGE_STD}
    facts |= {
        "recipe": asdict(recipe),
        "made_by": {**_made_by(recipe), "machine": platform.machine()},
        "held_out": _rounded(held_out),
    }
    (directory / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def _made_by(recipe: CompanionRecipe) -> dict[str, str]:
    return {
        "seed": str(recipe.seed),
        "steps": str(recipe.steps),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(float(value), _DIGITS)


def _resnet(recipe: CompanionRecipe, directory: Path, log: Log) -> None:
    export_resnet(train_resnet(recipe, log=log), recipe, directory)


def _mae(recipe: CompanionRecipe, directory: Path, log: Log) -> None:
    export_mae(train_mae(recipe, log=log), recipe, directory)


def _generator(recipe: CompanionRecipe, directory: Path, log: Log) -> None:
    export_generator(train_generator(recipe, log=log), recipe, directory)


_TRAIN: Final[dict[Companion, Callable[[CompanionRecipe, Path, Log], None]]] = {
    "resnet": _resnet,
    "mae": _mae,
    "generator": _generator,
}
