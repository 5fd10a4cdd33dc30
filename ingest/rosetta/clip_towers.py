"""Image towers of open_clip's models as members: transformers, ResNets and timm's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import open_clip
from open_clip.factory import get_model_config
from open_clip.pretrained import download_pretrained

from ...schema.errors import UnknownModel, UnsupportedModel, WeightsNotFound
from ..model_plan import Plan, build_model
from ..models import load_model, weights_sha256
from .constructors import FETCHING, not_fetched, weight_file
from .default_modules import near_names
from .members import HookedModel, check_inputs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .specs import MemberSpec


def load_clip_member(spec: MemberSpec, device: str | torch.device) -> HookedModel:
    """Load the image tower of an open_clip model by name, hf-hub: or local-dir:.

    What `load_model` reads is loaded by it, so that weights hash alike; other towers by
    open_clip's own classes. Raises UnknownModel, UnsupportedModel, WeightsNotFound and what
    `HookedModel` raises.
    """
    model, digest = _load(spec)
    visual = cast("nn.Module", model.visual)
    cfg = cast("dict[str, Any]", visual.preprocess_cfg)
    return HookedModel(
        visual,
        check_inputs(cfg["size"], cfg["mean"], cfg["std"], interpolation=cfg["interpolation"]),
        name=spec.name,
        spec=spec.text,
        source=spec.source,
        weights_hash=digest,
        prefix="visual.",
        pattern=spec.pattern,
        device=device,
    )


def _load(spec: MemberSpec) -> tuple[nn.Module, str]:
    name = spec.architecture
    clean = name.replace("/", "-")
    if ":" in name or _is_read_by_lensbase(clean):
        try:
            loaded = load_model(name, pretrained=spec.pretrained)
        except WeightsNotFound as error:
            raise _reworded(spec, error) from error
        return loaded.model, loaded.info.weights_sha256
    model = build_model(_plan(spec, clean))
    return model, weights_sha256(model)


def _is_read_by_lensbase(name: str) -> bool:
    config = cast("dict[str, Any] | None", get_model_config(name))
    if config is None:
        return True  # whose error names what there is
    vision = config["vision_cfg"]
    return not (
        isinstance(vision.get("layers"), list)
        or vision.get("timm_model_name")
        or vision.get("pool_type", "tok") != "tok"
    )


def _plan(spec: MemberSpec, name: str) -> Plan:
    config = cast("dict[str, Any]", get_model_config(name))
    if "multimodal_cfg" in config:
        msg = f"open_clip's {name} has a text decoder (CoCa), which is no zoo's affair: take a CLIP"
        raise UnsupportedModel(msg)
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    quick = f"{name}-quickgelu"
    plan = Plan(
        name=name,
        config=config,
        preprocessing={},
        weights=weight_file(spec.pretrained),
        source="open_clip",
        quick_sibling=quick if quick in open_clip.list_models() else None,
    )
    if plan.weights is not None or spec.pretrained is None:
        return plan
    tag = cast("dict[str, Any]", open_clip.get_pretrained_cfg(name, spec.pretrained))
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(name)
        near = near_names(spec.pretrained, tags)
        msg = f"open_clip's {name} has no weights {spec.pretrained!r}; nearest: {near}"
        raise UnknownModel(msg)
    try:
        weights = weight_file(download_pretrained(tag))
    except FETCHING as error:
        raise not_fetched(spec, f"{name} {spec.pretrained}", error) from error
    return replace(plan, preprocessing=tag, weights=weights)


def _reworded(spec: MemberSpec, error: WeightsNotFound) -> WeightsNotFound:
    """An error about fetching as the zoo's, which has no option `--pretrained`."""
    if error.__cause__ is None:
        return error
    what = f"{spec.architecture} {spec.pretrained or ''}".strip()
    return not_fetched(spec, what, cast("Exception", error.__cause__))
