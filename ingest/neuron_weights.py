"""The weights that a run keeps of its neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .tower import read_tower

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor, nn


def neuron_weights(visual: nn.Module, layers: Sequence[int]) -> dict[str, npt.NDArray[np.float32]]:
    """What questions about neurons need of the weights, in float32.

    `neuron_in` W_in [Ln, N, d] and `neuron_in_bias` [Ln, N], from the layer's second norm to the
    activations; `neuron_out` w_n [Ln, N, d] and `neuron_out_bias` [Ln, d], LayerScale applied.
    """
    if not layers:
        return {}
    blocks = [read_tower(visual).blocks[layer] for layer in layers]

    def biases(given: list[Tensor | None], width: int) -> Tensor:
        return torch.stack([torch.zeros(width) if b is None else b.detach().cpu() for b in given])

    neurons, width = blocks[0].fc_weight.shape
    scales = [
        torch.ones(width) if block.scale_2 is None else block.scale_2.detach().cpu()
        for block in blocks
    ]
    scale = torch.stack(scales).float()
    out = torch.stack([block.proj_weight.detach().cpu().float().T for block in blocks])
    arrays = {
        "neuron_in": torch.stack([block.fc_weight.detach().cpu() for block in blocks]),
        "neuron_in_bias": biases([block.fc_bias for block in blocks], neurons),
        "neuron_out": out * scale[:, None],
        "neuron_out_bias": biases([block.proj_bias for block in blocks], width).float() * scale,
    }
    return {name: array.float().contiguous().numpy() for name, array in arrays.items()}
