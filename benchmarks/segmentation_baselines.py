"""Maps of where a text is that need the model: what token heatmaps are compared with (Table 2.4).

Each baseline gives maps [n, rows, columns] for images [n, 3, H, W] and text directions [n, d'].
LRP and partial LRP are left out: they need rules of propagation for every kind of layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

Baseline = Callable[[Any, Tensor, Tensor], Tensor]


class OpenAttention(nn.Module):
    """Multi-head self-attention of the same weights that keeps its attention [n, H, T+1, T+1]."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention
        self.weights: Tensor | None = None

    def forward(self, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """What the attention it replaces gives for tokens [n, T+1, width]; masks are ignored."""
        n, tokens, width = query.shape
        heads = self.attention.num_heads
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        parts = nn.functional.linear(query, weight, bias).view(n, tokens, 3, heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / math.sqrt(width // heads)).softmax(-1)
        self.weights = weights
        mixed = (weights @ v).transpose(1, 2).reshape(n, tokens, width)
        return self.attention.out_proj(mixed), None


def open_attention(clip: Any) -> Any:
    """A copy of an open_clip ViT whose blocks keep their attention."""
    opened = copy.deepcopy(clip).eval()
    for block in opened.visual.transformer.resblocks:
        assert block.attn.batch_first, "tokens are expected as [n, T+1, width]"
        block.attn = OpenAttention(block.attn)
    return opened


def raw_attention(clip: Any, images: Tensor, directions: Tensor) -> Tensor:
    """What the class token attends to in the last layer, mean over heads; no text matters."""
    with torch.no_grad():
        clip.encode_image(images)
    return _map(clip, _weights(clip)[-1].mean(1)[:, 0, 1:])


def attention_rollout(clip: Any, images: Tensor, directions: Tensor) -> Tensor:
    """Attention multiplied through all layers, half of each the residual (Abnar, Zuidema 2020)."""
    with torch.no_grad():
        clip.encode_image(images)
    flow = torch.eye(_weights(clip)[0].shape[-1]).expand(len(images), -1, -1)
    for weights in _weights(clip):
        mixed = weights.mean(1) + torch.eye(weights.shape[-1])
        flow = mixed / mixed.sum(-1, keepdim=True) @ flow
    return _map(clip, flow[:, 0, 1:])


def grad_cam(clip: Any, images: Tensor, directions: Tensor) -> Tensor:
    """Grad-CAM of the text's logit at the last block's `ln_1`, by the library grad-cam."""
    rows, columns = clip.visual.grid_size

    def patches(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mT.reshape(len(tokens), -1, rows, columns)

    def target(direction: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda embedding: embedding @ direction

    layers = [clip.visual.transformer.resblocks[-1].ln_1]
    with GradCAM(model=_Embedding(clip), target_layers=layers, reshape_transform=patches) as cam:
        inputs = images.clone().requires_grad_()  # the weights have no gradients of their own
        targets: Any = [target(one) for one in directions]
        maps = cam(input_tensor=inputs, targets=targets)
    return torch.from_numpy(maps)


def attention_relevance(clip: Any, images: Tensor, directions: Tensor) -> Tensor:
    """Attention weighted by the logit's gradient, positive part, rolled out (Chefer et al. 2021).

    R <- R + E_h[(dA * A)^+] R through all layers, from R = I (their Eq. 5 and 6).
    """
    with torch.enable_grad():
        embeddings = clip.encode_image(images.clone().requires_grad_(), normalize=True)
        attention = _weights(clip)
        gradients = torch.autograd.grad((embeddings * directions).sum(), attention)
    relevance = torch.eye(attention[0].shape[-1]).expand(len(images), -1, -1)
    for weights, gradient in zip(attention, gradients, strict=True):
        relevance = relevance + (gradient * weights.detach()).clamp(min=0).mean(1) @ relevance
    return _map(clip, relevance[:, 0, 1:])


BASELINES: dict[str, Baseline] = {
    "raw attention": raw_attention,
    "attention rollout": attention_rollout,
    "Grad-CAM": grad_cam,
    "Chefer et al. 2021": attention_relevance,
}


class _Embedding(nn.Module):
    """The unit image embedding as a forward pass, with gradients down to the images."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor) -> Tensor:
        return self.clip.encode_image(images, normalize=True)


def _weights(clip: Any) -> list[Tensor]:
    return [block.attn.weights for block in clip.visual.transformer.resblocks]


def _map(clip: Any, scores: Tensor) -> Tensor:
    return scores.detach().reshape(len(scores), *clip.visual.grid_size)
