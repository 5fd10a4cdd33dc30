"""Members of a zoo that read pictures: any network of modules, hooked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from ...schema.errors import PreprocessMissing
from ...schema.zoo_errors import BadPictures, NoSuchModule
from ..models import weights_sha256
from .default_modules import near_names
from .hooks import PROBES, Hook, run_mapped
from .probing import find_hooks
from .specs import check_member_name
from .user_code import forward_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .units import Batch, Kind, UnitModule

_RESAMPLING: Final = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How square pictures reach a network: resized to `input_size`, then (x - mean) / std.

    `mean` and `std` are of values in [0, 1]; `interpolation` is Pillow's name of a filter.
    """

    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def as_json(self) -> dict[str, Any]:
        """The same in plain JSON."""
        return {
            "size": [self.input_size, self.input_size],
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": "squash",
        }


def check_inputs(
    input_size: object, mean: object, std: object, *, interpolation: object = "bicubic"
) -> Inputs:
    """Inputs of values that may be lists or of a library's own types.

    Raises PreprocessMissing for what is missing or cannot be meant.
    """
    wrong = None
    sides, means, stds, name = {0}, (), (), ""
    try:
        sides = {int(side) for side in np.atleast_1d(cast("Any", input_size)).tolist()}
        means = tuple(float(value) for value in cast("Any", mean))
        stds = tuple(float(value) for value in cast("Any", std))
        name = str(getattr(interpolation, "value", interpolation)).lower()
    except (TypeError, ValueError):
        wrong = f"input size {input_size!r}, mean {mean!r}, std {std!r}"
    if wrong is None and (len(sides) != 1 or min(sides) < 1):
        wrong = f"input size {input_size!r} (a zoo's pictures are square)"
    elif wrong is None and (len(means) != 3 or len(stds) != 3 or min(stds) <= 0):
        wrong = f"mean {means} and std {stds}"
    elif wrong is None and name not in _RESAMPLING:
        wrong = f"interpolation {name!r} (there are {', '.join(_RESAMPLING)})"
    if wrong is not None:
        msg = (
            f"{wrong} does not say how pictures reach the model: give input_size (pixels), mean "
            "and std (three numbers each, of values in [0, 1]) and interpolation; in Python as "
            "arguments, for a checkpoint as attributes of the module that its callable gives"
        )
        raise PreprocessMissing(msg)
    triples = cast("tuple[tuple[float, float, float], ...]", (means, stds))
    return Inputs(input_size=sides.pop(), mean=triples[0], std=triples[1], interpolation=name)


