"""Second-order effects formed token by token and head by head, in float64, from the formula.

phi_n(I) = sum over later layers l', heads h and tokens i of
P^T gamma/sigma * (alpha_i W_VO (gamma'/sigma'_i * p_i w_n)): T3.3 with the LayerNorms of T-B.5,
their means and biases left out. Nothing of ours is imported.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

F64 = npt.NDArray[np.float64]


@dataclass
class Pass:
    """One image through a tower in float64; lists are by layer, counted from 0."""

    weights: dict[str, F64]
    heads: int
    stream: list[F64]  # the input of every ln_1 [T+1, d]
    alpha: list[F64]  # the class token's attention [H, T+1]
    hidden: list[F64]  # p, after the activation [T+1, N]
    output: list[F64]  # what the MLP adds to the stream [T+1, d]
    final: F64  # the class token before ln_post [d]


def run(visual: Any, image: torch.Tensor) -> Pass:
    """Run a double-precision copy of an open_clip tower on one image, and look on."""
    double = copy.deepcopy(visual).double()
    blocks = list(double.transformer.resblocks)
    seen: dict[tuple[str, int], F64] = {}

    def look(name: str, layer: int, *, before: bool) -> Any:
        def hook(_: Any, given: Any, result: Any) -> None:
            seen[name, layer] = (given[0] if before else result)[0].numpy().copy()

        return hook

    for layer, block in enumerate(blocks):
        block.ln_1.register_forward_hook(look("stream", layer, before=True))
        block.ln_1.register_forward_hook(look("normed", layer, before=False))
        block.mlp.gelu.register_forward_hook(look("hidden", layer, before=False))
        block.ls_2.register_forward_hook(look("output", layer, before=False))
    double.ln_post.register_forward_hook(look("final", 0, before=True))
    with torch.no_grad():
        double(image[None].double())
    weights = {name: value.numpy() for name, value in double.state_dict().items()}
    alpha: list[F64] = []
    heads = blocks[0].attn.num_heads
    for layer in range(len(blocks)):
        block = _block(weights, layer)
        width = len(block["attn.out_proj.weight"])
        normed, e = seen["normed", layer], width // heads
        qkv = normed @ block["attn.in_proj_weight"].T + block["attn.in_proj_bias"]
        rows: list[F64] = []
        for head in range(heads):
            part = slice(head * e, head * e + e)
            scores = qkv[:, width : 2 * width][:, part] @ qkv[0, :width][part] / np.sqrt(e)
            rows.append(np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum())
        alpha.append(np.array(rows))
    count = range(len(blocks))
    final = seen["final", 0]
    return Pass(
        weights=weights,
        heads=heads,
        stream=[seen["stream", layer] for layer in count],
        alpha=alpha,
        hidden=[seen["hidden", layer] for layer in count],
        output=[seen["output", layer] for layer in count],
        final=final[0] if final.ndim == 2 else final,
    )


def effect(seen: Pass, layer: int, neuron: int) -> F64:
    """phi_n(I) [E]."""
    return through_later_heads(
        seen, layer, seen.hidden[layer][:, neuron, None] * written(seen, layer)[neuron]
    )


def written(seen: Pass, layer: int) -> F64:
    """w_n of every neuron [N, d]: columns of W_out, LayerScale applied."""
    block = _block(seen.weights, layer)
    return block["mlp.c_proj.weight"].T * block.get("ls_2.gamma", 1.0)


def output_bias(seen: Pass, layer: int) -> F64:
    """The MLP's output bias [d], LayerScale applied."""
    block = _block(seen.weights, layer)
    return block["mlp.c_proj.bias"] * block.get("ls_2.gamma", 1.0)


def through_later_heads(seen: Pass, layer: int, tokens: F64) -> F64:
    """Send one vector a token [T+1, d], written by a layer's MLP, to the joint space [E]."""
    gamma, projection = seen.weights["ln_post.weight"], seen.weights["proj"]
    sigma = _sigma(seen.final)
    total = np.zeros(projection.shape[1])
    for later in range(layer + 1, len(seen.alpha)):
        block = _block(seen.weights, later)
        sigmas = np.array([_sigma(token) for token in seen.stream[later]])
        normed = block["ln_1.weight"] * tokens / sigmas[:, None]
        for head in range(seen.heads):
            carried = normed @ _value_output(block, head, seen.heads).T
            for i, token in enumerate(carried):
                total += (gamma / sigma * (seen.alpha[later][head, i] * token)) @ projection
    return total


def constant_share(seen: Pass, layer: int) -> F64:
    """A neuron's equal share of the norms' constants (T-B.5) [E].

    B' = beta' - gamma' mu'/sigma' of a later layer is divided by the neurons before it, that of
    the last norm by the neurons with attention after them.
    """
    neurons, depth = seen.hidden[0].shape[1], len(seen.alpha)
    weights = seen.weights
    gamma, projection, sigma = weights["ln_post.weight"], weights["proj"], _sigma(seen.final)
    constant = weights["ln_post.bias"] - gamma * seen.final.mean() / sigma
    total = (constant / (neurons * (depth - 1))) @ projection
    for later in range(layer + 1, depth):
        block = _block(weights, later)
        for head in range(seen.heads):
            carry = _value_output(block, head, seen.heads)
            for i, token in enumerate(seen.stream[later]):
                moved = block["ln_1.bias"] - block["ln_1.weight"] * token.mean() / _sigma(token)
                part = seen.alpha[later][head, i] * (carry @ (moved / (neurons * later)))
                total += (gamma / sigma * part) @ projection
    return total


def _value_output(block: dict[str, F64], head: int, heads: int) -> F64:
    """W_VO [d, d] of a head, LayerScale applied."""
    width = len(block["attn.out_proj.weight"])
    part = slice(head * width // heads, (head + 1) * width // heads)
    out = (block["attn.out_proj.weight"].T * block.get("ls_1.gamma", 1.0)).T
    return out[:, part] @ block["attn.in_proj_weight"][2 * width :][part]


def _block(weights: dict[str, F64], layer: int) -> dict[str, F64]:
    name = f"transformer.resblocks.{layer}."
    return {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}


def _sigma(token: F64) -> float:
    return float(np.sqrt(token.var() + 1e-5))
