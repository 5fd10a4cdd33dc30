"""What a model's name and tag mean: which architecture, which weights, with which activation.

Decided before anything large is built or downloaded.
"""

from __future__ import annotations

import copy
import difflib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import open_clip
import torch
from open_clip.factory import (
    _find_checkpoint_in_dir,  # pyright: ignore[reportPrivateUsage]
    get_model_config,
    parse_model_name,
)
from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from ..schema.errors import ActivationMismatch, UnknownModel, WeightsNotFound
from .checkpoints import load_into, read_checkpoint
from .tower import image_tower, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

WORLD = "world"
RANDOM_SEED = 0
"""Of models without pretrained weights, so that a second run finds the same ones."""

_QUICK = "-quickgelu"
_WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors")
_FETCHING = (OSError, ImportError, RuntimeError, ValueError)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to build and where its weights lie.

    `config` and `preprocessing` are open_clip's dictionaries; `quick_sibling` is the name of the
    same architecture with QuickGELU, where there is one.
    """

    name: str
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    weights: Path | None
    source: str
    quick_sibling: str | None


def plan_model(name: str, pretrained: str | None) -> Plan:
    """Find a model by name and tag (or checkpoint file), fetching the tag's weights.

    Raises UnknownModel, UnsupportedModel, ActivationMismatch or WeightsNotFound.
    """
    schema, identifier = parse_model_name(name)
    if schema is not None:
        if pretrained is not None:
            msg = f"{name} comes with its weights: leave out pretrained={pretrained!r}"
            raise UnknownModel(msg)
        return _directory_plan(name, identifier) if schema == "local-dir" else _hub_plan(name)
    known = open_clip.list_models()
    clean = name.replace("/", "-")
    if clean not in known:
        msg = f"open_clip has no model {name!r}; {_nearest(clean, [*known, WORLD])}"
        raise UnknownModel(msg)
    config = cast("dict[str, Any]", get_model_config(clean))
    _check_config(config)
    plan = Plan(
        name=clean,
        config=config,
        preprocessing={},
        weights=None,
        source="open_clip",
        quick_sibling=clean + _QUICK if clean + _QUICK in known else None,
    )
    if pretrained is None:
        _log.warning(
            "%s has random weights (seed %d): name a tag or a checkpoint file with --pretrained",
            clean,
            RANDOM_SEED,
        )
        return plan
    tag = cast("dict[str, Any]", open_clip.get_pretrained_cfg(clean, pretrained))
    if tag:
        return _tagged_plan(plan, pretrained, tag)
    path = Path(pretrained).expanduser()
    if path.is_file():
        return replace(plan, weights=path, source="file")
    if path.suffix in _WEIGHT_FILES or len(path.parts) > 1:
        msg = f"there is no checkpoint file {pretrained}"
        raise WeightsNotFound(msg)
    other = clean.removesuffix(_QUICK)
    if other != clean and open_clip.get_pretrained_cfg(other, pretrained):
        msg = (
            f"the weights {pretrained!r} were trained with GELU, and {clean} applies QuickGELU: "
            f"use --model {other} --pretrained {pretrained}"
        )
        raise ActivationMismatch(msg)
    tags = open_clip.list_pretrained_tags_by_model(clean)
    msg = f"{clean} has no weights {pretrained!r}, and no file has that name; "
    raise UnknownModel(msg + _nearest(pretrained, tags))


def known_layers(name: Any) -> int | None:
    """Layers of a named model's image tower; None where only loading the model tells."""
    if not isinstance(name, str):
        return None
    if name == WORLD:
        from .world.model import CONFIG

        return CONFIG["vision_cfg"]["layers"]
    schema, identifier = parse_model_name(name)
    try:
        if schema == "local-dir":
            file = Path(identifier).expanduser() / "open_clip_config.json"
            config = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        else:
            config = None if schema else get_model_config(name.replace("/", "-"))
        found = (config or {})["vision_cfg"]["layers"]
    # Whatever is wrong with it is `plan_model`'s to say.
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None


def _tagged_plan(plan: Plan, tag_name: str, tag: dict[str, Any]) -> Plan:
    # Where no sibling with QuickGELU exists, open_clip's configuration is the only word on it.
    if tag.get("quick_gelu") and not plan.config.get("quick_gelu"):
        _refuse_activation(plan, f"the weights {tag_name!r}", f"--pretrained {tag_name}")
    try:
        weights = Path(download_pretrained(tag))
    except _FETCHING as error:
        what = f"the weights {tag_name!r} of {plan.name}"
        raise not_fetched(what, error) from error
    return replace(plan, weights=weights, preprocessing=tag)


