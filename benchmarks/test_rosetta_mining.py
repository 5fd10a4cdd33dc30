"""What mining costs beside the forward passes and the bare products, and beside the literal loop.

ResNet-50 and ViT-B-16 of random weights (15,168 and 36,864 units), random pictures. The bare side
runs both models on the same batches and takes the same float32 products of operands that are in
memory; ours adds the interpolation, the sums and the neighbors of all units, both ways, whose time
does not depend on the number of images. The literal side (`literal_rosetta`) takes minutes, so it
sees a few images only; its loop's time is proportional to their number.
As a program it prints a table:

    python benchmarks/test_rosetta_mining.py --images 32 --batch 16 --compared 64 --literal-images 4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pytest
import torch
from literal_rosetta import literal_correlations, literal_neighbors
from PIL import Image

from lensbase.ingest.rosetta.mining import Mined, mine_units
from lensbase.ingest.rosetta.mining_plan import plan_mining
from lensbase.ingest.rosetta.sources import load_member
from lensbase.ingest.rosetta.units import Batch, Member

COST_LIMIT = 1.5
SPEED_LIMIT = 10.0
MEMORY = 16 * 10**9
NEIGHBORS = 5
MODELS = ("resnet50=torchvision:resnet50", "vit=timm:vit_base_patch16_224")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Pictures:
    """Random pictures, decoded."""

    pictures: list[Image.Image]
    batch_size: int

    def __len__(self) -> int:
        return len(self.pictures)

    def from_image(self, start: int) -> Iterator[Batch]:
        """Batches from a picture on."""
        for first in range(start, len(self), self.batch_size):
            yield Batch(self.pictures[first : first + self.batch_size])


def random_pictures(count: int, batch_size: int) -> Pictures:
    """Blurred noise, 224 pixels square."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, 24, 24, 3), np.uint8)
    return Pictures([Image.fromarray(one).resize((224, 224)) for one in small], batch_size)


def zoo() -> tuple[Member, Member]:
    first, second = (load_member(spec) for spec in MODELS)
    return first, second


def mined(members: tuple[Member, Member], pictures: Pictures) -> Mined:
    names = members[0].name, members[1].name
    return mine_units(members, pictures, pairs=[names], memory=MEMORY, neighbors=NEIGHBORS)


def bare(members: tuple[Member, Member], pictures: Pictures) -> Callable[[], object]:
    """The forward passes, and the products of random operands of the same shapes."""
    modules = {member.name: member.modules for member in members}
    names = members[0].name, members[1].name
    plan = plan_mining(modules, pairs=[names], neighbors=NEIGHBORS, memory=MEMORY)
    size = pictures.batch_size
    operands: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for tile in plan.passes[0].tiles:
        depth = size * tile.small[0] * tile.small[1]
        shapes = (tile.rows, tile.columns), (tile.rows, depth), (tile.columns, depth)
        operands.append((torch.zeros(shapes[0]), torch.randn(shapes[1]), torch.randn(shapes[2])))

    def run() -> None:
        for batch in pictures.from_image(0):
            for member in members:
                member.maps(batch)
            for total, one, other in operands:
                total.addmm_(one, other.T)

    return run


def timed(
    call: Callable[[], Value], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, Value]:
    start = clock()
    value = call()
    return clock() - start, value


def cost(images: int, batch: int, *, pairs: int) -> tuple[float, list[float], list[float]]:
    """Ratio of the best times, interleaved; and all times of ours and of the bare side."""
    members, pictures = zoo(), random_pictures(images, batch)
    without = bare(members, pictures)
    without()
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(pairs):
        ours.append(timed(lambda: mined(members, pictures))[0])
        theirs.append(timed(without)[0])
    return min(ours) / min(theirs), ours, theirs


@dataclass(frozen=True)
class Comparison:
    """CPU seconds for `images` images, and the share of neighbors that are the literal ones."""

    images: int
    ours: float
    literal: float
    same: float

    def __str__(self) -> str:
        return (
            f"{self.images} images: mining {self.ours:.1f} s, literal {self.literal:.1f} s, "
            f"{self.literal / self.ours:.1f} times; {self.same:.4%} of the matches the same"
        )


def against_literal(images: int, *, few: int, batch: int, literal_batch: int) -> Comparison:
    """Mine `images`; the literal loop over a few of them, whose time grows with their number.

    Time is the processor's, since other work on a shared machine slows one side or the other. A
    match is the same if the literal correlation of the unit found is that of the literal rank to
    1e-5; where neighbors are closer than that, either is right.
    """
    members, pictures = zoo(), random_pictures(images, batch)
    clock = time.process_time
    ours, _ = timed(lambda: mined(members, pictures), clock)
    pictures = Pictures(pictures.pictures[:few], literal_batch)
    found = mined(members, pictures)
    loop, correlations = timed(lambda: literal_correlations(*members, pictures), clock)
    rest, (forward, backward) = timed(lambda: literal_neighbors(correlations, NEIGHBORS), clock)
    (pair,) = found.pairs
    same: list[torch.Tensor] = []
    for neighbors, values, matrix in (
        (pair.forward, forward[0], correlations),
        (pair.backward, backward[0].T, correlations.T),
    ):
        index = torch.from_numpy(neighbors.index).long()
        alive = index[:, 0] >= 0
        there = matrix.gather(1, index.clamp(min=0))
        same.append(((there - values).abs() <= 1e-5)[alive].flatten())
    equal = float(torch.cat(same).double().mean())
    return Comparison(images, ours, loop * images / few + rest, equal)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mining_costs_little_more_than_the_forward_passes_and_the_products() -> None:
    ratio, ours, theirs = cost(32, 16, pairs=3)
    print(f"mining {min(ours):.1f} s, bare {min(theirs):.1f} s: {ratio:.2f}")
    assert ratio <= COST_LIMIT


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mining_is_ten_times_faster_than_the_literal_loop() -> None:
    found = against_literal(64, few=4, batch=16, literal_batch=4)
    print(found)
    assert found.same == 1
    assert found.literal >= SPEED_LIMIT * found.ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--compared", type=int, default=64)
    parser.add_argument("--literal-images", type=int, default=4)
    parser.add_argument("--literal-batch", type=int, default=4)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads")
    if options.images:
        ratio, ours, theirs = cost(options.images, options.batch, pairs=options.pairs)
        print("mining:", *(f"{one:.1f}" for one in ours), "s")
        print("forward passes and products:", *(f"{one:.1f}" for one in theirs), "s")
        print(f"ratio of the best {ratio:.2f}, {options.images} images by {options.batch}")
    if options.literal_images:
        print(
            against_literal(
                options.compared,
                few=options.literal_images,
                batch=options.batch,
                literal_batch=options.literal_batch,
            )
        )


if __name__ == "__main__":
    main()
