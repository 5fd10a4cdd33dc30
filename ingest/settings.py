"""The settings of a run: whatever would change a number, fixed when the run begins."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from ..schema.arrays import Storage
from ..schema.catalog import version
from ..schema.errors import BadAddress
from ..schema.records import ModelInfo

_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow", "zarr", "duckdb")
_ATTENTION = "sdpa"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Choices of one ingest.

    Layers count from 0. `batch_size` and `threads` are part of them because a batch of 7 and
    one of 48 differ in float16 bits: a resumed run goes on with those it began with.
    """

    head_layers: tuple[int, ...]
    tokens: bool
    head_token_layers: tuple[int, ...]
    thumbnails: bool
    precision: str
    device: str
    batch_size: int
    threads: int
    segment_rows: int
    storage: Storage = "float16"
    neuron_layers: tuple[int, ...] = ()
    neurons: int = 0  # of each of these layers, as the model has them
    # Layers of each pass over the images: grouped otherwise, sums may differ in their last bits.
    neuron_passes: tuple[tuple[int, ...], ...] = ()
    neuron_input: bool = False
    reference: int = 0
    seed: int = 0


def choose_layers(
    choice: str | Sequence[int] | None, *, layers: int, option: str
) -> tuple[int, ...]:
    """Read a choice of layers: `all`, `none`, `last:4`, `8,9`, `4:8` or a list of numbers.

    Returns ascending layer numbers. Raises `BadAddress`, naming the option, for anything else.
    """
    if choice is None or choice == "none":
        return ()
    chosen = _read_layers(choice, layers) if isinstance(choice, str) else list(choice)
    if chosen is None or any(not 0 <= layer < layers for layer in chosen):
        msg = (
            f"{option} {choice!r} does not choose layers of a model with {layers} (0 to "
            f"{layers - 1}); write all, none, last:4, or numbers such as 8,9."
        )
        raise BadAddress(msg)
    return tuple(sorted(set(chosen)))


def _read_layers(choice: str, layers: int) -> list[int] | None:
    if choice == "all":
        return list(range(layers))
    try:
        if choice.startswith("last:"):
            return list(range(max(0, layers - int(choice[5:])), layers))
        chosen: list[int] = []
        for part in choice.split(","):
            start, colon, stop = part.partition(":")
            chosen += range(int(start), int(stop)) if colon else [int(start)]
    except ValueError:
        return None
    return chosen


def versions() -> dict[str, str]:
    """Versions of lensbase, Python and the libraries whose results a run holds."""
    found = {"lensbase": version(), "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(info: ModelInfo, settings: Settings) -> str:
    """Hash whatever would change a number of the run, in hexadecimal.

    Model, weights, preprocessing, settings, attention implementation and versions.
    """
    described: dict[str, Any] = {
        "model": {key: value for key, value in asdict(info).items() if key != "pretrained"},
        "settings": asdict(settings),
        "attention": _ATTENTION,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
