"""First-order and indirect effects of chosen neurons over many images (T3.1, Table 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..queries.directions import effect_direction
from ..queries.second_order import LARGEST
from ..schema.errors import BadSelection
from .interventions import MEMORY, Interventions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from .interventions import DirectEffects, Means
    from .models import LoadedModel

    F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MeasuredEffects:
    """Effects of n neurons of one layer over K images, float32; E is the joint width.

    First order: coefficient p_0/sigma [K, n] times direct_direction [n, E], so of rank one;
    direct_sum [K, E], the sum of all the layer's neurons'. Indirect: norm [K, n], mean [n, E],
    direction [n, E] and explained [n], the first principal component of the largest
    mean-subtracted effects (not centered again) and its share of their mean square. representation
    [K, E] = M(I); ablated [K, E], with all the layer's neurons at their per-token means.
    """

    layer: int
    neurons: tuple[int, ...]
    direct_coefficient: F32
    direct_direction: F32
    direct_sum: F32
    indirect_norm: F32
    indirect_mean: F32
    indirect_direction: F32
    indirect_explained: F32
    representation: F32
    ablated: F32

    @property
    def direct_norm(self) -> F32:
        """Lengths [K, n] of the first-order effects."""
        return np.abs(self.direct_coefficient) * np.linalg.norm(self.direct_direction, axis=1)


def measure_effects(
    model: LoadedModel,
    batches: Iterable[Tensor],
    *,
    layer: int,
    neurons: Sequence[int],
    means: Means,
    count: int = LARGEST,
    memory: int = MEMORY,
    dtype: torch.dtype = torch.float32,
) -> MeasuredEffects:
    """Measure effects of chosen neurons over batches of images [B, 3, height, width].

    `means` [T+1, N] as `Interventions.token_means` gives them; the passes run in `dtype`, float32
    or float64. The indirect effects, 4 K n E bytes, are kept until the end, because which `count`
    are largest depends on their mean: give fewer neurons a call where that is too much. Raises
    UnknownComponent, BadMeans, UnsupportedModel, and BadSelection where there is no image.
    """
    interventions = Interventions(model.visual, layer, memory=memory, dtype=dtype)
    kept: list[tuple[F32, F32, F32, F32]] = []
    indirect: list[F32] = []
    direct: DirectEffects | None = None
    for images in batches:
        if len(images) == 0:
            continue
        observed = interventions.observe(images)
        direct = interventions.direct(observed, neurons)
        coefficient, total = _numpy(direct.coefficient), _numpy(interventions.direct_sum(observed))
        ablated = _numpy(interventions.ablated(observed, means=means))
        kept.append((coefficient, total, _numpy(observed.representation), ablated))
        indirect.append(_numpy(interventions.indirect(observed, neurons, means=means)))
    if direct is None:
        msg = "No effects measured: there is no image to measure them on."
        raise BadSelection(msg)
    coefficient, total, representation, ablated = (
        np.concatenate(parts) for parts in zip(*kept, strict=True)
    )
    norm = np.concatenate([np.linalg.norm(part, axis=2) for part in indirect])
    width = representation.shape[1]
    mean, direction = np.empty((2, len(neurons), width), np.float32)
    explained = np.empty(len(neurons), np.float32)
    for i in range(len(neurons)):
        found = effect_direction(np.concatenate([part[:, i] for part in indirect]), count=count)
        mean[i], direction[i], explained[i] = found.mean, found.direction, found.explained
    return MeasuredEffects(
        layer=layer,
        neurons=tuple(int(neuron) for neuron in neurons),
        direct_coefficient=coefficient,
        direct_direction=_numpy(direct.direction),
        direct_sum=total,
        indirect_norm=norm,
        indirect_mean=mean,
        indirect_direction=direction,
        indirect_explained=explained,
        representation=representation,
        ablated=ablated,
    )


def _numpy(values: Tensor) -> F32:
    return values.float().cpu().numpy()
