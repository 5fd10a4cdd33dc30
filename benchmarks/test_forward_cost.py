"""What heads and tokens cost beside the bare `encode_image`, on the same batches in memory.

Interleaved pairs of batches, each pair in a new order, so that a busy machine slows both sides;
the ratio of the medians with a bootstrap interval over pairs. As a program it prints a table:

    python benchmarks/test_forward_cost.py --models ViT-B-32 ViT-L-14 --batch 16 --pairs 30
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.factory import get_model_config
from open_clip.model import CLIP, convert_weights_to_lp

from lensbase.ingest.decompose import Decomposer, Kept

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14")
LIMITS = {"heads": 1.03, "heads and tokens": 1.15}
MARGIN = 0.03  # how far the upper 95 % bound may lie above the limit
BATCH = {"ViT-B-32": 32, "ViT-B-16": 16, "ViT-L-14": 8}


@dataclass(frozen=True)
class Cost:
    """A ratio of medians to the bare pass, and the bound that 95 % of resamples stay under."""

    ratio: float
    upper: float
    seconds: float
    bare_seconds: float


def build(name: str, *, device: str, precision: str) -> tuple[Any, torch.Tensor]:
    """A model of random weights, without most of its text tower, and one image."""
    config: Any = get_model_config(name)
    config["text_cfg"] |= {"layers": 1, "vocab_size": 9}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = CLIP(**config, cast_dtype=None if dtype == torch.float32 else dtype)
    model.eval().requires_grad_(requires_grad=False).to(device)
    if precision == "bf16":
        convert_weights_to_lp(model, dtype=dtype)
    side = config["vision_cfg"]["image_size"]
    return model, torch.zeros((1, 3, side, side), dtype=dtype, device=device)


def measure(
    name: str, *, batch: int, pairs: int, device: str = "cpu", precision: str = "fp32"
) -> dict[str, Cost]:
    model, image = build(name, device=device, precision=precision)
    layers = tuple(range(len(model.visual.transformer.resblocks)))
    images = torch.randn((batch, *image.shape[1:]), dtype=image.dtype, device=device)

    def bare(images: torch.Tensor) -> object:
        with torch.inference_mode():
            return model.encode_image(images)

    sides: dict[str, Callable[[torch.Tensor], object]] = {
        "bare": bare,
        "heads": Decomposer(model.visual, Kept(layers)),
        "heads and tokens": Decomposer(model.visual, Kept(layers, tokens=True)),
    }
    return interleaved(sides, images, pairs=pairs)


def interleaved(
    sides: dict[str, Callable[[torch.Tensor], object]],
    images: torch.Tensor,
    *,
    pairs: int,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """What every side but "bare" costs beside it: all of them in each round, in a new order."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    rng = np.random.default_rng(0)
    for pair in range(-warm, pairs):
        images.normal_()
        for side in rng.permutation(list(sides)):
            spent = _seconds(sides[side], images, clock)
            if pair >= 0:
                seconds[side].append(spent)
    base = np.array(seconds["bare"])
    return {side: _cost(np.array(seconds[side]), base, rng) for side in sides if side != "bare"}


def _seconds(
    run: Callable[[torch.Tensor], object], images: torch.Tensor, clock: Callable[[], float]
) -> float:
    if images.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    run(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def _cost(seconds: Any, base: Any, rng: np.random.Generator) -> Cost:
    rows = rng.integers(0, len(base), (5000, len(base)))
    resampled = np.median(seconds[rows], axis=1) / np.median(base[rows], axis=1)
    median, bare = float(np.median(seconds)), float(np.median(base))
    return Cost(median / bare, float(np.quantile(resampled, 0.95)), median, bare)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.timeout(3600)
def test_heads_and_tokens_cost_little_more_than_the_bare_pass(name: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = BATCH[name] * (8 if device == "cuda" else 1)
    for side, cost in measure(name, batch=batch, pairs=30, device=device).items():
        print(f"{name} on {device}: {side} {cost.ratio:.3f}, upper bound {cost.upper:.3f}")
        assert cost.ratio <= LIMITS[side]
        assert cost.upper <= LIMITS[side] + MARGIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", type=int, help="images a batch (default: by model)")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    print("model       images/s bare   heads (95 %)     heads and tokens (95 %)")
    for name in options.models:
        batch = options.batch or BATCH.get(name, 8)
        costs = measure(
            name,
            batch=batch,
            pairs=options.pairs,
            device=options.device,
            precision=options.precision,
        )
        speed = batch / costs["heads"].bare_seconds
        columns = "   ".join(f"{cost.ratio:.3f} ({cost.upper:.3f})" for cost in costs.values())
        print(f"{name:12}{speed:10.1f}       {columns}", flush=True)


if __name__ == "__main__":
    main()
