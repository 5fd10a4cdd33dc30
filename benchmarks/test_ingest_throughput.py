"""What an ingest costs end to end, decoding and writing included, and how much memory it takes.

As a program it prints both tables; each figure comes from real processes on real photographs:

    python benchmarks/test_ingest_throughput.py --images FOLDER --model ViT-B-32
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

SHARED_CORES = 0.85  # of 1 / (1/decode + 1/forward)
MEMORY_GROWTH = 1.10  # peak of ten times the images over that of a tenth

PEAK = """
import json, resource, sys
from lensbase.ingest.job import ingest
ingest(sys.argv[1], sys.argv[2], model="world", run="r", heads="all", limit=int(sys.argv[3]))
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(own))
"""


def rates(images: Path, *, model: str, count: int, workers: int = 1) -> dict[str, float]:
    """Images a second of decoding alone, of the forward pass alone, and of the whole ingest."""
    from lensbase.ingest.decompose import Decomposer, Kept
    from lensbase.ingest.devices import default_threads, fix_threads, free_batch_size
    from lensbase.ingest.job import ingest
    from lensbase.ingest.loading import batches
    from lensbase.ingest.models import load_model
    from lensbase.ingest.sources import open_source

    loaded = load_model(model)
    source = open_source(images, limit=count)
    size = free_batch_size(loaded)
    ranges = [range(start, min(start + size, count)) for start in range(0, count, size)]
    fix_threads(default_threads())
    start = time.perf_counter()
    decoded = list(batches(source, ranges, preprocess=loaded.preprocess, workers=0))
    decoding = time.perf_counter() - start
    layers = tuple(range(loaded.info.layers))
    decompose = Decomposer(loaded.visual, Kept(layers[-4:], tokens=True))
    decompose(decoded[0].images)
    start = time.perf_counter()
    for batch in decoded:
        decompose(batch.images)
    forward = time.perf_counter() - start
    del decoded
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ingest(images, Path(folder) / "s.lens", model=model, limit=count, workers=workers)
        whole = time.perf_counter() - start
        # Loading the model and opening the store are paid once, not for each image.
        start = time.perf_counter()
        ingest(images, Path(folder) / "one.lens", model=model, limit=1, workers=workers)
        fixed = time.perf_counter() - start
    return {
        "decode": count / decoding,
        "forward": count / forward,
        "end to end": count / (whole - fixed),
    }


def share_of_ideal(rate: dict[str, float]) -> float:
    """End to end, as a share of what decoding and forward passes leave on shared cores."""
    return rate["end to end"] * (1 / rate["decode"] + 1 / rate["forward"])


def peak_bytes(images: Path, limit: int) -> int:
    """Peak resident memory of an ingest of that many images, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PEAK, str(images), f"{folder}/s.lens", str(limit)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout)) * 1024


def test_end_to_end_is_near_what_its_parts_leave(imagenet_samples: Path) -> None:
    shares = [
        share_of_ideal(rates(imagenet_samples / "manifest.csv", model="ViT-B-32", count=256))
        for _ in range(3)
    ]
    assert np.median(shares) >= SHARED_CORES, shares


@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_images(cifar10: Path) -> None:
    few, many = peak_bytes(cifar10, 1_000), peak_bytes(cifar10, 10_000)
    assert many <= MEMORY_GROWTH * few, (few, many)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=Path, help="10,000 images, to compare peaks of memory")
    given = parser.parse_args()
    for _ in range(given.rounds):
        rate = rates(given.images, model=given.model, count=given.count)
        told = ", ".join(f"{name} {value:.1f}/s" for name, value in rate.items())
        print(f"{given.model}: {told}; {share_of_ideal(rate):.2f} of 1/(1/decode + 1/forward)")
    if given.memory:
        peaks = [peak_bytes(given.memory, limit) for limit in (1_000, 10_000)]
        few, many = (peak / 2**20 for peak in peaks)
        print(f"peak: {few:.0f} MiB at 1,000, {many:.0f} MiB at 10,000: {many / few:.3f} times")


if __name__ == "__main__":
    main()
