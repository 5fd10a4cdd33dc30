"""Modules from callables, and their weights: random of a fixed seed, or out of a file."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import torch
from torch import nn

from ...schema.errors import LensbaseError, UnknownModel, WeightsNotFound
from ...schema.zoo_errors import BadMember
from ..checkpoints import Checkpoint, load_into, read_checkpoint
from ..model_plan import RANDOM_SEED
from .default_modules import near_names
from .user_code import raised

if TYPE_CHECKING:
    from collections.abc import Callable

    from .specs import MemberSpec

FETCHING: Final = (OSError, ImportError, RuntimeError, ValueError)
"""What libraries raise where weights cannot be fetched."""

_WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".tar")
Made = TypeVar("Made")


def seeded(make: Callable[[], Made]) -> Made:
    """Call `make` with torch's random state at a fixed seed, and put it back after."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(RANDOM_SEED)
        return make()


def weight_file(pretrained: str | None) -> Path | None:
    """The file that `@PRETRAINED` names, or None for a tag.

    Raises WeightsNotFound for what looks like a file and is none.
    """
    if pretrained is None:
        return None
    path = Path(pretrained).expanduser()
    if path.is_file():
        return path
    if path.suffix in _WEIGHT_FILES or len(path.parts) > 1:
        msg = f"there is no checkpoint file {pretrained}; name it after @, from this directory on"
        raise WeightsNotFound(msg)
    return None


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy a file's tensors into a module; every one must fit.

    Batch norms' counters of batches, which no forward pass reads, may be missing. Raises
    CheckpointMismatch or UnsafeCheckpoint.
    """
    checkpoint = read_checkpoint(path)
    counters = {
        key: value
        for key, value in module.state_dict().items()
        if key.endswith("num_batches_tracked") and key not in checkpoint.tensors
    }
    load_into(
        module, Checkpoint({**checkpoint.tensors, **counters}, openai=False), source=str(path)
    )


def construct(spec: MemberSpec) -> nn.Module:
    """Call `package.module:callable` without arguments, and load the file after `@` into it.

    Raises BadMember where it raises or gives no module, UnknownModel where it cannot be imported,
    WeightsNotFound and what `load_weights` raises.
    """
    package, colon, name = spec.architecture.partition(":")
    if not colon or not package or not name:
        msg = (
            f"{spec.text!r} names no callable: write {spec.name}={spec.source}:"
            "package.module:callable[@FILE]"
        )
        raise BadMember(msg)
    try:
        found: Any = importlib.import_module(package)
    except ImportError as error:
        msg = f"{package} cannot be imported ({error}); install it, or put its folder on PYTHONPATH"
        raise UnknownModel(msg) from error
    except Exception as error:
        msg = f"{package}, when it is imported, raised {raised(error)}"
        raise BadMember(msg) from error
    for part in name.split("."):
        if not hasattr(found, part):
            msg = f"{package} has no {name!r}; nearest: {near_names(name, dir(found))}"
            raise UnknownModel(msg)
        found = getattr(found, part)
    file = weight_file(spec.pretrained)
    if spec.pretrained is not None and file is None:
        msg = f"there is no checkpoint file {spec.pretrained}; name it after @"
        raise WeightsNotFound(msg)
    _check_callable(spec, found)
    try:
        module = seeded(cast("Callable[[], object]", found))
    except LensbaseError:
        raise
    except Exception as error:
        msg = f"{spec.architecture} raised {raised(error)}"
        raise BadMember(msg) from error
    if not isinstance(module, nn.Module):
        msg = f"{spec.architecture}() gives {type(module).__name__}, not a torch.nn.Module"
        raise BadMember(msg)
    if file is not None:
        load_weights(module, file)
    return module


def _check_callable(spec: MemberSpec, found: Any) -> None:
    """Raise BadMember for what cannot be called without arguments."""
    if not callable(found):
        msg = f"{spec.architecture} is no callable but {type(found).__name__}"
        raise BadMember(msg)
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # of some built-in ones nothing is known
        return
    try:
        signature.bind()
    except TypeError as error:
        msg = (
            f"{spec.architecture}() fails ({error}): it is called without arguments; write a "
            "function that fills them in"
        )
        raise BadMember(msg) from error


def not_fetched(spec: MemberSpec, what: str, error: Exception) -> WeightsNotFound:
    """Make the error for weights that neither the disk nor the network had."""
    first = str(error).strip().partition("\n")[0][:200]
    base = spec.architecture.partition(".")[0] if spec.source == "timm" else spec.architecture
    return WeightsNotFound(
        f"the weights of {what} could not be fetched ({first}). Fetch them where there is a "
        f"network and name the file: {spec.name}={spec.source}:{base}@weights.safetensors"
    )
