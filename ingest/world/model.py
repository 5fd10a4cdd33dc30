"""The embedded world's CLIP: its configuration, and loading the shipped weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

import open_clip
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ...schema.errors import CheckpointMismatch
from .scenes import IMAGE_SIZE
from .tokenizer import CONTEXT_LENGTH, WordTokenizer

WEIGHTS: Final = Path(__file__).parent / "weights"
IMAGE_MEAN: Final = (0.5, 0.5, 0.5)
IMAGE_STD: Final = (0.5, 0.5, 0.5)
INTERPOLATION: Final = "bicubic"

Preprocess = Callable[[Image.Image], Tensor]

CONFIG: Final[dict[str, Any]] = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": IMAGE_SIZE,
        "layers": 8,
        "width": 128,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": WordTokenizer().vocab_size,
        "width": 128,
        "heads": 4,
        "layers": 2,
    },
}


def build_clip(config: Mapping[str, Any] = CONFIG) -> open_clip.CLIP:
    """An untrained CLIP of a configuration, initialized as open_clip does."""
    model = open_clip.CLIP(**config)
    # What open_clip's own loaders leave on the tower, for whoever prepares images for it.
    setattr(model.visual, "image_mean", IMAGE_MEAN)  # noqa: B010
    setattr(model.visual, "image_std", IMAGE_STD)  # noqa: B010
    return model


def build_preprocess() -> Preprocess:
    """PIL image to float32 [3, 64, 64]: bicubic to 64, center crop, (x - 0.5) / 0.5."""
    transform = image_transform(
        IMAGE_SIZE,
        is_train=False,
        mean=IMAGE_MEAN,
        std=IMAGE_STD,
        interpolation=INTERPOLATION,
        resize_mode="shortest",
    )
    return cast("Preprocess", transform)


def load_clip(directory: Path = WEIGHTS) -> tuple[open_clip.CLIP, Preprocess, WordTokenizer]:
    """The shipped CLIP in float32 and eval mode, its preprocessing and its tokenizer.

    `directory` holds `clip.safetensors` (float16) and `clip.json`.
    Raises CheckpointMismatch if the weights were trained with another vocabulary.
    """
    card = json.loads((directory / "clip.json").read_text())
    tokenizer = WordTokenizer()
    if tuple(card["vocabulary"]) != tokenizer.vocabulary:
        msg = (
            f"{directory} was trained with another vocabulary; retrain it with "
            "`python -m lensbase.ingest.world.train clip`"
        )
        raise CheckpointMismatch(msg)
    model = build_clip(card["config"])
    weights = load_file(directory / "clip.safetensors")
    model.load_state_dict({name: w.to(torch.float32) for name, w in weights.items()})
    return model.eval(), build_preprocess(), tokenizer


def normalize_images(images: Any) -> Tensor:
    """uint8 [n, 64, 64, 3] to float32 [n, 3, 64, 64], as the preprocessing does."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return pixels.float().div_(255).sub_(IMAGE_MEAN[0]).div_(IMAGE_STD[0])
