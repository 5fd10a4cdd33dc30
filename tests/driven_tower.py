"""A tower run by hand and shown to a trace, and effects formed from its factors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tiny_clip import VISION, trained
from torch.nn import functional as F

from lensbase.ingest.second_order import SecondOrder, Trace
from lensbase.ingest.tower import read_tower
from lensbase.queries.second_order import RankOne

F64 = npt.NDArray[np.float64]


def tiny(**changes: Any) -> Any:
    """The image tower of a tiny CLIP of four layers, every parameter moved off its start."""
    vision = VISION | {"layers": 4} | changes.pop("vision", {})
    visual = trained(vision_cfg=vision, **changes).visual.requires_grad_(requires_grad=False)
    generator = torch.Generator().manual_seed(2)
    for parameter in visual.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return visual


@torch.inference_mode()
def drive(visual: Any, images: torch.Tensor, second_order: SecondOrder) -> Trace:
    """Run a tower by hand, as plainly as it can be written, and show it to a trace."""
    tower, trace = read_tower(visual), second_order.trace()
    x = tower.embed(images)
    for layer, block in enumerate(tower.blocks):
        norm = block.norm_1
        normed, mean, rstd = torch.native_layer_norm(
            x, x.shape[-1:], norm.weight, norm.bias, norm.eps
        )
        product = F.linear(normed, block.in_weight, block.in_bias)
        query, key, value = product.unflatten(2, (3, tower.heads, -1)).permute(2, 0, 3, 1, 4)
        alpha = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(3)
        trace.attention(layer, alpha[:, :, 0].transpose(1, 2), mean=mean, rstd=rstd)
        mixed = (alpha @ value).transpose(1, 2).flatten(2)
        update = F.linear(mixed, block.out_weight, block.out_bias)
        x = x + (update if block.scale_1 is None else update * block.scale_1)
        norm = block.norm_2
        hidden = F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)
        hidden = F.linear(hidden, block.fc_weight, block.fc_bias)
        quick = block.activation == "quickgelu"
        hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden)
        update = F.linear(hidden, block.proj_weight, block.proj_bias)
        update = update if block.scale_2 is None else update * block.scale_2
        trace.mlp(layer, hidden, update)
        x = x + update
    variance, mu = torch.var_mean(x[:, 0], dim=1, correction=0)
    trace.finish(mu=mu, sigma=(variance + tower.norm.eps).sqrt())
    return trace


def formed(trace: Trace, layer: int) -> F64:
    """All effects [B, N, E], from the factors."""
    found = [trace.second_order.combine(layer, factors) for factors in trace.factors(layer)]
    return torch.stack(found).double().numpy()


def formed_component(effects: F64) -> tuple[F64, float]:
    """Direction [E] and explained share of mean-subtracted effects [S, E], by their SVD."""
    _, values, rows = np.linalg.svd(effects, full_matrices=False)
    projections = effects @ rows[0]
    sign = -1 if (projections < 0).sum() > (projections > 0).sum() else 1
    return sign * rows[0], values[0] ** 2 / (values**2).sum()


def gram_root(gram: F64) -> F64:
    """A root L [N, J, J] with L L^T = G of Gram matrices G [N, J, J], singular ones too."""
    values, vectors = np.linalg.eigh(gram)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None]


def signed_coefficients(factors: F64, root: F64, *, fitted: RankOne) -> F64:
    """x_n = <phi_n - b_n, r_n> [K, N] of factors [K, N, J], with no effect formed."""
    exact = root.astype(np.float64)
    gram = exact @ np.swapaxes(exact, 1, 2)
    apart = factors.astype(np.float64) - fitted.mean
    return np.einsum("knj,nji,ni->kn", apart, gram, fitted.coefficients)
