"""What a reference set says of neurons: mean effect, direction, threshold (T3.3).

Two passes over the reference images, because which effects are largest depends on their mean:
the first sums factors and keeps norms, the second keeps each neuron's largest ||phi - b||. No
effect is formed: kept are a mean and `count` rows of factors a neuron (`neuron_layers.fit_bytes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..queries.second_order import LARGEST, first_component
from ..schema.errors import BadSelection
from .second_order import effect_norms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from torch import Tensor

    from .second_order import SecondOrder, Trace

    F32 = npt.NDArray[np.float32]

PERCENTILE = 98.0  # a neuron is active where its norm is above this one of the reference set
_BLOCK_BYTES = 2**28


@dataclass(frozen=True, kw_only=True)
class FittedNeurons:
    """One layer's neurons over the reference set (N neurons, E joint width), float32.

    mean b_n [N, E]; direction r_n [N, E], of unit length (0 for a neuron that never varies);
    explained [N], the first component's share of the largest effects' mean square;
    threshold [N], the 98th percentile of ||phi||; rows [N, S], the reference rows behind r_n,
    largest ||phi - b|| first.
    """

    mean: F32
    direction: F32
    explained: F32
    threshold: F32
    rows: npt.NDArray[np.int64]


class NeuronFit:
    """Fits the neurons of a `SecondOrder`'s layers: `observe` all batches, then `select` all.

    Both are given every batch's finished trace and its rows [B] (ascending over the batches, the
    same in both passes). `fitted` ends it.
    """

    def __init__(self, second_order: SecondOrder, *, count: int = LARGEST) -> None:
        self._second_order = second_order
        self._count = count
        self._images = 0
        self._sums: dict[int, Tensor] = {}
        self._norms: dict[int, list[F32]] = {layer: [] for layer in second_order.layers}
        self._largest: dict[int, _Largest] = {}

    @torch.inference_mode()
    def observe(self, trace: Trace) -> None:
        """First pass: sum factors, keep norms."""
        for layer in self._second_order.layers:
            factors = trace.factors(layer)
            sums = factors.sum(0, dtype=_exact(factors))
            self._sums[layer] = self._sums[layer] + sums if layer in self._sums else sums
            norms = effect_norms(factors, self._second_order.root(layer))
            self._norms[layer].append(norms.cpu().numpy())
        first = self._norms[self._second_order.layers[0]]
        self._images = sum(map(len, first))

    @torch.inference_mode()
    def select(self, trace: Trace, rows: Tensor) -> None:
        """Second pass: keep the largest ||phi - b||; equal ones by ascending row."""
        for layer in self._second_order.layers:
            factors = trace.factors(layer)
            apart = factors - self._mean(layer).to(factors)
            norms = effect_norms(apart, self._second_order.root(layer))
            if layer not in self._largest:
                self._largest[layer] = _Largest(min(self._count, self._images))
            self._largest[layer].add(norms, apart, rows.to(norms.device))

    def state(self) -> dict[str, Tensor]:
        """Everything taken in so far, for `restore` to go on from; copied to the CPU."""
        found = {"images": torch.tensor(self._images)}
        found |= {f"sum.{layer}": total for layer, total in self._sums.items()}
        for layer, norms in self._norms.items():
            if norms:
                found[f"norms.{layer}"] = torch.from_numpy(np.concatenate(norms))
        for layer, largest in self._largest.items():
            found |= {f"{name}.{layer}": part for name, part in largest.state().items()}
        return {name: tensor.contiguous().cpu() for name, tensor in found.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where another fit of the same layers gave its `state`."""
        self._images = int(state["images"])
        for layer in self._second_order.layers:
            device = self._second_order.root(layer).device
            if f"sum.{layer}" in state:
                self._sums[layer] = state[f"sum.{layer}"].to(device)
                self._norms[layer] = [state[f"norms.{layer}"].numpy()]
            if f"largest_norms.{layer}" in state:
                kept = _Largest(min(self._count, self._images))
                kept.restore({n: state[f"{n}.{layer}"].to(device) for n in _Largest.PARTS})
                self._largest[layer] = kept

    def fitted(self, layer: int) -> FittedNeurons:
        """What was found for one layer; raises BadSelection where there was no image."""
        if layer not in self._largest or self._images == 0:
            msg = "No neuron directions: no reference image in both passes."
            raise BadSelection(msg)
        largest, root = self._largest[layer], self._second_order.root(layer)
        rows, factors = largest.rows.cpu().numpy(), largest.factors
        neurons, _, paths = factors.shape
        found, explained = np.empty((neurons, paths)), np.empty(neurons)
        step = max(1, _BLOCK_BYTES // (8 * paths * max(paths, factors.shape[1])))
        for start in range(0, neurons, step):
            part = slice(start, start + step)
            found[part], explained[part] = first_component(
                factors[part].cpu().numpy(), root[part].cpu().numpy()
            )
        norms = np.concatenate(self._norms[layer])
        combine = self._second_order.combine
        return FittedNeurons(
            mean=combine(layer, self._mean(layer)).cpu().numpy(),
            direction=combine(layer, torch.from_numpy(found)).cpu().numpy(),
            explained=explained.astype(np.float32),
            threshold=np.percentile(norms, PERCENTILE, axis=0).astype(np.float32),
            rows=rows,
        )

    def _mean(self, layer: int) -> Tensor:
        if self._images == 0:
            msg = "No mean effect: observe() has seen no reference image."
            raise BadSelection(msg)
        return self._sums[layer] / self._images


class _Largest:
    """The rows of largest norm of every neuron so far, with their factors [N, S, J]."""

    PARTS = ("largest_norms", "largest_rows", "largest_factors")

    def __init__(self, count: int) -> None:
        self._count = count
        self._norms: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """Its three tensors, by name."""
        assert self._norms is not None
        return dict(zip(self.PARTS, (self._norms, self.rows, self.factors), strict=True))

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold the rows that another one held."""
        self._norms, self.rows, self.factors = (state[name] for name in self.PARTS)

    def add(self, norms: Tensor, factors: Tensor, rows: Tensor) -> None:
        """Take norms [B, N] and factors [B, N, J] of rows [B]."""
        new, moved = norms.T, factors.transpose(0, 1)
        numbers = rows.expand(new.shape)
        if self._norms is not None:
            new = torch.cat((self._norms, new), 1)
            moved = torch.cat((self.factors, moved), 1)
            numbers = torch.cat((self.rows, numbers), 1)
        # A stable sort keeps the earlier of equal norms; topk promises nothing.
        self._norms, order = torch.sort(new, dim=1, descending=True, stable=True)
        self._norms, order = self._norms[:, : self._count], order[:, : self._count]
        self.rows = numbers.gather(1, order)
        self.factors = moved.gather(1, order[..., None].expand(-1, -1, moved.shape[2]))


def _exact(like: Tensor) -> torch.dtype:
    # Apple's devices have no float64.
    return torch.float32 if like.device.type == "mps" else torch.float64
