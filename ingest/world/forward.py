"""The forward pass of open_clip's CLIP for training, on the very same parameters.

Attention is written out as two batched products: for heads of 16 numbers its backward pass is
several times faster on a CPU than the fused one. It also gives the patch tokens of a middle
layer, for the dense loss.
"""

from __future__ import annotations

from typing import cast

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn


def encode_image(model: open_clip.CLIP, images: Tensor, middle: int) -> tuple[Tensor, Tensor]:
    """Image embeddings [b, d'] and the patch tokens [b, patches, width] after block `middle`."""
    tower = cast(VisionTransformer, model.visual)
    x = _embed_patches(tower, images)
    x = _normalize(x, cast(nn.LayerNorm, tower.ln_pre))
    patches = x
    for layer, block in enumerate(tower.transformer.resblocks):
        x = _block(x, cast(ResidualAttentionBlock, block), None)
        if layer == middle:
            patches = x[:, 1:]
    pooled = _normalize(x[:, 0], cast(nn.LayerNorm, tower.ln_post))
    return F.linear(pooled, cast(Tensor, tower.proj).T), patches


def encode_text(model: open_clip.CLIP, ids: Tensor) -> Tensor:
    """Text embeddings [b, d'] of token ids; trailing columns of padding may be left out."""
    length = ids.shape[1]
    mask = cast(Tensor, model.attn_mask)[:length, :length]
    x = F.embedding(ids, cast(nn.Embedding, model.token_embedding).weight)
    x = x + cast(Tensor, model.positional_embedding)[:length]
    if torch.is_autocast_enabled(ids.device.type):
        x = x.to(torch.get_autocast_dtype(ids.device.type))
    for block in model.transformer.resblocks:
        x = _block(x, cast(ResidualAttentionBlock, block), mask)
    x = _normalize(x, cast(nn.LayerNorm, model.ln_final))
    ends = x[torch.arange(len(ids), device=ids.device), ids.argmax(1)]
    return F.linear(ends, cast(Tensor, model.text_projection).T)


def _embed_patches(tower: VisionTransformer, images: Tensor) -> Tensor:
    """The patch convolution as one matrix product, class token first, positions added."""
    batch, channels, side, _ = images.shape
    patch = tower.conv1.kernel_size[0]
    grid = side // patch
    blocks = images.view(batch, channels, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    kernel = tower.conv1.weight.flatten(1)
    x = F.linear(blocks.reshape(batch, grid * grid, -1), kernel)
    cls = tower.class_embedding.to(x.dtype).expand(batch, 1, -1)
    return torch.cat([cls, x], 1) + tower.positional_embedding.to(x.dtype)


def _block(x: Tensor, block: ResidualAttentionBlock, mask: Tensor | None) -> Tensor:
    x = x + _attention(_normalize(x, cast(nn.LayerNorm, block.ln_1)), block.attn, mask)
    c_fc, c_proj = cast(nn.Linear, block.mlp.c_fc), cast(nn.Linear, block.mlp.c_proj)
    hidden = F.gelu(c_fc(_normalize(x, cast(nn.LayerNorm, block.ln_2))))
    return x + c_proj(hidden)


def _attention(x: Tensor, attention: nn.MultiheadAttention, mask: Tensor | None) -> Tensor:
    batch, tokens, width = x.shape
    heads = attention.num_heads
    size = width // heads
    qkv = F.linear(x, cast(Tensor, attention.in_proj_weight), attention.in_proj_bias)
    qkv = qkv.view(batch, tokens, 3, heads, size).permute(2, 0, 3, 1, 4)
    q, k, v = (part.reshape(batch * heads, tokens, size) for part in qkv.unbind(0))
    scores = torch.bmm(q * size**-0.5, k.transpose(1, 2))
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    context = torch.bmm(scores.softmax(-1), v).view(batch, heads, tokens, size)
    return attention.out_proj(context.transpose(1, 2).reshape(batch, tokens, width))


def _normalize(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
