"""How a zoo is mined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schema.errors import BadQuestion


@dataclass(frozen=True, kw_only=True)
class MiningOptions:
    """How a zoo is mined. `memory` in bytes, for the products; `examples` are pictures kept."""

    neighbors: int = 5
    memory: int = 8_000_000_000
    batch_size: int = 32
    examples: int = 32
    samples: int | None = None
    seed: int = 0
    limit: int | None = None
    where: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Raise `BadQuestion` for numbers that make no sense."""
        least = {"neighbors": 1, "memory": 1, "batch_size": 1, "examples": 0, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not _whole(value, lowest):
                option = f"--{name.replace('_', '-')}"
                msg = f"{name} ({option}) is {value!r}; give a whole number from {lowest}."
                raise BadQuestion(msg)
        if self.samples is not None and not _whole(self.samples, 2):
            msg = f"samples (--samples) is {self.samples!r}; a correlation takes two or more."
            raise BadQuestion(msg)
        if self.limit is not None and not _whole(self.limit, 1):
            msg = f"limit (--limit) is {self.limit!r}; give a whole number from 1, or none."
            raise BadQuestion(msg)


def _whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest
