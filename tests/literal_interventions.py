"""open_clip's own forward pass in float64, with activations replaced or MLP outputs put in.

Nothing of ours is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

F64 = npt.NDArray[np.float64]


class Original:
    """A double-precision copy of an open_clip tower, to be watched and meddled with by hooks."""

    def __init__(self, visual: Any, images: torch.Tensor) -> None:
        self._visual = copy.deepcopy(visual).double()
        self._images = images.double()

    def activations(self, layer: int) -> F64:
        """p of every token [B, T+1, N]."""
        seen: list[F64] = []
        self._run(self._mlp(layer).gelu, lambda hidden: seen.append(hidden.numpy().copy()))
        return seen[0]

    def representation(self) -> F64:
        """M [B, E]."""
        return self._run(self._mlp(0), lambda _: None)

    def replaced(self, layer: int, neurons: Any, *, means: F64) -> F64:
        """M [B, E] with some neurons' activations at their means [T+1, N] in every token."""

        def replace(hidden: torch.Tensor) -> torch.Tensor:
            hidden = hidden.clone()
            hidden[:, :, neurons] = torch.from_numpy(means[:, neurons])
            return hidden

        return self._run(self._mlp(layer).gelu, replace)

    def with_mlp_output(self, layer: int, output: F64) -> F64:
        """M [B, E] with the MLP's output, before LayerScale, replaced by [T+1, d]."""
        return self._run(self._mlp(layer), lambda given: torch.from_numpy(output).expand_as(given))

    def mlp_output(self, layer: int) -> F64:
        """What the MLP gives for every token, before LayerScale [B, T+1, d]."""
        seen: list[F64] = []
        self._run(self._mlp(layer), lambda given: seen.append(given.numpy().copy()))
        return seen[0]

    def _mlp(self, layer: int) -> Any:
        return self._visual.transformer.resblocks[layer].mlp

    def _run(self, module: Any, change: Callable[[torch.Tensor], Any]) -> F64:
        handle = module.register_forward_hook(lambda _, __, result: change(result))
        with torch.no_grad():
            found = self._visual(self._images)
        handle.remove()
        return found.numpy()
