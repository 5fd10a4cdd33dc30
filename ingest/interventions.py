"""What the image representation loses when neurons are held at their mean: real forward passes.

A neuron's *indirect* effect goes through everything after it, norms, attention and later MLPs; its
*first-order* (direct) one through the last norm and P alone (T3.1). The second-order effect is
`second_order`'s. Of a bfloat16 model, too, everything here is float32 at least: one neuron changes
the representation by less than bfloat16 can tell. In float32 an indirect effect is known to about
1e-6 of the representation's length, however small it is itself; float64 takes twice as long.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from open_clip.transformer import LayerNorm, LayerNormFp32

from ..schema.errors import BadMeans, BadSelection, UnknownComponent, UnsupportedModel
from .block_pass import attention_update, mixed_values, mlp, normalize, query_key_value
from .decompose import projection_weights
from .neuron_layers import neuron_count
from .tower import read_tower

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from torch import Tensor, nn

    from .tower import Block

    F64 = npt.NDArray[np.float64]
    Means: TypeAlias = "Tensor | npt.NDArray[np.floating]"

MEMORY = 2**28  # bytes for the passes that run side by side


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A batch as the network leaves it (B images).

    activation p [B, T+1, N] of the layer and stream [B, T+1, d] after it, index 0 the class
    token; of the last layer that one alone. representation [B, E] = M(I); sigma [B] of the last
    norm.
    """

    activation: Tensor
    stream: Tensor
    representation: Tensor
    sigma: Tensor


@dataclass(frozen=True, kw_only=True)
class DirectEffects:
    """First-order effects in their factors: coefficient p_0/sigma [B, n], direction [n, E].

    The effect of neuron n is coefficient times direction P^T (gamma * w_n): of rank one.
    """

    coefficient: Tensor
    direction: Tensor

    @property
    def norm(self) -> Tensor:
        """Lengths [B, n] of the effects."""
        return self.coefficient.abs() * torch.linalg.vector_norm(self.direction, dim=1)

    def formed(self) -> Tensor:
        """The effects themselves, [B, n, E]."""
        return self.coefficient[..., None] * self.direction


class TokenMeans(NamedTuple):
    """Means over images, float64.

    `activation` [T+1, N] of every neuron at every token, index 0 the class token; `direct_sum` [E]
    of the sum of all the layer's first-order effects.
    """

    activation: F64
    direct_sum: F64


