"""What mining asks of a zoo's members: hooked modules whose channels are units, and their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor

Kind = Literal["discriminative", "generator"]


@dataclass(frozen=True, slots=True)
class UnitModule:
    """A hooked module: its dotted name, its channels and the (height, width) of their maps.

    A member's units are numbered over its modules in order, channels within.
    """

    name: str
    channels: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Square RGB pictures, and the latents [B, *latent] where a generator made them."""

    pictures: list[Image.Image]
    latents: Tensor | None = None


@runtime_checkable
class Member(Protocol):
    """A model of a zoo, with hooks on its modules."""

    @property
    def name(self) -> str:
        """The member's name in its zoo."""
        ...

    @property
    def kind(self) -> Kind:
        """Whether it reads pictures or makes them."""
        ...

    @property
    def spec(self) -> str:
        """What it was loaded from."""
        ...

    @property
    def source(self) -> str:
        """What loaded it: the specification's source, or `module`."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Hash of its weights, as in `lensbase.ingest.models`."""
        ...

    @property
    def modules(self) -> tuple[UnitModule, ...]:
        """The hooked modules, in order."""
        ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pictures or latents reach it, in plain JSON."""
        ...

    @property
    def input_size(self) -> int:
        """The side of the square pictures that the member takes (a generator: gives), in pixels."""
        ...

    @property
    def units(self) -> int:
        """The number of units: the sum of the modules' channels."""
        ...

    def maps(self, batch: Batch) -> list[Tensor]:
        """One float32 [B, C, h, w] a module, without gradients, on the member's device.

        Class and register tokens are dropped, and tokens stand on their grid.
        """
        ...


@runtime_checkable
class DiscriminativeMember(Member, Protocol):
    """A member that reads pictures."""

    def maps_of(self, pixels: Tensor, modules: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Maps [B, C, h, w] by module of pixels [B, 3, H, W] in [0, 1]; differentiable.

        Pixels are resized (bilinear, antialiased) and normalized as the member needs them.
        """
        ...


@runtime_checkable
class GeneratorMember(Member, Protocol):
    """A member that makes pictures from latents; its maps are those of `batch.latents`."""

    @property
    def latent(self) -> tuple[int, ...]:
        """The shape of one latent."""
        ...

    def sample(self, n: int, seed: int) -> Tensor:
        """Latents [n, *latent]: the same for the same seed, on every device."""
        ...

    def generate(self, z: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] of latents [n, *latent]; differentiable."""
        ...

    def generate_with_maps(
        self, z: Tensor, modules: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The images of `generate` and the maps [n, C, h, w] of `modules`; differentiable."""
        ...
