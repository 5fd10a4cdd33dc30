"""Loading the companions' shipped weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, overload

from safetensors.torch import load_file
from torch import nn

from ....schema.errors import CheckpointMismatch, UnknownModel
from ..model import WEIGHTS
from .generator import Generator
from .masked_autoencoder import Encoder
from .resnet import ResNet

_BUILD: Final[dict[str, Callable[[], nn.Module]]] = {
    "resnet": ResNet,
    "mae": Encoder,
    "generator": Generator,
}


@overload
def load_companion(name: Literal["resnet"], directory: Path = ...) -> ResNet: ...
@overload
def load_companion(name: Literal["mae"], directory: Path = ...) -> Encoder: ...
@overload
def load_companion(name: Literal["generator"], directory: Path = ...) -> Generator: ...
@overload
def load_companion(name: str, directory: Path = ...) -> nn.Module: ...
def load_companion(name: str, directory: Path = WEIGHTS) -> nn.Module:
    """A companion in float32 and eval mode: `resnet`, `mae` (its encoder) or `generator`.

    `directory` holds `NAME.safetensors` (float16). The first two take pictures [n, 3, 64, 64]
    normalized as (x - 0.5) / 0.5; the generator takes latents [n, latent_size].
    Raises UnknownModel for another name, CheckpointMismatch if the weights do not fit the module.
    """
    build = _BUILD.get(name)
    if build is None:
        msg = f"the embedded world has no companion {name!r}; choose one of {', '.join(_BUILD)}"
        raise UnknownModel(msg)
    model = build()
    path = directory / f"{name}.safetensors"
    weights = load_file(path)
    floats = {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}
    try:
        model.load_state_dict(floats)
    except RuntimeError as error:
        msg = (
            f"{path} is of another version of the {name}; retrain it with "
            f"`python -m lensbase.ingest.world.train {name}`"
        )
        raise CheckpointMismatch(msg) from error
    return model.eval()