class Interventions:
    """Replaces activations of one layer's neurons by their per-token means, and looks at M.

    `memory` bounds the bytes of the passes that run side by side (one image with one neuron
    replaced is the least); `dtype` is float32 or float64, that of all results. Raises
    UnsupportedModel for other towers and types, and UnknownComponent for a layer that the tower
    lacks.
    """

    def __init__(
        self,
        visual: nn.Module,
        layer: int,
        *,
        memory: int = MEMORY,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        tower = read_tower(visual)
        if dtype not in (torch.float32, torch.float64):
            msg = f"one neuron's effect is lost in {dtype}: use torch.float32 or torch.float64"
            raise UnsupportedModel(msg)
        if not 0 <= layer < len(tower.blocks):
            msg = f"there is no layer {layer}; this tower's are 0 to {len(tower.blocks) - 1}"
            raise UnknownComponent(msg)
        if tower.blocks[0].in_weight.dtype != dtype:
            tower = read_tower(_copied(visual, dtype))
        self.layer = layer
        self._tower, self._block = tower, tower.blocks[layer]
        self._last = layer == len(tower.blocks) - 1
        self._memory, self._dtype = memory, dtype
        self._device = self._block.proj_weight.device
        write = self._block.proj_weight.detach().cpu().double().T
        if self._block.scale_2 is not None:
            write = write * self._block.scale_2.detach().cpu().double()
        last = projection_weights(visual)
        scaled = last["ln_post_weight"].astype(np.float64)[:, None] * last["projection"]
        self._write = write.to(self._device, dtype).contiguous()
        self._direct = (write @ torch.from_numpy(scaled)).to(self._device, dtype)

    @property
    def neurons(self) -> int:
        """N, the neurons of the layer."""
        return neuron_count(self._tower, self.layer)

    @property
    def tokens(self) -> int:
        """T+1, the class token and the patches."""
        return self._tower.grid[0] * self._tower.grid[1] + 1

    @torch.inference_mode()
    def token_means(self, batches: Iterable[Tensor]) -> TokenMeans:
        """Means over batches of preprocessed images [B, 3, height, width], summed in float64.

        Raises BadSelection where there is no image.
        """
        total, images = np.zeros((self.tokens, self.neurons)), 0
        direct = np.zeros(self._tower.embed_dim)
        for batch in batches:
            observed = self._observed(batch, class_token_only=False)
            total += _summed(observed.activation)
            direct += _summed(self.direct_sum(observed))
            images += len(batch)
        if images == 0:
            msg = "No mean activations: there is no image to take them from."
            raise BadSelection(msg)
        return TokenMeans(total / images, direct / images)

    @torch.inference_mode()
    def observe(self, images: Tensor) -> Observed:
        """Run a batch of preprocessed images [B, 3, height, width] through the network once."""
        return self._observed(images, class_token_only=self._last)

    def _observed(self, images: Tensor, *, class_token_only: bool) -> Observed:
        stream, activation = self._until(images, class_token_only=class_token_only)
        final = self._after(stream)
        sigma = (final.var(1, correction=0) + self._tower.norm.eps).sqrt()
        return Observed(
            activation=activation,
            stream=stream,
            representation=self._represented(final),
            sigma=sigma,
        )

    @torch.inference_mode()
    def direct(self, observed: Observed, neurons: Sequence[int]) -> DirectEffects:
        """First-order effects p_0 P^T (gamma * w_n) / sigma of n neurons (T3.1).

        The last norm's mean and bias are left out, as of second-order effects. Raises
        UnknownComponent for neurons that the layer lacks.
        """
        chosen = self._chosen(neurons)
        return DirectEffects(
            coefficient=observed.activation[:, 0, chosen] / observed.sigma[:, None],
            direction=self._direct[chosen],
        )

    @torch.inference_mode()
    def direct_sum(self, observed: Observed) -> Tensor:
        """The sum [B, E] of the first-order effects of all the layer's neurons."""
        return (observed.activation[:, 0] @ self._direct) / observed.sigma[:, None]

    @torch.inference_mode()
    def indirect(self, observed: Observed, neurons: Sequence[int], *, means: Means) -> Tensor:
        """Indirect effects [B, n, E]: M minus M with that one neuron at its mean, in every token.

        `means` [T+1, N] are `token_means`' of the activation. Many replacements run at a time, as
        many as the memory allows. Raises UnknownComponent for neurons that the layer lacks,
        BadMeans for means of another shape.
        """
        chosen, held = self._chosen(neurons), self._held(means)
        images, count = len(observed.stream), len(chosen)
        found = observed.representation.new_empty((images * count, self._tower.embed_dim))
        step = max(1, self._memory // self._pass_bytes())
        for start in range(0, len(found), step):
            pair = torch.arange(start, min(start + step, len(found)), device=self._device)
            image, neuron = pair // count, chosen[pair % count]
            change = held[:, neuron].T - observed.activation[image, :, neuron]
            stream = torch.addcmul(
                observed.stream[image], change[..., None], self._write[neuron, None]
            )
            replaced = self._represented(self._after(stream))
            found[pair] = observed.representation[image] - replaced
        return found.view(images, count, -1)

    @torch.inference_mode()
    def ablated(
        self, observed: Observed, *, means: Means, neurons: Sequence[int] | None = None
    ) -> Tensor:
        """M [B, E] with a set of neurons (all, where none are named) at their means at once.

        Raises UnknownComponent and BadMeans as `indirect` does.
        """
        held, activation = self._held(means), observed.activation
        write = self._write
        if neurons is not None:
            chosen = self._chosen(neurons)
            held, activation, write = held[:, chosen], activation[..., chosen], write[chosen]
        stream = observed.stream + (held - activation) @ write
        return self._represented(self._after(stream))

    def _until(self, images: Tensor, *, class_token_only: bool) -> tuple[Tensor, Tensor]:
        """The stream after the layer and its activations, of all tokens or the class token."""
        x = self._tower.embed(images.to(self._device, self._dtype))
        for block in self._tower.blocks[: self.layer]:
            x = self._through(x, block)[0]
        return self._through(x, self._block, class_token_only=class_token_only)

    def _after(self, x: Tensor) -> Tensor:
        """The class token before the last norm [B, d], of the stream after the layer."""
        rest = self._tower.blocks[self.layer + 1 :]
        for place, block in enumerate(rest):
            x = self._through(x, block, class_token_only=place == len(rest) - 1)[0]
        return x[:, 0]

    def _through(
        self, x: Tensor, block: Block, *, class_token_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """One block: the stream after it, and its neurons' activations."""
        query, key, value = query_key_value(
            normalize(x, block.norm_1),
            block,
            heads=self._tower.heads,
            class_query_only=class_token_only,
        )
        update = attention_update(mixed_values(query, key, value), block)
        x = update + (x[:, :1] if class_token_only else x)
        activation, update = mlp(normalize(x, block.norm_2), block)
        return x.add_(update), activation

    def _represented(self, final: Tensor) -> Tensor:
        normed = normalize(final, self._tower.norm)
        return normed if self._tower.projection is None else normed @ self._tower.projection

    def _pass_bytes(self) -> int:
        """Bytes at the peak of one image's pass: an MLP's hidden layer twice, and the stream."""
        tokens = 1 if self._last else self.tokens
        widest = max(neuron_count(self._tower, i) for i in range(len(self._tower.blocks)))
        return self._dtype.itemsize * tokens * (2 * widest + 4 * self._tower.width)

    def _chosen(self, neurons: Sequence[int]) -> Tensor:
        numbers = np.asarray(neurons)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or numbers.size == 0:
            msg = f"neurons= takes a list of numbers from 0 to {self.neurons - 1}, not {neurons!r}"
            raise UnknownComponent(msg)
        beyond = numbers[(numbers < 0) | (numbers >= self.neurons)]
        if len(beyond):
            msg = (
                f"layer {self.layer} has no neuron {beyond[0]}; its neurons are 0 to "
                f"{self.neurons - 1}"
            )
            raise UnknownComponent(msg)
        return torch.from_numpy(numbers.astype(np.int64)).to(self._device)

    def _held(self, means: Means) -> Tensor:
        given = torch.as_tensor(means)
        if given.shape != (self.tokens, self.neurons) or not bool(given.isfinite().all()):
            msg = (
                f"means of shape {list(given.shape)} do not fit layer {self.layer}: finite numbers "
                f"[{self.tokens}, {self.neurons}] (tokens, neurons) do, as token_means() gives them"
            )
            raise BadMeans(msg)
        held = given.to(self._dtype).to(self._device)
        return held[:1] if self._last else held


def _summed(values: Tensor) -> F64:
    """The sum over the first axis, in float64."""
    # Apple's devices have no float64.
    like = values.cpu() if values.device.type == "mps" else values
    return like.sum(0, dtype=torch.float64).cpu().numpy()


def _copied(visual: nn.Module, dtype: torch.dtype) -> nn.Module:
    copied = copy.deepcopy(visual).to(dtype)
    for module in copied.modules():
        if type(module) is LayerNormFp32:
            # It would turn float64 into float32.
            module.__class__ = LayerNorm  # pyright: ignore[reportAttributeAccessIssue]
    return copied
