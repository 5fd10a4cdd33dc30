"""TEXTSPAN of a head of 50,000 images, beside Algorithm 1 run literally on its contributions.

By default three of the literal algorithm's 60 steps are timed and the mean is taken 60 times (every
step does the same work); with LENSBASE_BENCH_FULL=1 all 60 are run, some minutes. The literal
side computes in float32, twice as fast as in float64, which lensbase uses. As a program it prints a
table:

    python benchmarks/test_textspan_speed.py --full
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from literal_textspan import Literal, algorithm_1
from pytest_benchmark.fixture import BenchmarkFixture

from lensbase.queries.factors import head_contribution, head_factors, moments
from lensbase.queries.textspan import TextSpan, textspan, textspans

IMAGES = 50_000
TEXTS = 3_498  # of the thesis' pool of general descriptions
PICKS = 60
WIDTH, JOINT = 64, 768  # of a ViT-L-14
LATE = (4, 16)  # its last four layers, and their heads

FROM_MOMENTS = 1_000  # times faster than Algorithm 1
FROM_VALUES = 300  # the same where a selection's moments have to be summed first
ALL_LATE_HEADS = 2.0  # seconds

FULL = os.environ.get("LENSBASE_BENCH_FULL") == "1"
TIMED_STEPS = 3


@dataclass(frozen=True)
class Head:
    """A head as a store holds it: u [K, e], scale [K, 4], basis [e+3, E]."""

    value: npt.NDArray[np.float16]
    scale: npt.NDArray[np.float32]
    basis: npt.NDArray[np.float32]

    def moment(self) -> npt.NDArray[np.float64]:
        """Second moments [2, e+4, e+4] over its images, from stored values."""
        return moments(head_factors(self.value, self.scale), self.scale[:, 2])

    def contributions(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """C [K, E], which Algorithm 1 begins with."""
        basis = self.basis.astype(dtype)
        return head_contribution(head_factors(self.value, self.scale, dtype=dtype), basis)


def make_head(images: int, *, seed: int = 0) -> Head:
    """A head with few strong directions and a long tail, as late heads have."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(WIDTH, WIDTH)) * np.geomspace(1, 0.03, WIDTH)[:, None]
    value = random.normal(size=(images, WIDTH)) @ mixing + random.normal(size=WIDTH)
    scale = np.stack(
        [
            0.05 + 0.02 * random.normal(size=images),
            1 + 0.1 * random.uniform(-1, 1, images),
            1 + 0.2 * random.uniform(-1, 1, images),
            np.zeros(images),
        ],
        axis=1,
    )
    basis = random.normal(size=(WIDTH + 3, JOINT)) / JOINT**0.5
    basis[WIDTH:] *= 0.1  # biases and the LayerNorm's share
    return Head(value.astype(np.float16), scale.astype(np.float32), basis.astype(np.float32))


def make_texts(count: int = TEXTS) -> npt.NDArray[np.float32]:
    """Unit texts with a strong common direction, as CLIP's have."""
    random = np.random.default_rng(1)
    texts = random.normal(size=(count, JOINT)) + random.normal(size=JOINT)
    return (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)


@cache
def literal(*, full: bool = FULL) -> Literal:
    """Algorithm 1 on 50,000 images: all its steps, or three of them."""
    head = make_head(IMAGES)
    steps = PICKS if full else TIMED_STEPS
    return algorithm_1(head.contributions(np.float32), make_texts(), steps, span=head.basis)


def of_selection(head: Head, texts: npt.NDArray[np.float32]) -> TextSpan:
    """What `where=` needs: second moments from stored values, then the picks."""
    return textspan(head.moment(), head.basis, texts, m=PICKS)


def late_heads() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Moments [2, 4, 16, e+4, e+4] and bases [4, 16, e+3, E]."""
    heads = [make_head(2_000, seed=seed) for seed in range(LATE[0] * LATE[1])]
    moment = np.stack([head.moment() for head in heads], axis=1)
    basis = np.stack([head.basis for head in heads])
    return moment.reshape(2, *LATE, *moment.shape[2:]), basis.reshape(*LATE, *basis.shape[1:])


def median(action: Callable[[], object]) -> float:
    """The median of nine runs in seconds, after one that is not counted."""
    action()
    return float(np.median([seconds(action) for _ in range(9)]))


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def test_all_picks_are_those_of_algorithm_1() -> None:
    """60 of 60, where the literal algorithm can be run to its end in float64: 2,000 images."""
    head, texts = make_head(2_000), make_texts()
    wanted = algorithm_1(head.contributions(np.float64), texts, PICKS, span=head.basis)
    assert of_selection(head, texts).picks.tolist() == wanted.picks


@pytest.mark.timeout(1800)
def test_from_moments(benchmark: BenchmarkFixture) -> None:
    head, texts = make_head(IMAGES), make_texts()
    moment = head.moment()
    found = benchmark(lambda: textspan(moment, head.basis, texts, m=PICKS))
    assert len(found.picks) == PICKS
    slow = literal()
    assert found.picks[:TIMED_STEPS].tolist() == slow.picks[:TIMED_STEPS]
    own = median(lambda: textspan(moment, head.basis, texts, m=PICKS))
    ratio = slow.seconds(PICKS) / own
    print(f"Algorithm 1 {slow.seconds(PICKS):.0f} s, from moments {own * 1e3:.1f} ms: {ratio:,.0f}")
    assert ratio >= FROM_MOMENTS


@pytest.mark.timeout(1800)
def test_of_a_selection(benchmark: BenchmarkFixture) -> None:
    head, texts = make_head(IMAGES), make_texts()
    found = benchmark(lambda: of_selection(head, texts))
    assert len(found.picks) == PICKS
    slow = literal()
    own = median(lambda: of_selection(head, texts))
    ratio = slow.seconds(PICKS) / own
    print(f"Algorithm 1 {slow.seconds(PICKS):.0f} s, moments and all {own:.3f} s: {ratio:,.0f}")
    assert ratio >= FROM_VALUES


def test_all_late_heads_of_a_vit_l(benchmark: BenchmarkFixture) -> None:
    moment, basis = late_heads()
    texts = make_texts()
    found = benchmark(lambda: textspans(moment, basis, texts, m=PICKS))
    assert len(found) == LATE[0] * LATE[1]
    own = min(seconds(lambda: textspans(moment, basis, texts, m=PICKS)) for _ in range(3))
    print(f"64 heads from moments: {own:.2f} s")
    assert own < ALL_LATE_HEADS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="run all 60 steps of Algorithm 1")
    options = parser.parse_args()
    head, texts = make_head(IMAGES), make_texts()
    moment = head.moment()
    own = median(lambda: textspan(moment, head.basis, texts, m=PICKS))
    summed = median(lambda: of_selection(head, texts))
    late, bases = late_heads()
    every = min(seconds(lambda: textspans(late, bases, texts, m=PICKS)) for _ in range(3))
    print(
        f"from moments: {own * 1e3:.1f} ms; moments of 50,000 images first: {summed * 1e3:.0f} ms"
    )
    print(f"64 heads from moments: {every:.2f} s")
    slow = literal(full=options.full)
    whole = slow.seconds(PICKS)
    print(f"Algorithm 1, {len(slow.steps)} of {PICKS} steps timed: {whole:.0f} s")
    print(f"ratios: {whole / own:,.0f} from moments, {whole / summed:,.0f} of a selection")


if __name__ == "__main__":
    main()
