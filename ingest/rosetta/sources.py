"""A zoo's members by specification: open_clip, timm, torchvision, checkpoints, generators, world.

Where no weights are named, a member has the random weights of a fixed seed. Named weights are
fetched by the library that they belong to, or read from a file without running code from it; only
the callable of a `checkpoint` or `generator` is run, and is the user's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from ...schema.errors import UnknownModel
from ..models import load_model
from .clip_towers import load_clip_member
from .constructors import FETCHING, construct, load_weights, not_fetched, seeded, weight_file
from .default_modules import near_names
from .generators import HookedGenerator
from .members import HookedModel, Inputs, check_inputs
from .specs import MemberSpec, check_distinct, parse_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from torch import nn

    from .units import Member

WORLD: Final = ("clip", "resnet", "mae", "generator")


def load_zoo(
    members: Iterable[str | Member], *, device: str | torch.device = "cpu"
) -> tuple[Member, ...]:
    """Load the members of a zoo; what is no specification is a member already.

    Raises BadMember where two have one name, before anything is loaded, and what `load_member`
    raises.
    """
    found = list(members)
    check_distinct([parse_spec(m).name if isinstance(m, str) else m.name for m in found])
    return tuple(load_member(m, device=device) if isinstance(m, str) else m for m in found)


def load_member(spec: str, *, device: str | torch.device = "cpu") -> Member:
    """Load the member of a zoo that a specification names, and look at two pictures with it.

    `NAME=SOURCE:ARCHITECTURE[@PRETRAINED][#PATTERN]` with the sources

    - `open_clip`: a model's name (or hf-hub:, local-dir:), PRETRAINED a tag or a file; its image
      tower is read, under the weights' hash that `load_model` gives;
    - `timm`: a model's name, PRETRAINED a tag (or `NAME.TAG`) or a file;
    - `torchvision`: a model's name, PRETRAINED a name of weights (DEFAULT) or a file;
    - `checkpoint`: `package.module:callable`, which gives a module that has the attributes
      `input_size`, `mean`, `std` and maybe `interpolation`; PRETRAINED a file of its weights;
    - `generator`: the same of a generator, with `latent_size`, `output_range` and, where it has
      classes, `label`;
    - `world`: clip, resnet, mae or generator, which come with lensbase.

    Raises BadMember, BadName, UnknownModel, UnsupportedModel, WeightsNotFound, CheckpointMismatch,
    UnsafeCheckpoint, PreprocessMissing, and what `HookedModel` and `HookedGenerator` raise.
    """
    parsed = parse_spec(spec)
    return _LOADERS[parsed.source](parsed, device)


def _timm(spec: MemberSpec, device: str | torch.device) -> Member:
    import timm
    from timm.data.config import resolve_model_data_config

    name, _, tag = spec.architecture.partition(".")
    if not timm.is_model(name):
        msg = f"timm has no model {name!r}; nearest: {near_names(name, timm.list_models())}"
        raise UnknownModel(msg)
    file = weight_file(spec.pretrained)
    if file is None and spec.pretrained is not None:
        tag = spec.pretrained
    if tag:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
        if tag not in tags:
            msg = f"timm's {name} has no weights {tag!r}; there are: {', '.join(tags) or 'none'}"
            raise UnknownModel(msg)
    full = f"{name}.{tag}" if tag else name
    fetched = bool(tag) and file is None
    try:
        module = seeded(lambda: timm.create_model(full, pretrained=fetched))
    except FETCHING as error:
        if not fetched:
            raise
        raise not_fetched(spec, full, error) from error
    if file is not None:
        load_weights(module, file)
    data = cast("dict[str, Any]", resolve_model_data_config(module))
    inputs = check_inputs(
        data["input_size"][1:],
        data["mean"],
        data["std"],
        interpolation=data.get("interpolation", "bicubic"),
    )
    return _discriminative(module, inputs, spec, device)


def _torchvision(spec: MemberSpec, device: str | torch.device) -> Member:
    import torchvision.models as library

    name, known = spec.architecture, library.list_models(module=library)
    if name not in known:
        msg = f"torchvision has no model {name!r}; nearest: {near_names(name, known)}"
        raise UnknownModel(msg)
    all_weights = cast("Any", library.get_model_weights(name))
    file = weight_file(spec.pretrained)
    weights = None
    if file is None and spec.pretrained is not None:
        weights = all_weights.__members__.get(spec.pretrained)
        if weights is None:
            names = ", ".join(all_weights.__members__)
            msg = f"torchvision's {name} has no weights {spec.pretrained!r}; there are: {names}"
            raise UnknownModel(msg)
    # Random weights of a fixed seed are none the worse for costing no truncated normal numbers.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options = options if weights is None else {}
    try:
        module = seeded(lambda: library.get_model(name, weights=weights, **options))
    except FETCHING as error:
        if weights is None:
            raise
        raise not_fetched(spec, f"{name} {spec.pretrained}", error) from error
    if file is not None:
        load_weights(module, file)
    # The crop is the picture that its weights were trained for; there is one of every model.
    seen = (weights or all_weights.DEFAULT).transforms()
    inputs = check_inputs(seen.crop_size, seen.mean, seen.std, interpolation=seen.interpolation)
    return _discriminative(module, inputs, spec, device)


def _checkpoint(spec: MemberSpec, device: str | torch.device) -> Member:
    module = construct(spec)
    given: Any = module
    inputs = check_inputs(
        getattr(given, "input_size", None),
        getattr(given, "mean", None),
        getattr(given, "std", None),
        interpolation=getattr(given, "interpolation", "bicubic"),
    )
    return _discriminative(module, inputs, spec, device)


def _generator(spec: MemberSpec, device: str | torch.device) -> Member:
    return HookedGenerator(
        construct(spec),
        name=spec.name,
        spec=spec.text,
        source=spec.source,
        pattern=spec.pattern,
        device=device,
    )


def _world(spec: MemberSpec, device: str | torch.device) -> Member:
    if spec.architecture not in WORLD:
        near = near_names(spec.architecture, list(WORLD), count=1)
        msg = (
            f"the world has no model {spec.architecture!r}; nearest: {near}. "
            f"It has {', '.join(WORLD)}"
        )
        raise UnknownModel(msg)
    if spec.pretrained is not None:
        msg = f"world:{spec.architecture} comes with its weights: leave out @{spec.pretrained}"
        raise UnknownModel(msg)
    if spec.architecture == "clip":
        loaded = load_model("world")
        inputs = check_inputs(loaded.info.image_size, (0.5,) * 3, (0.5,) * 3)
        return HookedModel(
            loaded.visual,
            inputs,
            name=spec.name,
            spec=spec.text,
            source=spec.source,
            weights_hash=loaded.info.weights_sha256,
            prefix="visual.",
            pattern=spec.pattern,
            device=device,
        )
    from ..world.companions.loading import load_companion

    module = load_companion(spec.architecture)
    if spec.architecture == "generator":
        return HookedGenerator(
            module,
            name=spec.name,
            spec=spec.text,
            source=spec.source,
            output_range=(0, 1),
            pattern=spec.pattern,
            device=device,
        )
    inputs = check_inputs(64, (0.5,) * 3, (0.5,) * 3)
    return _discriminative(module, inputs, spec, device)


_LOADERS: Final[dict[str, Callable[[MemberSpec, str | torch.device], Member]]] = {
    "open_clip": load_clip_member,
    "timm": _timm,
    "torchvision": _torchvision,
    "checkpoint": _checkpoint,
    "generator": _generator,
    "world": _world,
}


def _discriminative(
    module: nn.Module, inputs: Inputs, spec: MemberSpec, device: str | torch.device
) -> HookedModel:
    return HookedModel(
        module,
        inputs,
        name=spec.name,
        spec=spec.text,
        source=spec.source,
        pattern=spec.pattern,
        device=device,
    )
