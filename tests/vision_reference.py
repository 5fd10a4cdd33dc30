"""A small open_clip vision tower and the decomposition of one image, from loops in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip.transformer import QuickGELU, VisionTransformer

F64 = np.ndarray[Any, np.dtype[np.float64]]


def make_tower(
    *, layers: int = 3, heads: int = 4, head_width: int = 6, grid: int = 3, **options: Any
) -> Any:
    """A small random tower, every parameter randomised, norms and LayerScale too."""
    generator = torch.Generator().manual_seed(0)
    visual = VisionTransformer(
        image_size=4 * grid,
        patch_size=4,
        width=heads * head_width,
        layers=layers,
        heads=heads,
        mlp_ratio=2.0,
        output_dim=10,
        **options,
    )
    with torch.no_grad():
        for name, parameter in visual.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            near_one = name.endswith((".weight", "gamma")) and parameter.ndim == 1
            parameter.copy_(1 + 0.3 * noise if near_one else 0.3 * noise)
    return visual.eval().requires_grad_(requires_grad=False)


def images_for(visual: Any, count: int = 2) -> torch.Tensor:
    side = visual.image_size[0]
    return torch.randn((count, 3, side, side), generator=torch.Generator().manual_seed(1))


@dataclass
class Reference:
    """One image by the formulas; c is c_{i,l,h} [L, H, T+1, E] (T2.6 with its shares)."""

    representation: F64
    layer: F64
    c: F64
    u: F64
    alpha: F64
    v: F64
    mu: float
    sigma: float


def _norm(x: F64, weights: dict[str, F64], name: str) -> F64:
    if name + ".weight" not in weights:
        return x
    centred = x - x.mean()
    return (
        centred / math.sqrt((centred**2).mean() + 1e-5) * weights[name + ".weight"]
        + weights[name + ".bias"]
    )


def _act(x: float, *, quick: bool) -> float:
    return x / (1 + math.exp(-1.702 * x)) if quick else x * (1 + math.erf(x / math.sqrt(2))) / 2


def reference(visual: Any, image: torch.Tensor) -> Reference:
    w: dict[str, F64] = {k: p.double().numpy() for k, p in visual.state_dict().items()}
    pixels = image.double().numpy()
    quick = isinstance(visual.transformer.resblocks[0].mlp.gelu, QuickGELU)
    depth, heads = len(visual.transformer.resblocks), visual.transformer.resblocks[0].attn.num_heads
    width = w["class_embedding"].shape[0]
    e = width // heads
    rows, columns = visual.grid_size
    tokens = [w["class_embedding"] + w["positional_embedding"][0]]
    for row in range(rows):
        for column in range(columns):
            patch = pixels[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            embedded = np.array([(kernel * patch).sum() for kernel in w["conv1.weight"]])
            tokens.append(embedded + w["positional_embedding"][len(tokens)])
    x = np.array([_norm(token, w, "ln_pre") for token in tokens])
    count = len(x)
    terms = [x[0]]
    alpha, v = np.zeros((depth, heads, count)), np.zeros((depth, count, heads, e))
    out = np.zeros((depth, width, width))
    out_bias = np.zeros((depth, width))
    for layer in range(depth):
        name = f"transformer.resblocks.{layer}."
        block = {k.removeprefix(name): p for k, p in w.items() if k.startswith(name)}
        scale_1, scale_2 = block.get("ls_1.gamma", 1.0), block.get("ls_2.gamma", 1.0)
        out[layer] = (block["attn.out_proj.weight"].T * scale_1).T
        out_bias[layer] = block["attn.out_proj.bias"] * scale_1
        normed = np.array([_norm(token, block, "ln_1") for token in x])
        qkv = normed @ block["attn.in_proj_weight"].T + block["attn.in_proj_bias"]
        update = np.tile(out_bias[layer], (count, 1))
        for head in range(heads):
            part = slice(head * e, head * e + e)
            q, k = qkv[:, :width][:, part], qkv[:, width : 2 * width][:, part]
            v[layer, :, head] = qkv[:, 2 * width :][:, part]
            for i in range(count):
                weight = np.exp([q[i] @ k[j] / math.sqrt(e) for j in range(count)])
                weight /= weight.sum()
                if i == 0:
                    alpha[layer, head] = weight
                mixed = sum(weight[j] * v[layer, j, head] for j in range(count))
                update[i] += out[layer][:, part] @ mixed
        terms.append(update[0])
        x = x + update
        update = np.zeros_like(x)
        for i in range(count):
            hidden = block["mlp.c_fc.weight"] @ _norm(x[i], block, "ln_2") + block["mlp.c_fc.bias"]
            hidden = np.array([_act(value, quick=quick) for value in hidden])
            update[i] = (block["mlp.c_proj.weight"] @ hidden + block["mlp.c_proj.bias"]) * scale_2
        terms.append(update[0])
        x = x + update
    z = x[0]
    mu, sigma = z.mean(), math.sqrt(((z - z.mean()) ** 2).mean() + 1e-5)
    gamma, beta, projection = w["ln_post.weight"], w["ln_post.bias"], w["proj"]
    constant = (beta - gamma * mu / sigma) / (2 * depth + 1)
    c = np.zeros((depth, heads, count, projection.shape[1]))
    for layer in range(depth):
        for head in range(heads):
            for i in range(count):
                part = out[layer][:, head * e : head * e + e]
                pair = part @ (alpha[layer, head, i] * v[layer, i, head])
                pair = pair + out_bias[layer] / (count * heads)
                pair = gamma * pair / sigma + constant / (count * heads)
                c[layer, head, i] = pair @ projection
    return Reference(
        representation=(gamma * (z - mu) / sigma + beta) @ projection,
        layer=np.array([(gamma * term / sigma + constant) @ projection for term in terms]),
        c=c,
        u=np.einsum("lhi,lihe->lhe", alpha, v),
        alpha=alpha,
        v=v,
        mu=mu,
        sigma=sigma,
    )


def off(found: Any, wanted: Any) -> float:
    """Norm of the difference, as a part of the wanted array's norm."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
