"""How fast a zoo of five models of 40,000 units answers, and what it takes on disk.

Warm: the store is open and has been asked before; the median of rounds, each about another unit.
The limit is held against the faster quarter, so that other work on the machine does not decide.
As a program it prints a table:

    python benchmarks/test_rosetta_retrieval.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from large_zoo import CHANNELS, MODELS, MODULES, NEIGHBORS, UNITS, write_large_zoo

from lensbase.api import Store, open_store
from lensbase.api.rosetta import RosettaView

LIMIT = 0.005  # seconds, of a unit's partners
ROUNDS = 200

Question = Callable[[RosettaView, str], Any]

QUESTIONS: dict[str, Question] = {
    "partners": lambda zoo, unit: zoo.unit(unit).partners(),
    "partners in one model": lambda zoo, unit: zoo.unit(unit).partners("model0", 1),
    "card": lambda zoo, unit: zoo.unit(unit).info(),
}


def _unit(turn: int) -> str:
    number = turn * 10_007 % UNITS
    return f"model{turn % MODELS}:blocks.{number // CHANNELS % MODULES}.mlp.act/{number % CHANNELS}"


def warm(zoo: RosettaView, question: Question) -> tuple[float, float]:
    """Seconds of a question: the median, and the fastest quarter."""
    spent: list[float] = []
    for turn in range(-2 * MODELS, ROUNDS):
        start = time.perf_counter()
        question(zoo, _unit(turn % ROUNDS))
        if turn >= 0:
            spent.append(time.perf_counter() - start)
    median, quarter = np.quantile(spent, (0.5, 0.25)).tolist()
    return median, quarter


def sizes(path: Path) -> dict[str, float]:
    """MiB of the zoo's arrays, and of the catalogue."""
    arrays = sum(file.stat().st_size for file in (path / "rosetta").rglob("*") if file.is_file())
    catalogue = max(path.glob("catalog/*/lens.duckdb")).stat().st_size
    return {"arrays": arrays / 2**20, "catalogue": catalogue / 2**20}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    layout = write_large_zoo(tmp_path_factory.mktemp("zoo") / "z.lens")
    with open_store(layout.root) as opened:
        yield opened


def test_partners_of_a_unit_take_under_five_milliseconds(store: Store) -> None:
    zoo = store.rosetta()
    median, quarter = warm(zoo, QUESTIONS["partners"])
    print(f"partners: {1e3 * median:.2f} ms, fastest quarter {1e3 * quarter:.2f} ms")
    assert len(zoo.unit(_unit(1)).partners()) >= 3 * (MODELS - 1)
    assert quarter < LIMIT


def test_a_zoo_of_five_large_models_takes_little_room(store: Store) -> None:
    """Arrays are what the neighbors take: two ways, an index and a correlation each."""
    pairs = MODELS * (MODELS - 1) // 2 + 1
    bare = (pairs * 2 * UNITS * NEIGHBORS * 8 + MODELS * UNITS * 17) / 2**20
    found = sizes(store.path)
    print(f"{found} MiB; bare numbers {bare:.0f} MiB")
    assert found["arrays"] < 1.02 * bare
    assert found["catalogue"] < 150


def main() -> None:
    """Print what every question takes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = write_large_zoo(Path(folder) / "z.lens").root
        print(f"written and published in {time.perf_counter() - start:.1f} s: {sizes(path)} MiB")
        with open_store(path) as store:
            start = time.perf_counter()
            zoo = store.rosetta()
            zoo.unit(_unit(0)).partners()
            print(f"first question: {1e3 * (time.perf_counter() - start):.1f} ms")
            for name, question in QUESTIONS.items():
                median, quarter = warm(zoo, question)
                print(f"{name}: {1e3 * median:.2f} ms (fastest quarter {1e3 * quarter:.2f} ms)")
            for name in ("matches", "concepts", "statistics"):
                start = time.perf_counter()
                found = getattr(zoo, name)()
                print(f"{name}: {time.perf_counter() - start:.2f} s, {len(found):,} rows")
            start = time.perf_counter()
            rows = store.sql("SELECT * FROM rosetta_pairs WHERE unit_a = ?", [_unit(3)])
            seconds = time.perf_counter() - start
            print(f"SQL, a unit's pairs: {1e3 * seconds:.1f} ms, {len(rows)} rows")


if __name__ == "__main__":
    main()
