"""How far a mining run is, on disk: a killed process' successor goes on there, to the same bits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ...schema import durable
from ...schema.zoo_errors import MiningMismatch

_SHARE = 20  # a state is written at most a twentieth of the time
_DTYPES = {
    "torch.float32": "F32",
    "torch.float64": "F64",
    "torch.int32": "I32",
    "torch.int64": "I64",
}


@dataclass
class MiningState:
    """A safetensors file that is replaced whole every `seconds` (0: each batch), and its run.

    `facts` (members, pairs, images, settings) must be the same when the run goes on: JSON.
    """

    path: Path
    facts: Mapping[str, object]
    seconds: float
    _written: float = field(default_factory=time.monotonic)
    _cost: float = 0.0

    def load(self) -> dict[str, Tensor] | None:
        """What the last process left, if anything; MiningMismatch if it is of another run."""
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            theirs = json.loads((file.metadata() or {}).get("mining", "{}"))
            ours = json.loads(_plain(self.facts))
            names = sorted(theirs.keys() | ours.keys())
            if differing := [one for one in names if theirs.get(one) != ours.get(one)]:
                # Other models are also tiled differently: then it is not the memory.
                differing = [one for one in differing if one != "memory"] or differing
                msg = (
                    f"{self.path} is of a mining run with other {', '.join(differing)}. Repeat "
                    "that run's settings to go on with it, or remove the file to start anew."
                )
                raise MiningMismatch(msg)
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def due(self) -> bool:
        """Whether the last state is old enough."""
        wait = self.seconds and max(self.seconds, _SHARE * self._cost)
        return time.monotonic() - self._written >= wait

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Write a state that replaces the last one."""
        start = time.monotonic()
        durable.write_parts(self.path, _parts(tensors, {"mining": _plain(self.facts)}))
        durable.sync_directory(self.path.parent)
        self._written = time.monotonic()
        self._cost = self._written - start


def _plain(facts: Mapping[str, object]) -> str:
    return json.dumps(facts, sort_keys=True)


def _parts(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, without a second copy of large tensors in memory."""
    header: dict[str, object] = {"__metadata__": metadata}
    offset = 0
    # Eight-byte numbers first: every tensor then starts where its type may.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        yield tensors[name].cpu().contiguous().view(-1).numpy().data.cast("B")
