"""Second-order effects of MLP neurons, factored: what reaches the output through later heads.

A neuron n of layer l writes to every token; later heads carry that to the class token, the last
norm and P take it to the joint space (T3.3 with the norms of T-B.5). With j running over the J
pairs of later layer l' and head h, called paths,

    phi_n(I) = sum_j t_j D_{n,j},    t_j = sum_i p_i^n alpha_i^j / sigma_i^{l'} / sigma
    D_{n,j} = P^T (gamma * W_VO^j (gamma' * w_n))

so an image has J numbers a neuron, D comes from the weights alone, and nothing of size tokens x
neurons x width is ever formed. Means and biases of the norms are no part of phi; `Trace.bias` is
a neuron's share of them. Equations: docs/mathematics.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .decompose import head_basis
from .neuron_layers import check_layers, neuron_count, path_count
from .tower import read_tower

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from .tower import Block, Norm, Tower

_CHUNK_BYTES = 2**26
_DENSE = 0.25  # of the neurons: above it, gathering them costs more than taking all


@dataclass(frozen=True)
class _Layer:
    """A neuron layer's own part, in float32: w_n [N, d], the MLP's output bias [d], the roots."""

    write: Tensor
    bias: Tensor | None
    root: Tensor


@dataclass(frozen=True)
class _Constants:
    """The norms' constants through P, divided by the neurons that share them."""

    fixed: Tensor  # beta' of the later norms through their heads [J, E]
    moving: Tensor  # gamma' likewise, to be multiplied by -mu'/sigma' [J, E]
    beta: Tensor  # of the last norm [E]
    gamma: Tensor


