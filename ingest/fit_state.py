"""How far the fit of one pass' neurons is, on disk: a killed process' successor goes on there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import load_file, save

from ..schema import durable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from .neuron_fit import NeuronFit

_SECONDS = 60.0  # between two states that are kept


class ReferenceImage(NamedTuple):
    """An image that neurons are fitted to: its row, and the hash of its file."""

    row: int
    sha256: str


@dataclass
class Reached:
    """Batches that each round of a fit has read, and the images that the first one took."""

    observed: int = 0
    selected: int = 0
    images: list[ReferenceImage] = field(default_factory=list[ReferenceImage])


@dataclass
class KeptState:
    """The state of a fit in a file that is replaced whole, at most once a minute."""

    path: Path
    _written: float = field(default_factory=time.monotonic)

    def restore(self, fit: NeuronFit) -> Reached:
        """Bring a fit to where the last process left it."""
        if not self.path.exists():
            return Reached()
        state = load_file(self.path)
        observed, selected = state.pop("reached").tolist()
        hashes = [bytes(one).hex() for one in state.pop("sha256").tolist()]
        rows = state.pop("rows").tolist()
        fit.restore(state)
        return Reached(observed, selected, list(map(ReferenceImage, rows, hashes)))

    def keep(self, fit: NeuronFit, reached: Reached, *, now: bool = False) -> None:
        """Write the state, if the last one is old enough."""
        if not now and time.monotonic() - self._written < _SECONDS:
            return
        hashes = [list(bytes.fromhex(image.sha256)) for image in reached.images]
        about = {
            "reached": torch.tensor([reached.observed, reached.selected]),
            "rows": torch.tensor([image.row for image in reached.images], dtype=torch.int64),
            "sha256": torch.tensor(hashes, dtype=torch.uint8).view(-1, 32),
        }
        write_tensors(self.path, fit.state() | about)
        self._written = time.monotonic()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file that appears whole or not at all."""
    durable.write_parts(path, [save(dict(tensors))])
    durable.sync_directory(path.parent)
