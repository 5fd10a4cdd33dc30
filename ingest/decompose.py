"""One forward pass that yields a CLIP image tower's layers, heads and tokens.

The blocks run by hand with open_clip's own weights. A head's u is the class token's row of the
fused attention kernel's output, so nothing of size tokens x tokens is ever formed; in the last
block only the class token goes on after the keys and values, which pays for the rest.
Notation and equations: docs/mathematics.md.

Precision. In float32 everything is float32. In bfloat16 the matrix products are bfloat16; norm
statistics, the class token's own residual stream, its attention terms, mu, sigma, softmax and all
sums over layers are float32, so layers and heads still add up to the representation exactly,
while tokens add up to the attention terms only to bfloat16's precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from .block_pass import (
    attention_update,
    layer_scaled,
    mixed_values,
    mlp,
    normalize,
    normalize_with_statistics,
    query_key_value,
)
from .tower import read_tower

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor, nn

    from .second_order import Trace
    from .tower import Block, Tower


@dataclass(frozen=True)
class Kept:
    """What a pass yields beside layers and class token: layers counted from 0, ascending."""

    head_layers: tuple[int, ...] = ()
    tokens: bool = False
    head_token_layers: tuple[int, ...] = ()
    neuron_input_layers: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """A batch taken apart; float32 tensors on the model's device (B images, E joint width).

    representation [B, E] = M(I), unnormalised; layer [B, 2L+1, E] in the order EMBED, L0.ATTN,
    L0.MLP, ...; cls_token [B, E], what the class token attends from itself over all layers and
    heads; head_value [B, Lh, H, e] = u; scale [B, 4] = mu, sigma, ||M||, completeness residual;
    token [B, T, E]; head_token_weight [B, Lt, H, T+1] = alpha and head_token_value
    [B, Lt, T+1, H, e] = v, index 0 the class token; neuron_input [B, Ln, T, d], what the MLPs of
    chosen layers read at the patches.
    """

    representation: Tensor
    layer: Tensor
    cls_token: Tensor
    head_value: Tensor
    scale: Tensor
    token: Tensor | None
    head_token_weight: Tensor | None
    head_token_value: Tensor | None
    neuron_input: Tensor | None

    @property
    def layer_sum(self) -> Tensor:
        """Sums of the terms of layers 0 to l: [B, 2, L, E], attention then MLPs."""
        return torch.stack((self.layer[:, 1::2], self.layer[:, 2::2]), dim=1).cumsum(2)


class Decomposer:
    """Takes batches of images [B, 3, height, width] apart in one forward pass (T2.4-T2.6).

    Holds, besides the tower's own weights, one [width, E] matrix a layer: the output projection,
    gamma and P in one, computed in float64. Raises UnsupportedModel for other towers and
    ValueError for layers that the tower lacks or a tower in training mode.
    """

    def __init__(self, visual: nn.Module, kept: Kept) -> None:
        if visual.training:
            msg = "the image tower is in training mode: call .eval() on the model first"
            raise ValueError(msg)
        self.kept = kept
        self._tower = tower = read_tower(visual)
        for layers in (kept.head_layers, kept.head_token_layers, kept.neuron_input_layers):
            _check_layers(layers, len(tower.blocks))
        self._dtype = tower.blocks[0].in_weight.dtype
        scaled = _scaled_projection(tower)
        # Two constants of the last norm: gamma and beta through P.
        self._gamma = scaled.sum(0).float()
        self._beta = _projected(_or_zeros(tower.norm.bias, tower.width, scaled), tower).float()
        self._scaled_projection = scaled.float()
        self._to_joint = [
            (_out_weight(block).T @ scaled).to(self._dtype).contiguous() for block in tower.blocks
        ]
        # float32 copies for the class token's row, where the blocks run in bfloat16.
        self._exact_out = [
            (block.out_weight.float(), None if block.out_bias is None else block.out_bias.float())
            for block in tower.blocks
            if self._dtype != torch.float32
        ]
        self._out_bias = (torch.stack([_out_bias(b) for b in tower.blocks]) @ scaled).sum(0).float()

    @torch.inference_mode()
    def __call__(self, images: Tensor, trace: Trace | None = None) -> Decomposition:
        """Decompose images [B, 3, height, width] as the model's preprocessing gives them.

        A `trace` is shown the neurons on the way (`SecondOrder.trace`).
        """
        tower, kept = self._tower, self.kept
        x = tower.embed(images.to(self._dtype)).contiguous()
        batch, tokens, width = x.shape
        terms = x.new_empty((batch, 2 * len(tower.blocks) + 1, width), dtype=torch.float32)
        terms[:, 0] = x[:, 0]
        # In bfloat16 the class token keeps a stream of its own; in float32 it is x's first row.
        stream = x[:, 0].float() if x.dtype != torch.float32 else None
        shape = (batch, tokens if kept.tokens else 1, tower.embed_dim)
        attended = x.new_zeros(shape, dtype=torch.float32)
        # Filled layer by layer: a view would keep the whole layer's activations alive.
        heads = (tower.heads, width // tower.heads)
        head_layers, token_layers = kept.head_layers, kept.head_token_layers
        values = terms.new_empty((batch, len(head_layers), *heads))
        token_weights = terms.new_empty((batch, len(token_layers), tower.heads, tokens))
        token_values = terms.new_empty((batch, len(token_layers), tokens, *heads))
        read_layers = kept.neuron_input_layers
        read = terms.new_empty((batch, len(read_layers), tokens - 1, width))
        for layer, block in enumerate(tower.blocks):
            last = layer == len(tower.blocks) - 1
            normed, mean, rstd = normalize_with_statistics(x, block.norm_1)
            query, key, value = query_key_value(
                normed, block, heads=tower.heads, class_query_only=last
            )
            mixed = mixed_values(query, key, value)
            if layer in head_layers:
                values[:, head_layers.index(layer)] = mixed[:, 0]
            weight = _class_token_attention(query[:, 0], key)
            if trace is not None:
                trace.attention(layer, weight, mean=mean, rstd=rstd)
            self._attend(attended, weight, value, layer)
            if layer in token_layers:
                token_weights[:, token_layers.index(layer)] = weight.transpose(1, 2)
                token_values[:, token_layers.index(layer)] = value
            if last:
                x = x[:, :1].contiguous()
            update = attention_update(mixed, block)
            term = update[:, 0]
            if stream is not None:
                term = F.linear(mixed[:, 0].flatten(1).float(), *self._exact_out[layer])
                term = layer_scaled(term, block.scale_1)
            terms[:, 2 * layer + 1] = term
            _advance(x, update, stream, terms[:, 2 * layer + 1])
            normed = normalize(x, block.norm_2)
            if layer in read_layers:
                read[:, read_layers.index(layer)] = normed[:, 1:]
            hidden, update = mlp(normed, block)
            if trace is not None:
                trace.mlp(layer, hidden, update)
            del hidden  # the largest activation: not alive beside the next layer's
            terms[:, 2 * layer + 2] = update[:, 0]
            _advance(x, update, stream, terms[:, 2 * layer + 2])
        final = x[:, 0] if stream is None else stream
        parts = self._project(final, terms, attended, tokens=tokens)
        if trace is not None:
            trace.finish(mu=parts["scale"][:, 0], sigma=parts["scale"][:, 1])
        return Decomposition(
            representation=parts["representation"],
            layer=parts["layer"],
            cls_token=parts["attended"][:, 0],
            scale=parts["scale"],
            token=parts["attended"][:, 1:] if kept.tokens else None,
            head_value=values,
            head_token_weight=token_weights if token_layers else None,
            head_token_value=token_values if token_layers else None,
            neuron_input=read if read_layers else None,
        )

    def _attend(self, attended: Tensor, weight: Tensor, value: Tensor, layer: int) -> None:
        """Add P^T gamma W_O (alpha_i v_i), all heads at once, for the tokens in `attended`."""
        kept = attended.shape[1]
        shares = weight[:, :kept, :, None].to(self._dtype) * value[:, :kept]
        shares = shares.reshape(-1, shares.shape[2] * shares.shape[3])
        flat = attended.view(-1, attended.shape[2])
        if self._dtype == torch.float32:
            flat.addmm_(shares, self._to_joint[layer])
        else:
            flat.add_(shares @ self._to_joint[layer])

    def _project(
        self, final: Tensor, terms: Tensor, attended: Tensor, *, tokens: int
    ) -> dict[str, Tensor]:
        """Take the sums in R^d through the last norm and P, each with its share of the constant."""
        tower = self._tower
        batch, count, width = terms.shape
        variance, mu = torch.var_mean(final, dim=1, correction=0)
        sigma = (variance + tower.norm.eps).sqrt()
        representation = normalize(final, tower.norm)
        if tower.projection is not None:
            representation = representation @ tower.projection.float()
        # -mu gamma/sigma + beta, through P: split equally over the terms.
        constant = self._beta - (mu / sigma)[:, None] * self._gamma
        layer = (terms.view(-1, width) @ self._scaled_projection).view(batch, count, -1)
        layer = layer.div_(sigma[:, None, None]).add_(constant[:, None] / count)
        norm = representation.norm(dim=1)
        residual = (layer.sum(1) - representation).norm(dim=1) / norm
        share = self._out_bias / sigma[:, None] + constant * (len(tower.blocks) / count)
        attended = attended.div_(sigma[:, None, None]).add_(share[:, None] / tokens)
        return {
            "representation": representation,
            "layer": layer,
            "attended": attended,
            "scale": torch.stack((mu, sigma, norm, residual), 1),
        }


def head_basis(visual: nn.Module, head_layers: Sequence[int]) -> npt.NDArray[np.float32]:
    """The exact span of each head: c_head(I) = f(I) @ basis, f = [u/sigma, mu/sigma, 1/sigma, 1].

    Shape [Lh, H, e+3, E]; computed from the weights in float64. Rows: the head's e columns of the
    output projection times gamma through P; then its shares of gamma, of the output bias and of
    beta through P, so that a layer's heads add up to its attention term (T2.5-T2.6,
    docs/mathematics.md). Raises UnsupportedModel, and ValueError for a layer the tower lacks.
    """
    tower = read_tower(visual)
    _check_layers(head_layers, len(tower.blocks))
    scaled = _scaled_projection(tower)
    e = tower.width // tower.heads
    shares = (2 * len(tower.blocks) + 1) * tower.heads
    basis = scaled.new_empty((len(head_layers), tower.heads, e + 3, tower.embed_dim))
    beta = _projected(_or_zeros(tower.norm.bias, tower.width, scaled), tower)
    for i, layer in enumerate(head_layers):
        block = tower.blocks[layer]
        basis[i, :, :e] = (_out_weight(block).T @ scaled).view(tower.heads, e, -1)
        basis[i, :, e] = -scaled.sum(0) / shares
        basis[i, :, e + 1] = _out_bias(block) @ scaled / tower.heads
        basis[i, :, e + 2] = beta / shares
    return basis.float().cpu().numpy()


def projection_weights(visual: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """The last norm and projection: what turns a final residual z into M (docs/mathematics.md).

    Arrays `projection` [d, E] (the identity where the tower has none), `ln_post_weight` and
    `ln_post_bias` [d], `ln_post_eps` [], `out_bias` [L, d] (each layer's output bias, LayerScale
    applied). Raises UnsupportedModel.
    """
    tower = read_tower(visual)
    identity = torch.eye(tower.width)
    weight, bias = tower.norm.weight, tower.norm.bias
    arrays = {
        "projection": identity if tower.projection is None else tower.projection,
        "ln_post_weight": torch.ones(tower.width) if weight is None else weight,
        "ln_post_bias": torch.zeros(tower.width) if bias is None else bias,
        "ln_post_eps": torch.tensor(tower.norm.eps),
        "out_bias": torch.stack([_out_bias(block) for block in tower.blocks]),
    }
    return {name: array.detach().float().cpu().numpy() for name, array in arrays.items()}


def _check_layers(layers: Sequence[int], count: int) -> None:
    if list(layers) != sorted(set(layers)) or any(not 0 <= layer < count for layer in layers):
        msg = f"layers {tuple(layers)} are not ascending layers of this tower: 0 to {count - 1}"
        raise ValueError(msg)


def _advance(x: Tensor, update: Tensor, stream: Tensor | None, term: Tensor) -> None:
    x.add_(update)
    if stream is not None:
        stream.add_(term)
        x[:, 0] = stream


def _class_token_attention(query: Tensor, key: Tensor) -> Tensor:
    """Attention of the class token's query [B, H, e] over k [B, T+1, H, e]: [B, T+1, H]."""
    scores = (key * query[:, None]).sum(-1, dtype=torch.float32)
    return torch.softmax(scores * query.shape[-1] ** -0.5, dim=1)


