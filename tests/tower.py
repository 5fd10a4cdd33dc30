"""A random vision tower's last stretch in float64, written from the formulas, as ground truth.

Attention weights, values and MLP outputs are random numbers; what is computed from them, the
residual stream at the class token, its LayerNorm and the projection, is the real thing (T2.1-2.6,
T-A.1-A.2), so every identity of the decomposition must hold. Nothing of ours is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


@dataclass
class Tower:
    """K images through L layers of H heads; T patches and a class token; widths e, d and E."""

    seed: int = 0
    images: int = 12
    layers: int = 3
    heads: int = 4
    patches: int = 6
    head_width: int = 5
    joint: int = 24
    weight: F64 = field(init=False)  # alpha [K, L, H, T+1]
    value: F64 = field(init=False)  # v [K, L, T+1, H, e]
    u: F64 = field(init=False)  # [K, L, H, e]
    scale: F64 = field(init=False)  # mu, sigma, ||M||, 0 [K, 4]
    representation: F64 = field(init=False)  # M [K, E]
    layer: F64 = field(init=False)  # [K, 2L+1, E]
    pair: F64 = field(init=False)  # c_{i,l,h} [K, L, H, T+1, E]
    basis: F64 = field(init=False)  # [L, H, e+3, E]

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        images, layers, heads, tokens = self.images, self.layers, self.heads, self.patches + 1
        width, depth = heads * self.head_width, 2 * layers + 1
        logits = rng.normal(size=(images, layers, heads, tokens))
        self.weight = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        self.value = rng.normal(size=(images, layers, tokens, heads, self.head_width))
        out = rng.normal(size=(layers, heads, self.head_width, width)) / width**0.5
        out_bias = 0.3 * rng.normal(size=(layers, width))
        embed = rng.normal(size=(images, width))
        mlp = rng.normal(size=(images, layers, width))
        gamma = 1 + 0.3 * rng.normal(size=width)
        beta = 0.2 * rng.normal(size=width)
        projection = rng.normal(size=(width, self.joint)) / width**0.5

        # The residual stream at the class token (T2.3) and its LayerNorm (T-A.1).
        self.u = np.einsum("klht,klthe->klhe", self.weight, self.value)
        attention = np.einsum("klhe,lhed->kld", self.u, out) + out_bias
        z = embed + attention.sum(1) + mlp.sum(1)
        mean = z.mean(-1)
        sigma = np.sqrt(z.var(-1) + 1e-5)
        self.representation = (gamma * (z - mean[:, None]) / sigma[:, None] + beta) @ projection
        norm = np.linalg.norm(self.representation, axis=-1)
        self.scale = np.stack([mean, sigma, norm, np.zeros(images)], axis=-1)

        # Every term by its formula: gamma * x / sigma through P, plus its share of the constant.
        constant = (beta - gamma * (mean / sigma)[:, None]) @ projection

        def term(x: F64, share: float) -> F64:
            rest = (1,) * (x.ndim - 2)
            scaled = gamma * x / sigma.reshape(-1, *rest, 1)
            return scaled @ projection + share * constant.reshape(images, *rest, self.joint)

        terms = [embed]
        for index in range(layers):
            terms += [attention[:, index], mlp[:, index]]
        self.layer = np.stack([term(x, 1 / depth) for x in terms], axis=1)
        x = np.einsum("klht,klthe,lhed->klhtd", self.weight, self.value, out)
        x += (out_bias / (tokens * heads))[:, None, None]
        self.pair = term(x, 1 / (depth * tokens * heads))

        # A head's fixed matrix, row by row (docs/mathematics.md, "Heads").
        self.basis = np.empty((layers, heads, self.head_width + 3, self.joint))
        self.basis[..., :-3, :] = (out * gamma) @ projection
        self.basis[..., -3, :] = -(gamma @ projection) / (depth * heads)
        self.basis[..., -2, :] = ((gamma * out_bias) @ projection / heads)[:, None]
        self.basis[..., -1, :] = (beta @ projection) / (depth * heads)
