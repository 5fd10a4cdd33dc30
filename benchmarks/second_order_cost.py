"""What second-order norms cost beside the bare `encode_image`, on the same batches in memory.

The kernel alone: from activations, attention rows and norm statistics, which a pass over heads
and tokens has at hand, to every neuron's factors, norms and coefficients, the sum over all
neurons and that over the 2 % of largest norm. Interleaved with the bare pass in random order.

    python benchmarks/second_order_cost.py --model ViT-B-32 --batch 16 --layers 8 9 10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from test_forward_cost import build
from torch import Tensor
from torch.nn import functional as F

from lensbase.ingest.neuron_layers import root_bytes
from lensbase.ingest.second_order import (
    SecondOrder,
    Trace,
    effect_norms,
    inner_products,
)

LARGE = 0.02


def filled(second_order: SecondOrder, *, batch: int, tokens: int, like: Tensor) -> Trace:
    """A finished trace of random numbers: the kernel's work does not depend on them."""
    trace = second_order.trace()
    first = second_order.first_attention
    width, heads = second_order.write(second_order.layers[0]).shape[1], second_order.heads
    later = second_order.paths(first - 1) // heads
    for layer in range(first + later):
        if layer >= first:
            alpha = torch.softmax(torch.randn((batch, tokens, heads)).to(like), 1)
            mean, rstd = torch.randn((2, batch, tokens, 1)).to(like)
            trace.attention(layer, alpha, mean=mean, rstd=rstd.abs())
        if layer in second_order.layers:
            hidden = F.gelu(torch.randn((batch, tokens, second_order.neurons(layer)))).to(like)
            trace.mlp(layer, hidden, torch.randn((batch, tokens, width)).to(like))
    ones = torch.ones(batch).to(like)
    trace.finish(mu=ones, sigma=ones)
    return trace


class Kernel:
    """The kernel's stages, each timed on its own."""

    def __init__(self, second_order: SecondOrder, trace: Trace) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._second_order, self._trace = second_order, trace
        self._folded = {
            layer: second_order.fold(
                layer, torch.randn((second_order.neurons(layer), second_order.joint_width))
            )
            for layer in second_order.layers
        }
        self._threshold = {
            layer: effect_norms(trace.factors(layer), second_order.root(layer)).quantile(
                1 - LARGE, dim=1, keepdim=True
            )
            for layer in second_order.layers
        }

    @torch.inference_mode()
    def __call__(self) -> None:
        """Run once, adding the seconds of every stage to `seconds`."""
        trace = self._trace
        spent: dict[str, float] = dict.fromkeys(("factors", "norms", "x", "sum", "large"), 0.0)
        for layer in self._second_order.layers:
            root = self._second_order.root(layer)
            factors = self._timed(spent, "factors", lambda layer=layer: trace.factors(layer))
            norms = self._timed(spent, "norms", lambda f=factors, r=root: effect_norms(f, r))
            folded = self._folded[layer]
            self._timed(spent, "x", lambda f=factors, d=folded: inner_products(f, d))
            self._timed(spent, "sum", lambda layer=layer: trace.total(layer))
            mask = norms > self._threshold[layer]
            self._timed(
                spent,
                "large",
                lambda layer=layer, m=mask, f=factors: trace.masked_total(layer, m, factors=f),
            )
        for name, value in spent.items():
            self.seconds.setdefault(name, []).append(value)

    def _timed(self, spent: dict[str, float], name: str, run: Callable[[], Tensor]) -> Tensor:
        start = time.perf_counter()
        result = run()
        if result.is_cuda:
            torch.cuda.synchronize()
        spent[name] += time.perf_counter() - start
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--layers", type=int, nargs="+", help="default: the three before the last")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    model, image = build(options.model, device=options.device, precision="fp32")
    depth = len(model.visual.transformer.resblocks)
    layers = options.layers or list(range(max(0, depth - 4), depth - 1))
    start = time.perf_counter()
    second_order = SecondOrder(model.visual, layers)
    size = sum(root_bytes(model.visual, layer) for layer in layers)
    print(f"layers {layers}: roots {size / 2**20:.0f} MiB in {time.perf_counter() - start:.1f} s")
    images = image.repeat(options.batch, 1, 1, 1).normal_()
    tokens = len(model.visual.positional_embedding)
    kernel = Kernel(
        second_order, filled(second_order, batch=options.batch, tokens=tokens, like=images)
    )
    bare: list[float] = []
    rng = np.random.default_rng(0)
    for _ in range(options.rounds + 2):
        for side in rng.permutation(2):
            if side:
                kernel()
                continue
            began = time.perf_counter()
            with torch.inference_mode():
                model.encode_image(images)
            if images.is_cuda:
                torch.cuda.synchronize()
            bare.append(time.perf_counter() - began)
    base = float(np.median(bare[2:]))
    print(f"bare encode_image: {1e3 * base:.1f} ms, {options.batch / base:.1f} images/s")
    total = 0.0
    for name, seconds in kernel.seconds.items():
        median = float(np.median(seconds[2:]))
        total += median
        print(f"{name:8}{1e3 * median:8.1f} ms{100 * median / base:7.2f} %")
    print(f"{'all':8}{1e3 * total:8.1f} ms{100 * total / base:7.2f} %")


if __name__ == "__main__":
    main()
