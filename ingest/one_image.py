"""The neurons of one image that is in no store, through a run's own model and directions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from .decompose import Decomposer, Kept
from .neuron_arrays import stored_projection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

    from ..schema.arrays import RunShape
    from .models import LoadedModel

F32 = npt.NDArray[np.float32]


def neuron_numbers(
    model: LoadedModel, image: Image, *, group: Path, shape: RunShape, layers: Sequence[int]
) -> dict[int, tuple[F32, F32]]:
    """Norms ||phi|| [N] and coefficients x [N] of an image's neurons, by layer.

    `image` is in RGB, as `images.opened` gives it; `group` the Zarr group of the run's arrays.
    """
    pixels = model.preprocess(image)
    projection = stored_projection(group, shape, visual=model.visual, layers=layers)
    trace = projection.second_order.trace()
    device = next(model.model.parameters()).device
    Decomposer(model.visual, Kept())(torch.as_tensor(pixels)[None].to(device), trace)
    effects = projection(trace)
    found = effects.norm[0].cpu().numpy(), effects.coefficient[0].cpu().numpy()
    return {layer: (found[0][i], found[1][i]) for i, layer in enumerate(layers)}