def _exact(weight: Tensor) -> Tensor:
    # Apple's devices have no float64.
    device = "cpu" if weight.device.type == "mps" else weight.device
    return weight.detach().to(device, torch.float64)


def _or_zeros(weight: Tensor | None, size: int, like: Tensor) -> Tensor:
    return like.new_zeros(size) if weight is None else _exact(weight)


def _projected(vector: Tensor, tower: Tower) -> Tensor:
    return vector if tower.projection is None else vector @ _exact(tower.projection)


def _scaled_projection(tower: Tower) -> Tensor:
    """diag(gamma) P in float64, [width, E]."""
    like = _exact(tower.blocks[0].out_weight)
    projection = like.new_zeros(0) if tower.projection is None else _exact(tower.projection)
    if tower.projection is None:
        projection = torch.eye(tower.width, dtype=like.dtype, device=like.device)
    weight = tower.norm.weight
    return projection if weight is None else _exact(weight)[:, None] * projection


def _out_weight(block: Block) -> Tensor:
    """W_O in float64, [d, d], LayerScale applied to its rows (the outputs)."""
    weight = _exact(block.out_weight)
    return weight if block.scale_1 is None else _exact(block.scale_1)[:, None] * weight


def _out_bias(block: Block) -> Tensor:
    bias = _or_zeros(block.out_bias, block.out_weight.shape[0], _exact(block.out_weight))
    return bias if block.scale_1 is None else bias * _exact(block.scale_1)
