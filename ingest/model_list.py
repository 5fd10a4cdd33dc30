"""Which models can be ingested by name, without building any."""

from __future__ import annotations

from typing import Any, cast

import open_clip
from open_clip.factory import get_model_config

from ..schema.errors import UnsupportedModel
from .model_plan import WORLD, _check_config  # pyright: ignore[reportPrivateUsage]
from .world.model import CONFIG


def list_models() -> list[dict[str, Any]]:
    """Names that `ingest` takes, with the shape of their image tower and their pretrained tags.

    Columns `model`, `pretrained` (a list), `layers`, `heads`, `width`, `image_size`,
    `patch_size`, `embed_dim` and `activation`; `world` comes first, with its own weights.
    """
    rows = [_row(WORLD, CONFIG, tags=[])]
    for name in sorted(open_clip.list_models(), key=str.lower):
        config = cast("dict[str, Any]", get_model_config(name))
        try:
            _check_config(config)
        except UnsupportedModel:
            continue
        rows.append(_row(name, config, tags=open_clip.list_pretrained_tags_by_model(name)))
    return rows


def _row(name: str, config: dict[str, Any], *, tags: list[str]) -> dict[str, Any]:
    vision = config["vision_cfg"]
    return {
        "model": name,
        "pretrained": tags,
        "layers": vision["layers"],
        "heads": vision["width"] // vision.get("head_width", 64),
        "width": vision["width"],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "embed_dim": config["embed_dim"],
        "activation": "quickgelu" if config.get("quick_gelu") else "gelu",
    }
