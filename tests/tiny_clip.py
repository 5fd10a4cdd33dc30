"""CLIPs small enough to build by the dozen, under names that open_clip then knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from PIL import Image

from lensbase.ingest.models import LoadedModel

VISION: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "head_width": 8,
    "layers": 2,
}
TEXT: dict[str, Any] = {
    "context_length": 16,
    "vocab_size": 49408,
    "width": 16,
    "heads": 2,
    "layers": 1,
}
TINY: dict[str, Any] = {"embed_dim": 12, "vision_cfg": VISION, "text_cfg": TEXT}


def name_tiny_models(folder: Path) -> None:
    """Teach open_clip ViT-Tiny, with QuickGELU, with LayerScale, with a text tower apart."""
    configs = {
        "ViT-Tiny": TINY,
        "ViT-Tiny-quickgelu": TINY | {"quick_gelu": True},
        "ViT-Tiny-scaled": TINY | {"vision_cfg": VISION | {"ls_init_value": 0.1}},
        "ViT-Tiny-custom-text": TINY | {"custom_text": True},
    }
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def trained(**changes: Any) -> Any:
    """A CLIP of another seed than the one for models without weights."""
    torch.manual_seed(1)
    make: Any = CLIP
    return make(**(TINY | changes)).eval()


def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def assert_same_weights(loaded: LoadedModel, wanted: Any) -> None:
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    model: Any = loaded.model
    found = model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.state_dict().items())
    with torch.inference_mode():
        assert torch.equal(model.encode_image(images), wanted.encode_image(images))
