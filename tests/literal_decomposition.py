"""One image of a model of real size, taken apart in float64 by the formulas, nothing factored.

`vision_reference` goes number by number and takes minutes for a ViT-B; here tokens go together, and
layers and heads one by one. The two are compared where both can be run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transformer import QuickGELU

F64 = npt.NDArray[np.float64]

EPS = 1e-5


@dataclass(frozen=True)
class Parts:
    """What adds up to M(I) = P^T(gamma (z - mu)/sigma + beta), of one image."""

    representation: F64  # M(I) [E] (T2.1)
    layer: F64  # EMBED, L0.ATTN, L0.MLP, L1.ATTN, ... [2L+1, E] (T2.4)
    pair: F64  # c_{i,l,h} [L, H, N+1, E], token 0 the class token (T2.6)

    @property
    def head(self) -> F64:
        """c_head [L, H, E] (T2.5)."""
        return self.pair.sum(2)

    @property
    def token(self) -> F64:
        """c_token [N+1, E] over all layers and heads."""
        return self.pair.sum((0, 1))


def take_apart(visual: Any, image: torch.Tensor) -> Parts:
    """Run one preprocessed image [3, S, S] and split its representation.

    The LayerNorm's constant (beta - gamma mu/sigma) is split equally over the 2L+1 terms, and an
    attention term's share of it over its (N+1) H pairs; so is the output projection's bias.
    """
    weights: dict[str, F64] = {
        name: value.double().numpy() for name, value in visual.state_dict().items()
    }
    blocks = visual.transformer.resblocks
    depth, heads = len(blocks), blocks[0].attn.num_heads
    quick = isinstance(blocks[0].mlp.gelu, QuickGELU)
    x = _embedded(weights, image.double().numpy())
    tokens = len(x)
    written, attended = [x[0]], []
    for number in range(depth):
        name = f"transformer.resblocks.{number}."
        block = {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}
        pairs, update = _attention(block, _norm(x, block, "ln_1"), heads)
        attended.append(pairs)
        x = x + update
        written.append(update[0])
        hidden = _norm(x, block, "ln_2") @ block["mlp.c_fc.weight"].T + block["mlp.c_fc.bias"]
        update = _activation(hidden, quick=quick) @ block["mlp.c_proj.weight"].T
        update = (update + block["mlp.c_proj.bias"]) * block.get("ls_2.gamma", 1.0)
        x = x + update
        written.append(update[0])
    z = x[0]
    mu, sigma = z.mean(), np.sqrt(((z - z.mean()) ** 2).mean() + EPS)
    gamma, beta, projection = weights["ln_post.weight"], weights["ln_post.bias"], weights["proj"]
    constant = (beta - gamma * mu / sigma) / (2 * depth + 1)
    pair = np.empty((depth, heads, tokens, projection.shape[1]))
    for number in range(depth):
        for head in range(heads):
            residual = attended[number][head]  # [N+1, d]
            pair[number, head] = (gamma * residual / sigma + constant / (tokens * heads)) @ (
                projection
            )
    return Parts(
        representation=(gamma * (z - mu) / sigma + beta) @ projection,
        layer=np.array([(gamma * term / sigma + constant) @ projection for term in written]),
        pair=pair,
    )


def _embedded(weights: dict[str, F64], pixels: F64) -> F64:
    """The tokens [N+1, d] that enter the first block."""
    kernels = weights["conv1.weight"]
    side = kernels.shape[-1]
    rows, columns = pixels.shape[1] // side, pixels.shape[2] // side
    patches = [
        pixels[:, side * row : side * (row + 1), side * column : side * (column + 1)].reshape(-1)
        for row in range(rows)
        for column in range(columns)
    ]
    embedded = np.array(patches) @ kernels.reshape(len(kernels), -1).T
    tokens = np.vstack([weights["class_embedding"], embedded]) + weights["positional_embedding"]
    return _norm(tokens, weights, "ln_pre")


def _attention(block: dict[str, F64], normed: F64, heads: int) -> tuple[list[F64], F64]:
    """Of each head what the class token attends from every token [N+1, d]; the update [N+1, d]."""
    tokens, width = normed.shape
    e = width // heads
    scale = block.get("ls_1.gamma", np.ones(width))
    bias = block["attn.out_proj.bias"] * scale
    pairs: list[F64] = []
    update = np.tile(bias, (tokens, 1))
    for head in range(heads):
        q, k, v = (
            normed @ block["attn.in_proj_weight"][start : start + e].T
            + block["attn.in_proj_bias"][start : start + e]
            for start in range(head * e, 3 * width, width)
        )
        alpha = np.exp(q @ k.T / np.sqrt(e))
        alpha /= alpha.sum(1, keepdims=True)
        out = block["attn.out_proj.weight"][:, head * e : head * e + e] * scale[:, None]  # W_O^h
        update += (alpha @ v) @ out.T
        pairs.append((alpha[0][:, None] * v) @ out.T + bias / (tokens * heads))
    return pairs, update


def _norm(x: F64, weights: dict[str, F64], name: str) -> F64:
    if f"{name}.weight" not in weights:
        return x
    centered = x - x.mean(-1, keepdims=True)
    sigma = np.sqrt((centered**2).mean(-1, keepdims=True) + EPS)
    return centered / sigma * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _activation(x: F64, *, quick: bool) -> F64:
    if quick:
        return x / (1 + np.exp(-1.702 * x))
    return x * (1 + torch.special.erf(torch.from_numpy(x / np.sqrt(2))).numpy()) / 2
