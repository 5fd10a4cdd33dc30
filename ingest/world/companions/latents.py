"""What the generator's latent numbers mean: from z to a scene's parameters, and to a drawn scene.

A latent z is `latent_size` standard normal numbers: one for each shape, color, texture and
background, of which the largest wins, and one for each quantity, whose normal cumulative
distribution says how far it is between its ends.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..attributes import BACKGROUNDS, COLORS, SHAPES, SIZES, TEXTURES
from ..scenes import (
    DIAMETERS,
    DIAMETERS_PER_SIZE,
    IMAGE_SIZE,
    ROTATIONS,
    SINGLE_COUNTS,
    Sampling,
    Scenes,
    sample_scenes,
)

CHOICES: Final = {
    "shape": len(SHAPES),
    "color": len(COLORS),
    "texture": len(TEXTURES),
    "background": len(BACKGROUNDS),
}
QUANTITIES: Final = ("x", "y", "diameter", "rotation", "light", "brightness")
CHOICE_SIZE: Final = sum(CHOICES.values())
LATENT_SIZE: Final = CHOICE_SIZE + len(QUANTITIES)

# Soft enough that a latent can be led from one choice to another by its gradient.
TEMPERATURE: Final = 0.1
OUTLINE_ROTATION: Final = 2
SCALARS: Final = 4 + len(SIZES)
_SIZE_SOFTNESS: Final = 3.0
_BRIGHTNESS: Final = (0.88, 1.08)
_MIDDLE: Final = (IMAGE_SIZE - 1) / 2
_REACH: Final = 23.0  # centers of small objects go so far from the middle, as in scenes
_EDGE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Parameters:
    """A batch of scenes of one object in numbers; every one of them differentiable in z.

    `choices` [n, 31]: shares of each shape, color, texture and background, side by side, each of
    the four adding up to 1. `x`, `y` (center) and `diameter` in pixels, `rotation` in degrees,
    `light` (0 darker, 1 lighter second color) and `brightness` (a factor): [n].
    """

    choices: Tensor
    x: Tensor
    y: Tensor
    diameter: Tensor
    rotation: Tensor
    light: Tensor
    brightness: Tensor

    def share(self, choice: str) -> Tensor:
        """Shares of one choice's values, [n, values]."""
        parts = self.choices.split(tuple(CHOICES.values()), dim=1)
        return dict(zip(CHOICES, parts, strict=True))[choice]

    def scalars(self) -> Tensor:
        """What else is not a place, each about -1 to 1: [n, 7].

        Diameter, rotation, light, brightness, and shares of small, medium and large.
        """
        middle, half = (DIAMETERS[0] + DIAMETERS[-1]) / 2, (DIAMETERS[-1] - DIAMETERS[0]) / 2
        numbers = torch.stack(
            [
                (self.diameter - middle) / half,
                self.rotation / ROTATIONS[-1],
                2 * self.light - 1,
                (self.brightness - 1) * 10,
            ],
            dim=1,
        )
        return torch.cat([numbers, self.sizes()], dim=1)

    def sizes(self) -> Tensor:
        """Shares of small, medium and large, [n, 3]."""
        middles = self.diameter.new_tensor(DIAMETERS[1::DIAMETERS_PER_SIZE])
        return (-(self.diameter[:, None] - middles).square() / _SIZE_SOFTNESS).softmax(1)

    def told(self) -> Tensor:
        """All that is not a place, [n, 38]."""
        return torch.cat([self.choices, self.scalars()], dim=1)


def parameters_of(z: Tensor) -> Parameters:
    """The scenes that latents [n, 37] speak of; differentiable."""
    blocks = z[:, :CHOICE_SIZE].split(tuple(CHOICES.values()), dim=1)
    choices = torch.cat([(block / TEMPERATURE).softmax(1) for block in blocks], dim=1)
    x, y, diameter, rotation, _, brightness = torch.special.ndtr(z[:, CHOICE_SIZE:]).unbind(1)
    diameter = DIAMETERS[0] + (DIAMETERS[-1] - DIAMETERS[0]) * diameter
    reach = (_MIDDLE - _EDGE - diameter / 2).clamp(max=_REACH)
    low, high = _BRIGHTNESS
    return Parameters(
        choices=choices,
        x=_MIDDLE + reach * (2 * x - 1),
        y=_MIDDLE + reach * (2 * y - 1),
        diameter=diameter,
        rotation=ROTATIONS[-1] * (2 * rotation - 1),
        light=(z[:, CHOICE_SIZE + QUANTITIES.index("light")] / TEMPERATURE).sigmoid(),
        brightness=low + (high - low) * brightness,
    )


def drawable(parameters: Parameters) -> tuple[Parameters, Scenes]:
    """The nearest scenes that can be drawn, and the parameters of exactly these.

    Positions are whole pixels, diameters and rotations the renderer's. Of what a latent does not
    say there is one variant: one part of one backdrop a background, one pattern a texture, and no
    jitter of colors.
    """
    n = len(parameters.x)
    shares = parameters.choices.detach().split(tuple(CHOICES.values()), dim=1)
    chosen = {name: part.argmax(1).numpy() for name, part in zip(CHOICES, shares, strict=True)}
    diameter = _nearest(parameters.diameter, DIAMETERS)
    rotation = _nearest(parameters.rotation, ROTATIONS)
    exact = replace(
        parameters,
        x=parameters.x.detach().round(),
        y=parameters.y.detach().round(),
        diameter=torch.tensor(DIAMETERS, dtype=torch.float32)[diameter],
        rotation=torch.tensor(ROTATIONS)[rotation],
    )

    scenes = plain_scenes(
        n,
        background=chosen["background"],
        shape=chosen["shape"],
        color=chosen["color"],
        texture=chosen["texture"],
        diameter=diameter.numpy(),
        x=exact.x.long().numpy(),
        y=exact.y.long().numpy(),
        rotation=rotation.numpy(),
        light=parameters.light.detach().numpy() > 0.5,
        brightness=parameters.brightness.detach().numpy().astype(np.float32),
    )
    return exact, scenes


def plain_scenes(n: int, *, background: npt.ArrayLike = 0, **first: npt.ArrayLike) -> Scenes:
    """Scenes of one object in which nothing is left to chance.

    `first` gives fields of the first object, or of the scene, as [n] or one for all; what it does
    not give is the first variant there is, without jitter. `size` follows the diameter.
    """
    drawn = sample_scenes(np.random.default_rng(0), n, Sampling(SINGLE_COUNTS))
    values = {field.name: np.zeros_like(getattr(drawn, field.name)) for field in fields(drawn)}
    values["count"] += 1
    values["brightness"] += 1
    values["background"] = np.broadcast_to(np.asarray(background, np.int64), (n,))
    for name, value in first.items():
        array = values[name]
        if array.ndim > 1:
            array[:, 0] = value
        else:
            array[:] = value
    if "size" not in first:
        values["size"] = values["diameter"] // DIAMETERS_PER_SIZE
    column, row = (values[name] * 3 // IMAGE_SIZE for name in ("x", "y"))
    values["position"] = column + 3 * row
    return Scenes(**values)


def _nearest(values: Tensor, choices: tuple[float, ...]) -> Tensor:
    distance = (values.detach()[:, None] - torch.tensor(choices, dtype=torch.float32)).abs()
    return distance.argmin(1)
