"""Members of a zoo that make pictures: any module from latents to images, hooked.

Three ways to call one are told by its signature: StyleGAN's (`mapping` and `synthesis`, or an
argument `truncation_psi`; one class or none, constant noise), BigGAN's (latent, class vector,
truncation), and any other module's, latent to image.
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from ...schema.zoo_errors import BadGenerator, BadPictures
from ..models import weights_sha256
from .hooks import PROBES, run_mapped
from .members import chosen_hooks
from .probing import find_hooks
from .specs import check_member_name
from .user_code import forward_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .units import Batch, Kind, UnitModule

Range = tuple[float, float]
Style = Literal["plain", "stylegan", "biggan"]

RANGES: Final[tuple[Range, ...]] = ((0.0, 1.0), (-1.0, 1.0))
_LATENT_NAMES = ("latent", "latent_size", "latent_dim", "z_dim", "dim_z", "nz")
_LABEL_NAMES = ("class_vector", "class_label", "class_labels", "y", "c", "label", "labels")
_TOLERANCE = 0.01  # a sigmoid's or a tanh's outputs need none
_MOST_OUTSIDE = 0.25  # of StyleGAN's values, which are meant to be clamped
_MORE_PROBES = 14


def call_style(module: nn.Module) -> Style:
    """How a generator wants to be called."""
    if isinstance(getattr(module, "mapping", None), nn.Module) and isinstance(
        getattr(module, "synthesis", None), nn.Module
    ):
        return "stylegan"
    parameters = list(inspect.signature(module.forward).parameters)
    if "truncation_psi" in parameters:
        return "stylegan"
    if len(parameters) > 1 and parameters[1] in _LABEL_NAMES:
        return "biggan"
    return "plain"


def accepted(function: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that a function takes, by name or by `**`."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return settings
    return {name: value for name, value in settings.items() if name in parameters}


class HookedGenerator:
    """A generator with hooks on its modules: a `GeneratorMember`.

    `latent` is the shape of one latent, `output_range` (0, 1) or (-1, 1); `label` fixes the class
    of a conditional generator, `truncation` is psi of StyleGAN's and the truncation of BigGAN's.
    A look at two pictures finds out what the modules give and whether the images are what the
    range says. Raises BadGenerator, NoSuchModule, NoSpatialMaps or ForwardFailed.
    """

    kind: Kind = "generator"

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        spec: str,
        source: str,
        latent: int | Sequence[int] | None = None,
        output_range: Sequence[float] | None = None,
        label: int | None = None,
        truncation: float | None = None,
        pattern: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        check_member_name(name)
        self.name = name
        self.spec = spec
        self.source = source
        self.weights_sha256 = weights_sha256(network)
        self.device = torch.device(device)
        self.style: Style = call_style(network)
        self.network = network.eval().requires_grad_(requires_grad=False).float().to(self.device)
        self.latent = self._read_latent(latent)
        self.output_range = self._read_range(output_range)
        self.label = label if label is not None else cast("Any", getattr(network, "label", None))
        own = getattr(network, "truncation", 1.0) if truncation is None else truncation
        self.truncation = float(cast("Any", own))
        z = self.sample(PROBES, 0)
        self._hooks = find_hooks(
            self.network, lambda: self._images(z), name=name, prefix="", pattern=pattern
        )
        self.modules: tuple[UnitModule, ...] = tuple(hook.unit for hook in self._hooks)
        self.input_size = self._check_images(z)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How latents become images, in plain JSON."""
        return {
            "latent": list(self.latent),
            "output_range": list(self.output_range),
            "call": self.style,
            "label": self.label,
            "truncation": self.truncation,
        }

    @property
    def units(self) -> int:
        """The number of units."""
        return sum(module.channels for module in self.modules)

    def sample(self, n: int, seed: int) -> Tensor:
        """Latents [n, *latent], standard normal, drawn on the CPU one by one.

        The first are the same whatever n is. BigGAN's are normal between -2 and 2, times the
        truncation.
        """
        generator = torch.Generator().manual_seed(seed)
        rows = torch.empty((n, *self.latent))
        for row in rows:
            if self.style == "biggan":
                nn.init.trunc_normal_(row, generator=generator)
                row *= self.truncation
            else:
                row.normal_(generator=generator)
        return rows.to(self.device)

    def generate(self, z: Tensor) -> Tensor:
        """Images [n, 3, H, H] in [0, 1] of latents [n, *latent]; gradients flow."""
        z = self._checked(z)
        with forward_of(self.name, over=f"{len(z)} latents"):
            images = self._images(z)
        return self._unit_range(images)

    def generate_with_maps(
        self, z: Tensor, modules: Sequence[str]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The images of `generate` and maps [n, C, h, w] by module; gradients flow.

        Raises NoSuchModule for a module that is not hooked.
        """
        z = self._checked(z)
        hooks = chosen_hooks(self._hooks, modules, member=self.name)
        with forward_of(self.name, over=f"{len(z)} latents"):
            images, maps = run_mapped(self.network, hooks, lambda: self._images(z))
        return self._unit_range(images), maps

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """One float32 [B, C, h, w] a module, of the latents that the batch was generated from."""
        if batch.latents is None:
            msg = (
                f"{self.name} is a generator: it has maps of pictures it made, not of others; "
                "take its own samples as the pictures, or leave it out of the zoo"
            )
            raise BadPictures(msg)
        _, maps = self.generate_with_maps(batch.latents, [hook.unit.name for hook in self._hooks])
        return [maps[module.name] for module in self.modules]

    def _checked(self, z: Tensor) -> Tensor:
        if tuple(z.shape[1:]) != self.latent:
            msg = f"{self.name} takes latents [n, {', '.join(map(str, self.latent))}], not "
            raise BadGenerator(msg + str(list(z.shape)))
        return z.to(self.device, torch.float32)

    def _unit_range(self, images: Tensor) -> Tensor:
        low, high = self.output_range
        return ((images - low) / (high - low)).clamp(0, 1)

    def _images(self, z: Tensor) -> Tensor:
        network: Any = self.network
        if self.style == "plain":
            return network(z)
        if self.style == "biggan":
            forward = inspect.signature(network.forward).parameters
            label = self._one_hot(len(z))
            if label is not None and isinstance(getattr(network, "shared", None), nn.Embedding):
                label = network.shared(label.argmax(1))  # of BigGAN's first PyTorch version
            return network(z, label, *([self.truncation] if len(forward) > 2 else []))
        fixed = {"noise_mode": "const", "force_fp32": True}
        psi = {"truncation_psi": self.truncation}
        label = self._one_hot(len(z))
        if hasattr(network, "synthesis"):
            w = network.mapping(z, label, **accepted(network.mapping.forward, psi))
            return network.synthesis(w, **accepted(network.synthesis.forward, fixed))
        return network(z, label, **psi, **accepted(network.forward, fixed))

    def _one_hot(self, n: int) -> Tensor | None:
        """The fixed class of n images: [n, classes], or None for StyleGAN without classes."""
        classes = self._classes()
        if classes == 0:
            return None
        if self.label is None or not 0 <= self.label < classes:
            msg = (
                f"{self.name} makes images of {classes} classes: fix one of 0 to {classes - 1} "
                f"with label=, or as the module's attribute `label`, not {self.label}"
            )
            raise BadGenerator(msg)
        index = torch.full((n,), self.label, device=self.device)
        return F.one_hot(index, classes).float()

    def _classes(self) -> int:
        config = getattr(self.network, "config", None)
        for owner in (self.network, config):
            for attribute in ("c_dim", "num_classes", "n_classes"):
                count = getattr(owner, attribute, None)
                if isinstance(count, int):
                    return count
        if self.style == "stylegan":
            return 0
        msg = (
            f"{self.name} takes a class vector, and its module does not say of how many classes: "
            "give it an attribute `num_classes`"
        )
        raise BadGenerator(msg)

    def _read_latent(self, latent: int | Sequence[int] | None) -> tuple[int, ...]:
        found: Any = latent
        for owner in (self.network, getattr(self.network, "config", None)):
            for attribute in _LATENT_NAMES:
                value = getattr(owner, attribute, None)
                if found is None and isinstance(value, int | tuple | list):
                    found = cast("Any", value)
        shape: tuple[int, ...] = (found,) if isinstance(found, int) else tuple(found or ())
        if not shape or min(shape) < 1:
            msg = (
                f"{self.name} does not say what its latents are: pass latent= (a size, or a shape "
                "without the batch), or give the module an attribute `latent_size` or `z_dim`"
            )
            raise BadGenerator(msg)
        return shape

    def _read_range(self, output_range: Sequence[float] | None) -> Range:
        own = cast("Any", getattr(self.network, "output_range", None))
        stated = own if output_range is None else output_range
        if stated is None and self.style != "plain":
            return RANGES[1]
        found = None if stated is None else tuple(float(value) for value in stated)
        if found not in RANGES:
            msg = (
                f"{self.name} must state the range of its images, (0, 1) or (-1, 1), not {stated}: "
                "pass output_range=, or give the module an attribute `output_range`"
            )
            raise BadGenerator(msg)
        return cast("Range", found)

    @torch.no_grad()
    def _check_images(self, z: Tensor) -> int:
        """The side of the images; raises BadGenerator unless they are what they should be."""
        images = cast("object", self._images(z))
        square = f"images [{len(z)}, 3, H, H]"
        if not isinstance(images, torch.Tensor):
            wrong = f"gives {type(images).__name__}, not {square}"
        elif images.ndim != 4 or images.shape[:2] != (len(z), 3):
            wrong = f"gives {list(images.shape)} for {len(z)} latents, not {square} of 3 channels"
        elif images.shape[2] != images.shape[3]:
            wrong = f"gives images {images.shape[2]} x {images.shape[3]}, and a zoo's are square"
        elif not images.isfinite().all():
            wrong = "gives images with NaN or infinite values; check its weights"
        elif not torch.allclose(images, self._images(z), rtol=0, atol=1e-3):
            wrong = (
                "gives other images when it gets the same latents again: turn its noise off (make "
                "a module that calls it with constant noise)"
            )
        else:
            wrong = self._wrong_range(images)
        if wrong is not None:
            msg = f"the generator {self.name} {wrong}"
            raise BadGenerator(msg)
        return int(cast("Tensor", images).shape[-1])

    def _wrong_range(self, images: Tensor) -> str | None:
        low, high = self.output_range
        found = f"[{float(images.min()):.3g}, {float(images.max()):.3g}]"
        outside = (images < low - _TOLERANCE) | (images > high + _TOLERANCE)
        allowed = 0.0 if self.style == "plain" else _MOST_OUTSIDE
        if float(outside.float().mean()) > allowed:
            return (
                f"gives values in {found}, and states [{low:g}, {high:g}]: state the range that it "
                "has, (0, 1) or (-1, 1), or make a module that rescales its images"
            )
        if low < 0 and float(images.min()) >= 0:
            more = self._images(self.sample(_MORE_PROBES, 1))
            if float(more.min()) >= 0:
                return f"gives values in {found}, and states [-1, 1]: state output_range=(0, 1)"
        return None


def generator_member(
    module: nn.Module,
    *,
    name: str,
    latent: int | Sequence[int] | None = None,
    output_range: Sequence[float] | None = None,
    label: int | None = None,
    truncation: float | None = None,
    pattern: str | None = None,
    device: str | torch.device = "cpu",
) -> HookedGenerator:
    """Make a member of a generator, which is copied.

    What is not given is read from attributes of the module: `latent`, `latent_size` or `z_dim`,
    `output_range`, `label`, `truncation`. Raises what `HookedGenerator` raises.
    """
    return HookedGenerator(
        copy.deepcopy(module),
        name=name,
        spec=f"{name}=module:{type(module).__name__}",
        source="module",
        latent=latent,
        output_range=output_range,
        label=label,
        truncation=truncation,
        pattern=pattern,
        device=device,
    )