class SecondOrder:
    """The input-independent part of the second-order effects of chosen layers' neurons.

    Keeps a root of every neuron's Gram matrix, D_n D_n^T = L_n L_n^T, so that
    ||phi_n|| = ||t L_n||: in exact arithmetic the root of t D_n D_n^T t^T, which in float32 would
    square the cancellation between paths. Computed in float64, some neurons at a time, and kept
    in float32 on the tower's device (`neuron_layers.root_bytes`). Raises UnsupportedModel for
    other towers, and ValueError for layers that do not ascend, that the tower lacks, or that have
    no attention after them: the last one's neurons have no second-order effect.
    """

    def __init__(self, visual: nn.Module, layers: Sequence[int]) -> None:
        self._tower = tower = read_tower(visual)
        self.layers = tuple(layers)
        check_layers(self.layers, len(tower.blocks))
        self.first_attention = self.layers[0] + 1
        later = range(self.first_attention, len(tower.blocks))
        device = tower.blocks[0].in_weight.device
        # Apple's devices have no float64.
        exact = torch.device("cpu") if device.type == "mps" else device
        values = [_head_values(tower, layer, exact) for layer in later]
        gains = [_gain(tower.blocks[layer].norm_1, tower.width, exact) for layer in later]
        self._exact_value = torch.cat(
            [gain[:, None] * value for gain, value in zip(gains, values, strict=True)]
        )
        basis = torch.from_numpy(head_basis(visual, later)).flatten(0, 1)
        e = tower.width // tower.heads
        self._exact_joint = basis[:, :e].to(exact, torch.float64)
        self._value = self._exact_value.to(device, torch.float32)
        self._joint = basis[:, :e].reshape(-1, tower.embed_dim).to(device)
        self._constants = self._share_constants(values, basis[0].to(exact, torch.float64))
        self._of = {layer: self._layer(layer) for layer in self.layers}

    @property
    def joint_width(self) -> int:
        """E, the width of the joint space."""
        return self._tower.embed_dim

    @property
    def heads(self) -> int:
        """H, the heads of every layer."""
        return self._tower.heads

    def neurons(self, layer: int) -> int:
        """N, the neurons of a layer."""
        return neuron_count(self._tower, layer)

    def paths(self, layer: int) -> int:
        """J, the pairs of later layer and head that a layer's neurons act through."""
        return path_count(self._tower, layer)

    def root(self, layer: int) -> Tensor:
        """L_n [N, J, J] of a chosen layer: D_n D_n^T = L_n L_n^T."""
        return self._of[layer].root

    def write(self, layer: int) -> Tensor:
        """w_n [N, d]: what a neuron of a chosen layer writes where its activation is 1."""
        return self._of[layer].write

    def output_bias(self, layer: int) -> Tensor | None:
        """The output bias [d] of a chosen layer's MLP, which is no neuron's."""
        return self._of[layer].bias

    def trace(self) -> Trace:
        """Begin a batch."""
        return Trace(self)

    @torch.inference_mode()
    def fold(self, layer: int, vectors: Tensor) -> Tensor:
        """D_n v_n [N, J] of one vector a neuron [N, E]: then <phi_n, v_n> = t . (D_n v_n)."""
        exact = vectors.to(self._exact_value.device, torch.float64)
        found = [paths @ exact[part, :, None] for part, paths in self._directions(layer)]
        return torch.cat(found)[..., 0].to(self._value.device, torch.float32)

    @torch.inference_mode()
    def combine(self, layer: int, coefficients: Tensor) -> Tensor:
        """The vectors sum_j a_{n,j} D_{n,j} [N, E] of coefficients a [N, J].

        Mean factors give the mean effect b_n, a principal component's coefficients give r_n.
        """
        exact = coefficients.to(self._exact_value.device, torch.float64)
        found = [exact[part, None] @ paths for part, paths in self._directions(layer)]
        return torch.cat(found)[:, 0].to(self._value.device, torch.float32)

    def send(self, layer: int, arriving: Tensor) -> Tensor:
        """Take what arrives at each path of a layer [B, J, d] on to the joint space [B, E]."""
        start = len(self._value) - self.paths(layer)
        mixed = torch.bmm(arriving.transpose(0, 1), self._value[start:]).transpose(0, 1)
        return mixed.flatten(1) @ self._joint[start * mixed.shape[2] :]

    def bias(self, layer: int, shift: Tensor, *, mu: Tensor, sigma: Tensor) -> Tensor:
        """One neuron's share of the norms' constants [B, E]: `Trace.bias` says what it is.

        `shift` [B, J] = sum_i alpha_i mu'_i / sigma'_i; `mu` and `sigma` [B] of the last norm.
        """
        shares, paths = self._constants, self.paths(layer)
        later = shares.fixed[-paths:].sum(0) - shift @ shares.moving[-paths:]
        return (later - mu[:, None] * shares.gamma) / sigma[:, None] + shares.beta

    def _share_constants(self, values: list[Tensor], basis: Tensor) -> _Constants:
        """`values` [H, d, e] a later layer; `basis` [e+3, E] of any head, for the last norm."""
        tower = self._tower
        count = len(tower.blocks)
        before = [0, *torch.tensor([self.neurons(i) for i in range(count)]).cumsum(0).tolist()]
        both: list[Tensor] = []
        for layer, value in enumerate(values, start=self.first_attention):
            norm = tower.blocks[layer].norm_1
            gain = _gain(norm, tower.width, value.device)
            bias = torch.zeros_like(gain) if norm.bias is None else norm.bias.detach().to(gain)
            both.append(torch.stack((bias, gain)) @ value / before[layer])
        through = torch.cat(both) @ self._exact_joint
        # head_basis divides the last norm's constants by the terms and heads.
        last = basis * ((2 * count + 1) * tower.heads / before[count - 1])
        like = self._value
        return _Constants(
            fixed=through[:, 0].to(like),
            moving=through[:, 1].to(like),
            beta=last[-1].to(like),
            gamma=-last[-3].to(like),
        )

    @torch.inference_mode()
    def _layer(self, layer: int) -> _Layer:
        block, paths, like = self._tower.blocks[layer], self.paths(layer), self._value
        root = like.new_empty((self.neurons(layer), paths, paths))
        for part, directions in self._directions(layer):
            root[part] = _root(directions @ directions.transpose(1, 2)).to(like)
        bias = block.proj_bias
        if bias is not None:
            scale = 1 if block.scale_2 is None else block.scale_2.detach().to(like)
            bias = bias.detach().to(like) * scale
        write = _write(block, self._exact_value.device).to(like).contiguous()
        return _Layer(write, bias, root)

    def _directions(self, layer: int) -> Iterator[tuple[slice, Tensor]]:
        """D [n, J, E] in float64, some neurons at a time."""
        paths = self.paths(layer)
        value, joint = self._exact_value[-paths:], self._exact_joint[-paths:]
        write = _write(self._tower.blocks[layer], value.device)
        step = max(1, _CHUNK_BYTES // (8 * paths * self.joint_width))
        for start in range(0, len(write), step):
            part = slice(start, min(start + step, len(write)))
            yield part, ((write[part] @ value) @ joint).transpose(0, 1)


class Trace:
    """What one batch's forward pass shows of the neurons: fed layer by layer, then asked.

    The pass calls `attention` and `mlp` in every layer (those that no chosen layer needs are
    ignored), then `finish`. Activations are kept as they are given, not copied.
    """

    def __init__(self, second_order: SecondOrder) -> None:
        self.second_order = second_order
        self._weights: list[Tensor] = []
        self._shifts: list[Tensor] = []
        self._hidden: dict[int, Tensor] = {}
        self._update: dict[int, Tensor] = {}
        self._finished: _Finished | None = None

    def attention(self, layer: int, weight: Tensor, *, mean: Tensor, rstd: Tensor) -> None:
        """Take the class token's attention alpha [B, T+1, H] and `ln_1`'s statistics.

        `mean` mu' and `rstd` 1/sigma' [B, T+1, 1] are of the layer's input, as
        `torch.native_layer_norm` gives them.
        """
        if layer >= self.second_order.first_attention:
            scaled = (weight * rstd).transpose(1, 2)
            self._weights.append(scaled)
            self._shifts.append((scaled @ mean)[..., 0])

    def mlp(self, layer: int, hidden: Tensor, update: Tensor) -> None:
        """Take a layer's activations p [B, T+1, N] and what it adds to the stream [B, T+1, d]."""
        if layer in self.second_order.layers:
            self._hidden[layer] = hidden
            self._update[layer] = update

    def finish(self, *, mu: Tensor, sigma: Tensor) -> None:
        """Take mean and sigma [B] of the last norm at the class token."""
        weights = torch.cat(self._weights, 1)
        weights.div_(sigma[:, None, None])
        self._finished = _Finished(weights, torch.cat(self._shifts, 1), mu, sigma)
        self._weights, self._shifts = [], []

    def activations(self, layer: int) -> Tensor:
        """The activations p [B, T+1, N] of a chosen layer in float32; index 0: class token."""
        return self._hidden[layer].float()

    def factors(self, layer: int) -> Tensor:
        """The factors t [B, N, J] of a chosen layer: one product an image."""
        weights = self._weights_of(layer)
        return torch.bmm(self.activations(layer).transpose(1, 2), weights.transpose(1, 2))

    def total(self, layer: int) -> Tensor:
        """The sum of phi [B, E] over all neurons of a layer, from what its MLP wrote.

        No neuron is looked at: sum_n p_n w_n is the MLP's output without its bias.
        """
        weights = self._weights_of(layer)
        arriving = torch.bmm(weights, self._update[layer].float())
        bias = self.second_order.output_bias(layer)
        if bias is not None:
            arriving -= weights.sum(2, keepdim=True) * bias
        return self.second_order.send(layer, arriving)

    def masked_total(self, layer: int, mask: Tensor, *, factors: Tensor | None = None) -> Tensor:
        """The sum of phi [B, E] over an image's neurons that `mask` [B, N] names.

        `factors` are the layer's, where they are at hand.
        """
        factors = self.factors(layer) if factors is None else factors
        write = self.second_order.write(layer)
        # To ask where the mask is true would stall an accelerator.
        if factors.device.type != "cpu" or mask.count_nonzero() > _DENSE * mask.numel():
            chosen = torch.where(mask[..., None], factors, 0).transpose(1, 2)
            return self.second_order.send(layer, chosen @ write)
        arriving = factors.new_empty((len(factors), factors.shape[2], write.shape[1]))
        for i, row in enumerate(arriving):
            which = mask[i].nonzero()[:, 0]
            torch.mm(factors[i, which].T, write[which], out=row)
        return self.second_order.send(layer, arriving)

    def bias(self, layer: int) -> Tensor:
        """A neuron's equal share of the norms' constants (T-B.5) [B, E], one for all of a layer.

        beta' - gamma' mu'/sigma' of a later layer l' goes through its heads and is divided by the
        neurons of the layers before l'; that of the last norm by all that have attention after
        them. phi_n + bias is the effect with the constants split equally.
        """
        done = self._done()
        shift = done.shift[:, -self.second_order.paths(layer) :]
        return self.second_order.bias(layer, shift, mu=done.mu, sigma=done.sigma)

    def _weights_of(self, layer: int) -> Tensor:
        return self._done().weights[:, -self.second_order.paths(layer) :]

    def _done(self) -> _Finished:
        if self._finished is None:
            msg = "the batch is not finished: call finish() after the last layer"
            raise RuntimeError(msg)
        return self._finished


@dataclass(frozen=True)
class _Finished:
    weights: Tensor  # alpha / sigma' / sigma [B, J, T+1]
    shift: Tensor  # sum_i alpha mu' / sigma' [B, J]
    mu: Tensor
    sigma: Tensor


def effect_norms(factors: Tensor, root: Tensor) -> Tensor:
    """||phi_n|| [B, N] = ||t L_n|| of factors [B, N, J] and roots [N, J, J]."""
    # The copy lets the product run over contiguous matrices: several times faster on a CPU.
    by_neuron = factors.transpose(0, 1).contiguous()
    return torch.linalg.vector_norm(torch.bmm(by_neuron, root), dim=2).T


def inner_products(factors: Tensor, folded: Tensor) -> Tensor:
    """<phi_n, v_n> [B, N] of factors [B, N, J] and `SecondOrder.fold`'s D_n v_n [N, J]."""
    return torch.linalg.vecdot(factors, folded)


def _root(gram: Tensor) -> Tensor:
    """L with L L^T = G [n, J, J] in float64; G is singular where J is more than E."""
    scale = gram.diagonal(dim1=1, dim2=2).sqrt()
    divisor = torch.where(scale > 0, scale, 1)
    unit = gram / divisor[:, :, None] / divisor[:, None, :]
    root, info = torch.linalg.cholesky_ex(unit)
    singular = info > 0
    if singular.any():
        values, vectors = torch.linalg.eigh(unit[singular])
        root[singular] = vectors * values.clamp(min=0).sqrt()[:, None]
    return root * scale[:, :, None]


def _write(block: Block, device: torch.device) -> Tensor:
    """Columns of W_out, LayerScale applied: [N, d] in float64."""
    weight = block.proj_weight.detach().to(device, torch.float64).T
    return weight if block.scale_2 is None else weight * block.scale_2.detach().to(weight)


def _head_values(tower: Tower, layer: int, device: torch.device) -> Tensor:
    """W_V of every head, [H, d, e] in float64."""
    weight = tower.blocks[layer].in_weight.detach().to(device, torch.float64)
    return weight[2 * tower.width :].view(tower.heads, -1, tower.width).transpose(1, 2)


def _gain(norm: Norm, width: int, device: torch.device) -> Tensor:
    if norm.weight is None:
        return torch.ones(width, dtype=torch.float64, device=device)
    return norm.weight.detach().to(device, torch.float64)
