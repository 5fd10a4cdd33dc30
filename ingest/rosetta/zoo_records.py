"""What the catalogue says of a zoo and of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


class HookedModule(Protocol):
    """A module whose channels are units."""

    @property
    def name(self) -> str:
        """Its dotted name."""
        ...

    @property
    def channels(self) -> int:
        """How many units it has."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of its maps."""
        ...


class ZooModel(Protocol):
    """What the catalogue says of a model of a zoo; `units.Member` is one."""

    @property
    def name(self) -> str:
        """Its name in the zoo."""
        ...

    @property
    def kind(self) -> str:
        """Discriminative or generator."""
        ...

    @property
    def spec(self) -> str:
        """What it was loaded from."""
        ...

    @property
    def source(self) -> str:
        """The kind of that."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Hash over all weights."""
        ...

    @property
    def modules(self) -> Sequence[HookedModule]:
        """Its hooked modules, in the order of its units."""
        ...

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """How pictures reach it, in plain JSON."""
        ...

    @property
    def input_size(self) -> int:
        """Side of its pictures in pixels."""
        ...


@dataclass(frozen=True)
class Zoo:
    """What a zoo was mined on, and how: `settings` is plain JSON."""

    name: str
    anchor: str
    images: int
    dataset: str
    keys_sha256: str
    neighbors: int
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    created_at: datetime | None = None