class HookedModel:
    """A network that reads pictures, with hooks on its modules: a `DiscriminativeMember`.

    `network` takes normalized pictures [B, 3, S, S]; it is moved to `device`, and its modules are
    called `prefix` and their dotted name. `pattern` chooses modules instead of the default ones.
    `weights_hash` where it is not that of the network's own weights. A forward pass over two
    pictures finds out what the modules give. Raises NoSuchModule, NoSpatialMaps or ForwardFailed.
    """

    kind: Kind = "discriminative"

    def __init__(
        self,
        network: nn.Module,
        inputs: Inputs,
        *,
        name: str,
        spec: str,
        source: str,
        weights_hash: str | None = None,
        prefix: str = "",
        pattern: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        check_member_name(name)
        self.name = name
        self.spec = spec
        self.source = source
        self.weights_sha256 = weights_hash or weights_sha256(network)
        self.inputs = inputs
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(requires_grad=False).float().to(self.device)
        self._mean = torch.tensor(inputs.mean, device=self.device)[:, None, None]
        self._std = torch.tensor(inputs.std, device=self.device)[:, None, None]
        generator = torch.Generator().manual_seed(0)
        side = inputs.input_size
        pixels = torch.rand((PROBES, 3, side, side), generator=generator).to(self.device)
        self._hooks = find_hooks(
            self.network,
            lambda: self._forward(pixels),
            name=name,
            prefix=prefix,
            pattern=pattern,
        )
        self.modules: tuple[UnitModule, ...] = tuple(hook.unit for hook in self._hooks)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pictures reach the network, in plain JSON."""
        return self.inputs.as_json()

    @property
    def input_size(self) -> int:
        """The side of the network's pictures in pixels."""
        return self.inputs.input_size

    @property
    def units(self) -> int:
        """The number of units."""
        return sum(module.channels for module in self.modules)

    @torch.no_grad()
    def maps(self, batch: Batch) -> list[Tensor]:
        """One float32 [B, C, h, w] a module, of square RGB pictures of any size.

        Raises BadPictures for others, ForwardFailed where the network raises.
        """
        pixels = self.pixels(batch.pictures)
        with forward_of(self.name, over=f"{len(pixels)} pictures"):
            _, maps = run_mapped(self.network, self._hooks, lambda: self._forward(pixels))
        return [maps[module.name] for module in self.modules]

    def maps_of(self, pixels: Tensor, modules: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Maps [B, C, h, w] by module of pixels [B, 3, H, H] in [0, 1]; gradients flow.

        Resized by torch (bilinear, antialiased), where `maps` resizes whole pictures with the
        member's own interpolation. Raises BadPictures for pixels of another form, NoSuchModule for
        a module that is not hooked.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            msg = f"{self.name} takes pixels [B, 3, H, H] in [0, 1], not {list(pixels.shape)}"
            raise BadPictures(msg)
        hooks = chosen_hooks(self._hooks, modules, member=self.name)
        pixels = pixels.to(self.device, torch.float32)
        side = self.input_size
        if pixels.shape[-1] != side:
            pixels = F.interpolate(
                pixels, (side, side), mode="bilinear", antialias=True, align_corners=False
            )
        _, maps = run_mapped(self.network, hooks, lambda: self._forward(pixels))
        return maps

    def pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Square RGB pictures as float32 [B, 3, S, S] in [0, 1], resized; BadPictures otherwise."""
        side = self.input_size
        values = np.empty((len(pictures), side, side, 3), np.uint8)
        for index, picture in enumerate(pictures):
            if picture.mode != "RGB" or picture.width != picture.height:
                msg = (
                    f"picture {index} of the batch is {picture.width} x {picture.height} "
                    f"{picture.mode}: a zoo's members all see the same square RGB picture; crop "
                    "its center to a square first"
                )
                raise BadPictures(msg)
            if picture.width != side:
                picture = picture.resize((side, side), _RESAMPLING[self.inputs.interpolation])
            values[index] = np.asarray(picture)
        return torch.from_numpy(values).to(self.device).permute(0, 3, 1, 2).float().div(255)

    def logits(self, pixels: Tensor) -> Any:
        """What the network itself gives for pixels [B, 3, S, S] in [0, 1] of its input size."""
        return self._forward(pixels)

    def _forward(self, pixels: Tensor) -> Any:
        return self.network((pixels - self._mean) / self._std)


def chosen_hooks(
    hooks: Sequence[Hook], modules: Sequence[str] | None, *, member: str
) -> list[Hook]:
    """The hooks of some modules, of all for None; raises NoSuchModule for others."""
    if modules is None:
        return list(hooks)
    known = {hook.unit.name: hook for hook in hooks}
    for module in modules:
        if module not in known:
            msg = (
                f"{member} has no hooked module {module!r}; near: {near_names(module, list(known))}"
            )
            raise NoSuchModule(msg)
    return [known[module] for module in modules]


def model_member(
    module: nn.Module,
    *,
    name: str,
    input_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    pattern: str | None = None,
    device: str | torch.device = "cpu",
) -> HookedModel:
    """Make a member of a module, which is copied: normalized pictures [B, 3, S, S] to anything.

    Of a whole CLIP (with `visual` and `encode_image`) the image tower is read, under the weights'
    hash of the whole. Raises PreprocessMissing and what `HookedModel` raises.
    """
    inputs = check_inputs(input_size, mean, std, interpolation=interpolation)
    network, prefix = image_part(module)
    return HookedModel(
        copy.deepcopy(network),
        inputs,
        name=name,
        spec=f"{name}=module:{type(module).__name__}",
        source="module",
        weights_hash=weights_sha256(module),
        prefix=prefix,
        pattern=pattern,
        device=device,
    )


def image_part(module: nn.Module) -> tuple[nn.Module, str]:
    """The image tower of a CLIP and `visual.`, or any other module itself and no prefix."""
    visual = getattr(module, "visual", None)
    if isinstance(visual, nn.Module) and callable(getattr(module, "encode_image", None)):
        return visual, "visual."
    return module, ""
