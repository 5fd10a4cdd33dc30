"""One block of an image tower, run by hand with open_clip's own weights.

Inputs keep their type; norm statistics are float32, or float64 of float64 inputs. Equations:
docs/mathematics.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from .tower import Block, Norm


def normalize(x: Tensor, norm: Norm) -> Tensor:
    """A LayerNorm's output, in x's type."""
    return normalize_with_statistics(x, norm)[0]


def normalize_with_statistics(x: Tensor, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
    """The norm's output in x's type; mean and 1/sigma [..., 1] of its input in float32 at least."""
    exact = torch.promote_types(x.dtype, torch.float32)
    weight = None if norm.weight is None else norm.weight.to(exact)
    bias = None if norm.bias is None else norm.bias.to(exact)
    # F.layer_norm is this without the statistics.
    normed, mean, rstd = torch.native_layer_norm(x.to(exact), x.shape[-1:], weight, bias, norm.eps)
    return normed.to(x.dtype), mean, rstd


def query_key_value(
    normed: Tensor, block: Block, *, heads: int, class_query_only: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Give q [B, T+1 or 1, H, e], k and v [B, T+1, H, e], as views of one product."""
    batch, tokens, width = normed.shape
    shape = (heads, width // heads)
    weight, bias = block.in_weight, block.in_bias
    if not class_query_only:
        product = F.linear(normed, weight, bias).view(batch, tokens, 3, *shape)
        return product[:, :, 0], product[:, :, 1], product[:, :, 2]
    query_bias = other_bias = None
    if bias is not None:
        query_bias, other_bias = bias[:width], bias[width:]
    query = F.linear(normed[:, :1], weight[:width], query_bias).view(batch, 1, *shape)
    product = F.linear(normed, weight[width:], other_bias).view(batch, tokens, 2, *shape)
    return query, product[:, :, 0], product[:, :, 1]


def mixed_values(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What every query's attention mixes of the values, head by head: [B, queries, H, e]."""
    return F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    ).transpose(1, 2)


def attention_update(mixed: Tensor, block: Block) -> Tensor:
    """What attention adds to the stream [B, queries, d], of mixed values [B, queries, H, e]."""
    return layer_scaled(F.linear(mixed.flatten(2), block.out_weight, block.out_bias), block.scale_1)


def mlp(normed: Tensor, block: Block) -> tuple[Tensor, Tensor]:
    """The neurons' activations [..., N] and what they add to the stream [..., d]."""
    hidden = F.linear(normed, block.fc_weight, block.fc_bias)
    if block.activation == "quickgelu":
        hidden = torch.mul(hidden, 1.702).sigmoid_().mul_(hidden)
    else:
        hidden = F.gelu(hidden, approximate="tanh" if block.activation == "gelu_tanh" else "none")
    return hidden, layer_scaled(F.linear(hidden, block.proj_weight, block.proj_bias), block.scale_2)


def layer_scaled(update: Tensor, scale: Tensor | None) -> Tensor:
    """A LayerScale's output; the update itself where the block has none."""
    return update if scale is None else update * scale