def _directory_plan(name: str, identifier: str) -> Plan:
    folder = Path(identifier).expanduser()
    config_file = folder / "open_clip_config.json"
    if not config_file.is_file():
        msg = f"there is no {config_file}: local-dir: takes a folder with one beside the weights"
        raise WeightsNotFound(msg)
    weights = _find_checkpoint_in_dir(folder)
    if weights is None:
        msg = f"there is no checkpoint (.safetensors, .bin or .pth) in {folder}"
        raise WeightsNotFound(msg)
    return _configured_plan(name, config_file, Path(weights), "file")


def _hub_plan(name: str) -> Plan:
    repository = name.partition(":")[2]
    try:
        config_file = Path(download_pretrained_from_hf(repository, "open_clip_config.json"))
        weights = Path(download_pretrained_from_hf(repository))
    except _FETCHING as error:
        raise not_fetched(name, error) from error
    return _configured_plan(name, config_file, weights, "open_clip")


def _configured_plan(name: str, config_file: Path, weights: Path, source: str) -> Plan:
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
        config, preprocessing = content["model_cfg"], content.get("preprocess_cfg", {})
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{config_file} is not an open_clip configuration (no 'model_cfg' in it)"
        raise UnknownModel(msg) from error
    _check_config(config)
    return Plan(
        name=name,
        config=config,
        preprocessing=preprocessing,
        weights=weights,
        source=source,
        quick_sibling=None,
    )


def _check_config(config: dict[str, Any]) -> None:
    """Refuse what read_tower would refuse, before gigabytes are built or downloaded."""
    vision = cast("dict[str, Any]", config["vision_cfg"])
    if vision.get("timm_model_name"):
        refuse("a timm tower")
    if isinstance(vision.get("layers"), list):
        refuse("a ResNet tower")
    if vision.get("attentional_pool") or "multimodal_cfg" in config:
        refuse("attention pooling (CoCa and its kin)")
    if vision.get("pool_type", "tok") != "tok":
        refuse("average pooling" if vision["pool_type"] == "avg" else "a tower without pooling")


def build_model(plan: Plan) -> nn.Module:
    """Build a planned CLIP in float32 on the CPU, with its weights.

    Raises UnsupportedModel, ActivationMismatch, UnsafeCheckpoint or CheckpointMismatch.
    """
    config = copy.deepcopy(plan.config)
    text = config["text_cfg"]
    custom = bool(config.pop("custom_text", False)) or bool(text.get("hf_model_name"))
    text["hf_model_pretrained"] = False
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(RANDOM_SEED)
        try:
            model = cast("nn.Module", (CustomTextCLIP if custom else CLIP)(**config))
        except _FETCHING as error:
            if not text.get("hf_model_name"):
                raise
            what = f"the text encoder of {plan.name}"
            raise not_fetched(what, error) from error
    visual = image_tower(model)
    cfg = merge_preprocess_dict(PreprocessCfg(), plan.preprocessing)
    set_model_preprocess_cfg(model, {**cfg, "size": visual.image_size})
    if plan.weights is not None:
        checkpoint = read_checkpoint(plan.weights)
        if checkpoint.openai and not config.get("quick_gelu"):
            _refuse_activation(plan, f"{plan.weights} (OpenAI's)", f"--pretrained {plan.weights}")
        load_into(model, checkpoint, source=str(plan.weights))
    return model


def _refuse_activation(plan: Plan, weights: str, option: str) -> NoReturn:
    right = (
        f"use --model {plan.quick_sibling} {option}"
        if plan.quick_sibling
        else 'set "quick_gelu": true in the model\'s configuration'
    )
    msg = f"{weights} were trained with QuickGELU, and {plan.name} applies GELU: {right}"
    raise ActivationMismatch(msg)


def not_fetched(what: str, error: Exception) -> WeightsNotFound:
    """Make the error for files that neither the disk nor the network had."""
    first = str(error).strip().partition("\n")[0][:200]
    return WeightsNotFound(
        f"{what} could not be fetched ({first}). Fetch them where there is a network and pass the "
        "file (--pretrained weights.safetensors), or use --model world, which comes with its own"
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), folded, n=5, cutoff=0.5)
    listed = ", ".join([folded[key] for key in near] or names[:8])
    return f"nearest: {listed}" if near else f"there are: {listed or 'none'}"
