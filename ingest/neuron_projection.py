"""The numbers that a run keeps of its neurons, image by image (T3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from .second_order import effect_norms, inner_products

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from .second_order import SecondOrder, Trace


class Directions(Protocol):
    """What a projection needs of one layer's fitted neurons (`FittedNeurons`)."""

    @property
    def mean(self) -> npt.NDArray[np.float32]:
        """b_n [N, E]."""
        ...

    @property
    def direction(self) -> npt.NDArray[np.float32]:
        """r_n [N, E]."""
        ...

    @property
    def threshold(self) -> npt.NDArray[np.float32]:
        """[N]."""
        ...


@dataclass(frozen=True, kw_only=True)
class NeuronEffects:
    """A batch's second-order effects (B images, Ln layers, N neurons, E joint width), float32.

    norm ||phi|| and signed coefficient x = <phi - b, r> [B, Ln, N]; large [B, Ln, N], where the
    norm is above the neuron's threshold; total and large_total [B, Ln, E], the sums of phi over
    all and over the image's large-norm neurons; large_mean [B, Ln, E], the sum of the mean effects
    b of the latter; bias [B, Ln, E], one neuron's share of the norms' constants, which phi leaves
    out.
    """

    norm: Tensor
    coefficient: Tensor
    large: Tensor
    total: Tensor
    large_total: Tensor
    large_mean: Tensor
    bias: Tensor


class Projection:
    """Projects effects on the directions that a reference set gave (`NeuronFit`)."""

    def __init__(
        self,
        second_order: SecondOrder,
        fitted: Mapping[int, Directions],
        *,
        stored: torch.dtype = torch.float32,
    ) -> None:
        """Norms are compared with thresholds as they will be `stored`, so that both agree."""
        self.second_order = second_order
        self._stored = stored
        self._mean: dict[int, Tensor] = {}
        self._folded: dict[int, Tensor] = {}
        self._offset: dict[int, Tensor] = {}
        self._threshold: dict[int, Tensor] = {}
        for layer in second_order.layers:
            found, like = fitted[layer], second_order.root(layer)
            direction = torch.from_numpy(found.direction)
            offset = (torch.from_numpy(found.mean).double() * direction).sum(1)
            self._folded[layer] = second_order.fold(layer, direction)
            self._mean[layer] = torch.from_numpy(found.mean).to(like)
            self._offset[layer] = offset.float().to(like)
            self._threshold[layer] = torch.from_numpy(found.threshold).to(like)

    @torch.inference_mode()
    def __call__(self, trace: Trace, *, known_large: Tensor | None = None) -> NeuronEffects:
        """Give the numbers of a finished batch.

        `known_large` [B, Ln, N] says which neurons' norms count as above their thresholds, where
        that is known already.
        """
        found: list[tuple[Tensor, ...]] = []
        for place, layer in enumerate(self.second_order.layers):
            factors = trace.factors(layer)
            norm = effect_norms(factors, self.second_order.root(layer))
            above = norm.to(self._stored).float() > self._threshold[layer]
            large = above if known_large is None else known_large[:, place].to(above)
            coefficient = inner_products(factors, self._folded[layer]) - self._offset[layer]
            total, bias = trace.total(layer), trace.bias(layer)
            large_total = trace.masked_total(layer, large, factors=factors)
            large_mean = large.to(norm.dtype) @ self._mean[layer]
            found.append((norm, coefficient, large, total, large_total, large_mean, bias))
        norm, coefficient, large, total, large_total, large_mean, bias = (
            torch.stack(parts, 1) for parts in zip(*found, strict=True)
        )
        return NeuronEffects(
            norm=norm,
            coefficient=coefficient,
            large=large,
            total=total,
            large_total=large_total,
            large_mean=large_mean,
            bias=bias,
        )
