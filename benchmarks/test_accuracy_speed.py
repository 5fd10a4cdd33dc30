"""Zero-shot accuracy after an ablation, beside the bare product of representations and classifier.

50,000 images of 512 dimensions and 1,000 classes. The bare side is `R @ W.T` in float32 with R
already in memory, and nothing else; ours reads R and what the ablation needs from the store, and
finds and counts the classes. After ablating heads, the bare side also reads their values and takes
one product of them. Interleaved pairs, so that a busy machine slows both sides; the
ratio is that of the medians. As a program it prints a table:

    python benchmarks/test_accuracy_speed.py --pairs 15
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large_store import CLASSES, IMAGES, JOINT, WEIGHTS_SHA256, unit_vectors, write_large_store

from lensbase.api import open_store
from lensbase.api.classifier import Classifier
from lensbase.schema.snapshot import open_snapshot

LIMIT = 1.5
ARRAYS = ("representation", "scale", "layer_sum", "layer_total", "head_value", "head_moment")
KINDS: dict[str, Sequence[str]] = {
    "nothing": (),
    "mlp": ["mlp"],
    "attn[:8]": ["attn[:8]"],
    "mlp and attn[:8]": ["mlp", "attn[:8]"],
}
TEN_HEADS = [(layer, head) for layer in (10, 11) for head in range(5)]


def make_classifier() -> Classifier:
    names = [f"class {number}" for number in range(CLASSES)]
    return Classifier(
        classes=names,
        weights=unit_vectors(CLASSES, seed=2),
        templates=["{}"],
        weights_sha256=WEIGHTS_SHA256,
        names=names,
    )


def asked(clip: Any, components: Sequence[str]) -> Callable[[], object]:
    """Our side: accuracy from the store after an ablation."""
    made = make_classifier()
    return lambda: clip.accuracy(made, ablate=components, draws=0).overall


def bare_product(clip: Any) -> Callable[[], object]:
    """The product of representations in memory and the classifier."""
    whole, weights = np.array(clip.representation().values), make_classifier().weights.T
    return lambda: whole @ weights


def product_with_heads(store: Path, clip: Any) -> Callable[[], object]:
    """The same, one read of ten heads' values as float32, and one product of them."""
    product = bare_product(clip)
    snapshot = open_snapshot(store)
    (run,) = snapshot.run_rows()
    array = snapshot.row_arrays(run)["head_value"]
    width = run["head_width"]
    places = [(run["head_layers"].index(layer), head) for layer, head in TEN_HEADS]
    basis = unit_vectors(len(places) * width)

    def bare() -> object:
        values = np.empty((IMAGES, len(basis)), np.float32)
        for number, place in enumerate(places):
            values[:, number * width : (number + 1) * width] = array.read(slice(None), *place)
        return product(), values @ basis

    return bare


def measure(
    bare: Callable[[], object], sides: dict[str, Callable[[], object]], pairs: int
) -> dict[str, tuple[float, float]]:
    """Of each side the median seconds, and their ratio to the bare one's."""
    every = {"bare": bare} | sides
    spent: dict[str, list[float]] = {name: [] for name in every}
    random = np.random.default_rng(0)
    for pair in range(-1, pairs):
        for name in random.permutation(list(every)):
            start = time.perf_counter()
            every[name]()
            if pair >= 0:
                spent[name].append(time.perf_counter() - start)
    base = float(np.median(spent["bare"]))
    found = {name: float(np.median(times)) for name, times in spent.items()}
    return {name: (seconds, seconds / base) for name, seconds in found.items()}


def of_kinds(clip: Any, pairs: int) -> dict[str, tuple[float, float]]:
    sides = {name: asked(clip, components) for name, components in KINDS.items()}
    return measure(bare_product(clip), sides, pairs)


def of_heads(store: Path, clip: Any, pairs: int) -> dict[str, tuple[float, float]]:
    heads = [f"L{layer}.H{head}" for layer, head in TEN_HEADS]
    return measure(product_with_heads(store, clip), {"ten heads": asked(clip, heads)}, pairs)


def report(found: dict[str, tuple[float, float]]) -> None:
    for name, (seconds, ratio) in found.items():
        print(f"{name:20} {seconds:6.3f} s   {ratio:5.2f} of the bare product")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_large_store(tmp_path_factory.mktemp("large") / "s.lens", arrays=ARRAYS)


@pytest.mark.timeout(1800)
def test_kinds_and_slices_cost_little_more_than_the_product(store: Path) -> None:
    with open_store(store) as opened:
        found = of_kinds(opened.run(), pairs=7)
    report(found)
    worst = max(found, key=lambda name: found[name][1])
    assert found[worst][1] <= LIMIT, f"{worst}: {found[worst][1]:.2f} times the bare product"


@pytest.mark.timeout(1800)
def test_heads_cost_one_read_and_one_product_more(store: Path) -> None:
    with open_store(store) as opened:
        found = of_heads(store, opened.run(), pairs=7)
    report(found)
    ratio = found["ten heads"][1]
    assert ratio <= LIMIT, f"{ratio:.2f} times the bare products and the read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    print(f"{IMAGES:,} images of {JOINT} dimensions x {CLASSES:,} classes")
    with tempfile.TemporaryDirectory() as folder:
        path = write_large_store(Path(folder) / "s.lens", arrays=ARRAYS)
        with open_store(path) as opened:
            report(of_kinds(opened.run(), options.pairs))
            print("bare with one read of ten heads' values and one product of them:")
            report(of_heads(path, opened.run(), options.pairs))


if __name__ == "__main__":
    main()
