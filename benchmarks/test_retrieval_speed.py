"""How long it takes to find the images that a head tells apart, among 50,000.

Scans of one head of a ViT-B-32: u (64 float16 numbers) and four scalars of each image, 7 MB in all.
Warm: the store is open and has been asked before. Freshly opened: in a process that has imported
lensbase and opened the store, its first question. As a program it prints a table:

    python benchmarks/test_retrieval_speed.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large_store import IMAGES, TEXTS, large_shape, write_large_store
from pytest_benchmark.fixture import BenchmarkFixture

from lensbase.api import open_store
from lensbase.schema.arrays import run_arrays

HEAD = "L10.H5"
WARM = 0.025  # seconds
FRESH = 0.150
GROWTH = 4 << 20  # bytes more at the peak that four times as many images may need
ARRAYS = ("head_value", "scale", "representation")

QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "top_images": lambda head: head.top_images(text=TEXTS[3]),
    "nearest_images": lambda head: head.nearest_images(to=17),
}

FIRST = """
import json, sys, time
from lensbase.api import open_store
start = time.perf_counter()
store = open_store(sys.argv[1])
opened = time.perf_counter()
head = store.run().head(sys.argv[2])
text = sys.argv[4]
found = head.top_images(text=text) if sys.argv[3] == "top_images" else head.nearest_images(to=17)
rows = found.rows()
print(json.dumps([opened - start, time.perf_counter() - opened, len(rows)]))
"""


def scanned_bytes(images: int = IMAGES) -> int:
    """What a scan of one head reads."""
    shape = large_shape(images)
    arrays = run_arrays(shape)
    of_one_head = arrays["head_value"].row_bytes // (len(shape.head_layers) * shape.heads)
    return images * (of_one_head + arrays["scale"].row_bytes)


def warm_seconds(ask: Callable[[Any], Any], head: Any, rounds: int = 15) -> float:
    """The median of some runs, after one that opens the files."""
    ask(head)
    spent: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        ask(head)
        spent.append(time.perf_counter() - start)
    return float(np.median(spent))


def first_seconds(store: Path, question: str, rounds: int = 5) -> tuple[float, float]:
    """Opening a store, and its first question, in processes of their own: medians."""
    spent: list[list[float]] = []
    for _ in range(rounds):
        command = [sys.executable, "-c", FIRST, str(store), HEAD, question, TEXTS[3]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        opening, asking, rows = json.loads(done.stdout)
        assert rows == 10
        spent.append([opening, asking])
    opening, asking = np.median(spent, axis=0)
    return float(opening), float(asking)


def peak_bytes(store: Path, ask: Callable[[Any], Any]) -> int:
    """The most that Python and NumPy hold at once during a question, catalogue apart."""
    with open_store(store) as opened:
        head = opened.run().head(HEAD)
        ask(head)  # the catalogue's rows are read once, and stay
        tracemalloc.start()
        try:
            ask(head)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_store(tmp_path_factory.mktemp("large") / "s.lens", arrays=ARRAYS)


@pytest.fixture
def head(store: Path) -> Iterator[Any]:
    with open_store(store) as opened:
        yield opened.run().head(HEAD)


@pytest.mark.parametrize("question", QUESTIONS)
def test_warm(benchmark: BenchmarkFixture, head: Any, question: str) -> None:
    found = benchmark(QUESTIONS[question], head)
    assert len(found) == 10
    spent = warm_seconds(QUESTIONS[question], head)
    speed = scanned_bytes() / spent / 1e9
    print(f"{question}, warm: {spent * 1e3:.1f} ms, {speed:.2f} GB/s")
    assert spent < WARM


@pytest.mark.parametrize("question", QUESTIONS)
def test_freshly_opened(store: Path, question: str) -> None:
    opening, asking = first_seconds(store, question)
    print(f"{question}: opening {opening * 1e3:.0f} ms, first question {asking * 1e3:.0f} ms")
    assert asking < FRESH


@pytest.mark.parametrize("question", QUESTIONS)
def test_memory_is_bounded_by_chunks(store: Path, tmp_path: Path, question: str) -> None:
    """Four times the images need the same, but for their row numbers (8 bytes each, twice)."""
    fewer = write_large_store(tmp_path / "few.lens", arrays=ARRAYS, images=IMAGES // 4)
    few, many = (peak_bytes(path, QUESTIONS[question]) for path in (fewer, store))
    print(f"{question}: peak {few / 2**20:.1f} MiB of 12,500, {many / 2**20:.1f} MiB of 50,000")
    assert many - few < GROWTH


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = write_large_store(Path(folder) / "s.lens", arrays=ARRAYS)
        for question, ask in QUESTIONS.items():
            with open_store(store) as opened:
                warm = warm_seconds(ask, opened.run().head(HEAD))
            opening, asking = first_seconds(store, question)
            speed, peak = scanned_bytes() / warm / 1e9, peak_bytes(store, ask)
            print(
                f"{question}: warm {warm * 1e3:.1f} ms ({speed:.2f} GB/s), freshly opened "
                f"{asking * 1e3:.0f} ms (opening {opening * 1e3:.0f} ms), peak {peak >> 20} MiB"
            )


if __name__ == "__main__":
    main()
