"""What neurons cost beside the bare `encode_image`, on the same batches in memory.

*Project*: heads and tokens of all layers and every number that a run keeps of the neurons of the
three layers before the last (norms, coefficients, sums over all and over the large ones), as an
ingest computes them. *Fit*, once for a run, over its reference set alone: two passes, `observe` and
`select`. Rounds are interleaved as in `test_forward_cost`. As a program it prints a table, and the
stages of the projection each on its own:

    python benchmarks/test_neuron_ingest_cost.py --models ViT-B-32 --batch 16 --pairs 30

With `--busy` it computes in one thread and counts its own processor time, for a machine on which
others compute too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from test_forward_cost import BATCH, MARGIN, Cost, build, interleaved
from torch import Tensor

from lensbase.ingest.decompose import Decomposer, Kept
from lensbase.ingest.neuron_fit import NeuronFit
from lensbase.ingest.neuron_projection import NeuronEffects, Projection
from lensbase.ingest.second_order import SecondOrder, Trace, effect_norms, inner_products

MODELS = ("ViT-B-32", "ViT-B-16")
LIMIT = 1.25
REFERENCE = 128  # images at least: more than the 100 of largest effect that each neuron keeps

Pass = Callable[[Tensor], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Fitted:
    """A model's neurons, fitted to random images, and what that cost."""

    layers: tuple[int, ...]
    second_order: SecondOrder
    projection: Projection
    observe: Cost
    select: Cost
    prepared: float  # seconds for the roots
    ended: float  # seconds for means, directions and thresholds

    @property
    def per_image(self) -> float:
        """Both passes over a reference image, in bare ones."""
        return self.observe.ratio + self.select.ratio


@dataclass(frozen=True)
class Measured:
    """One model's costs: with heads and tokens alone, with neurons too, and of the fit."""

    without: Cost
    neurons: Cost
    fit: Fitted
    large: float  # share of the norms above their thresholds
    stages: dict[str, float]  # seconds a batch


def measure(
    name: str, *, batch: int, pairs: int, device: str = "cpu", clock: Clock = time.perf_counter
) -> Measured:
    model, image = build(name, device=device, precision="fp32")
    images = torch.randn((batch, *image.shape[1:]), device=device)
    fitted = _fit(model, images, clock)
    everything = tuple(range(len(model.visual.transformer.resblocks)))
    decompose = Decomposer(model.visual, Kept(everything, tokens=True))

    def all_three(batch: Tensor) -> NeuronEffects:
        trace = fitted.second_order.trace()
        decompose(batch, trace)
        return fitted.projection(trace)

    sides: dict[str, Pass] = {"bare": _bare(model), "without": decompose, "neurons": all_three}
    costs = interleaved(sides, images, pairs=pairs, clock=clock)
    large = float(all_three(images).large.float().mean())
    stages = _stages(model, fitted, images, clock=clock)
    return Measured(costs["without"], costs["neurons"], fitted, large, stages)


def _bare(model: Any) -> Pass:
    def run(images: Tensor) -> object:
        with torch.inference_mode():
            return model.encode_image(images)

    return run


def _fit(model: Any, images: Tensor, clock: Clock) -> Fitted:
    depth = len(model.visual.transformer.resblocks)
    layers = tuple(range(max(0, depth - 4), depth - 1))
    start = clock()
    second_order = SecondOrder(model.visual, layers)
    prepared = clock() - start
    fit, decompose = NeuronFit(second_order), Decomposer(model.visual, Kept())
    rows = (torch.arange(first, first + len(images)) for first in count(0, len(images)))

    def traced(batch: Tensor) -> Trace:
        trace = second_order.trace()
        decompose(batch, trace)
        return trace

    passes: dict[str, Pass] = {
        "observe": lambda batch: fit.observe(traced(batch)),
        "select": lambda batch: fit.select(traced(batch), next(rows)),
    }
    rounds = -(-REFERENCE // len(images)) + 1  # the first only warms up
    costs: dict[str, Cost] = {}
    for name, one in passes.items():
        sides = {"bare": _bare(model), name: one}
        costs |= interleaved(sides, images, pairs=rounds, warm=1, clock=clock)
    start = clock()
    found = {layer: fit.fitted(layer) for layer in layers}
    ended = clock() - start
    return Fitted(
        layers,
        second_order,
        Projection(second_order, found, stored=torch.float16),
        costs["observe"],
        costs["select"],
        prepared,
        ended,
    )


@torch.inference_mode()
def _stages(
    model: Any, fitted: Fitted, images: Tensor, *, clock: Clock, rounds: int = 9
) -> dict[str, float]:
    """Median seconds of the projection's stages, all layers together."""
    second_order = fitted.second_order
    trace = second_order.trace()
    Decomposer(model.visual, Kept())(images, trace)
    large = fitted.projection(trace).large
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        seconds: dict[str, float] = {}
        for place, layer in enumerate(fitted.layers):
            factors, root = trace.factors(layer), second_order.root(layer)
            folded = fitted.projection._folded[layer]
            stages: dict[str, Callable[[], Tensor]] = {
                "factors": lambda layer=layer: trace.factors(layer),
                "norms": lambda f=factors, r=root: effect_norms(f, r),
                "coefficients": lambda f=factors, d=folded: inner_products(f, d),
                "sum": lambda layer=layer: trace.total(layer),
                "large": lambda layer=layer, m=large[:, place], f=factors: trace.masked_total(
                    layer, m, factors=f
                ),
            }
            for name, run in stages.items():
                start = clock()
                run()
                if images.is_cuda:
                    torch.cuda.synchronize()
                seconds[name] = seconds.get(name, 0.0) + clock() - start
        for name, value in seconds.items():
            spent.setdefault(name, []).append(value)
    return {name: float(np.median(values)) for name, values in spent.items()}


def _report(name: str, found: Measured) -> str:
    fit, bare = found.fit, found.neurons.bare_seconds
    size = sum(fit.second_order.root(layer).nbytes for layer in fit.layers)
    stages = ", ".join(f"{stage} {100 * s / bare:.2f}" for stage, s in found.stages.items())
    return (
        f"{name}, layers {fit.layers}: heads and tokens {found.without.ratio:.3f} "
        f"({found.without.upper:.3f}), with neurons {found.neurons.ratio:.3f} "
        f"({found.neurons.upper:.3f}); {found.large:.1%} of norms large; bare {1e3 * bare:.0f} ms\n"
        f"  of the bare pass, %: {stages}\n"
        f"  fit: {fit.per_image:.2f} bare passes a reference image (observe "
        f"{fit.observe.ratio:.3f}, select {fit.select.ratio:.3f}), roots {size / 2**20:.0f} MiB "
        f"in {fit.prepared:.1f} s, directions in {fit.ended:.1f} s"
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.timeout(3600)
def test_neurons_cost_little_more_than_the_bare_pass(name: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = BATCH[name] * (8 if device == "cuda" else 1)
    found = measure(name, batch=batch, pairs=30, device=device)
    print("\n" + _report(f"{name} on {device}", found))
    assert found.neurons.ratio <= LIMIT
    assert found.neurons.upper <= LIMIT + MARGIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", type=int, help="images a batch (default: by model)")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--busy", action="store_true", help="one thread, its processor time")
    options = parser.parse_args()
    clock = time.process_time if options.busy else time.perf_counter
    if options.busy:
        torch.set_num_threads(1)
    for name in options.models:
        batch = options.batch or BATCH.get(name, 8)
        found = measure(name, batch=batch, pairs=options.pairs, device=options.device, clock=clock)
        print(_report(name, found), flush=True)


if __name__ == "__main__":
    main()
