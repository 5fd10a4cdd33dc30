"""What mining takes, planned without running it: passes, bytes in memory and on disk."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lensbase.ingest.rosetta.mining_plan import MiningPlan, plan_mining
from lensbase.ingest.rosetta.units import UnitModule
from lensbase.schema.errors import BadQuestion, MemoryTooSmall

GB = 10**9


def model(units: int, grids: list[tuple[int, int]]) -> tuple[UnitModule, ...]:
    share = units // len(grids)
    return tuple(UnitModule(f"m{number}", share, grid) for number, grid in enumerate(grids))


def large_zoo() -> dict[str, tuple[UnitModule, ...]]:
    """Five models of 40,000 units each: three ResNets' grids and two ViTs'."""
    stages = [(56, 56), (28, 28), (14, 14), (7, 7)]
    grids = {"a": stages, "b": stages, "c": stages, "d": [(14, 14)], "e": [(16, 16)]}
    return {name: model(40_000, several) for name, several in grids.items()}


def check(plan: MiningPlan, zoo: Any, pairs: Any, memory: int) -> None:
    """Every product of every pair exactly once, within the budget; sums where they are needed."""
    covered: Counter[Any] = Counter()
    taken: set[Any] = set()
    for one in plan.passes:
        assert one.tiles
        assert one.bytes + plan.kept <= memory
        assert not taken & set(one.sums)
        taken |= set(one.sums)
        for tile in one.tiles:
            assert 0 <= tile.start < tile.stop
            assert set(tile.sums) <= taken
            for row in range(tile.start, tile.stop):
                covered[tile.pair, tile.grids, row] += tile.columns
    count: Counter[Any] = Counter()
    for first, second in pairs:
        for place, module in enumerate(zoo[first]):
            for other in zoo[second][place if first == second else 0 :]:
                for row in range(module.channels):
                    count[(first, second), (module.grid, other.grid), row] += other.channels
    assert covered == count


def test_five_models_of_40_000_units_in_8_gb() -> None:
    zoo = large_zoo()
    pairs = list(combinations(zoo, 2))
    plan = plan_mining(zoo, pairs=pairs, neighbors=5, memory=8 * GB)
    assert plan.bytes == 64 * GB
    # 64 GB of products and 43 MB of sums and neighbors: eight passes would leave those no room.
    assert len(plan.passes) == 9
    assert plan.kept == 43_040_000
    assert plan.peak <= 8 * GB
    assert all(one.bytes + plan.kept <= 8 * GB for one in plan.passes)
    assert plan.forward_passes == 23
    # 10 pairs x 80,000 units x 5 neighbors x 8 bytes, and 17 bytes of statistics a unit.
    assert plan.result == 32_000_000 + 3_400_000
    text = str(plan)
    assert "10 pairs of 5 models: 64 GB of products, 8 GB in memory at a time" in text
    assert "in 9 passes over the images; the results take 35.4 MB on disk" in text
    assert "pass 1 of 9: 6.4 GB of products; a, b" in text
    # In binary gigabytes there is.
    assert len(plan_mining(zoo, pairs=pairs, neighbors=5, memory=8 << 30).passes) == 8


def test_room_for_all_is_one_pass() -> None:
    zoo = large_zoo()
    plan = plan_mining(zoo, pairs=combinations(zoo, 2), neighbors=5, memory=65 * GB)
    assert len(plan.passes) == 1
    assert plan.passes[0].members == ("a", "b", "c", "d", "e")
    assert plan.peak == 64 * GB + plan.kept
    alone = plan_mining(zoo, pairs=[("a", "b")], neighbors=5, memory=65 * GB)
    assert str(alone).startswith("1 pair of 2 models: 6.4 GB of products")
    assert "in 1 pass over the images" in str(alone)


def test_what_leaves_room_does_not_run_one_more_member() -> None:
    zoo = {name: model(1000, [(4, 4)]) for name in "abc"}
    pairs = [("a", "b"), ("b", "c"), ("a", "c")]
    plan = plan_mining(zoo, pairs=pairs, neighbors=1, memory=5_000_000)
    assert [one.members for one in plan.passes] == [("a", "b"), ("b", "c"), ("a", "c")]
    assert [len(one.tiles) for one in plan.passes] == [1, 1, 1]


def test_no_pairs_are_no_passes() -> None:
    plan = plan_mining(large_zoo(), pairs=[], neighbors=5, memory=1000)
    assert plan.passes == ()
    assert plan.bytes == plan.peak == plan.result == 0


modules = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([(1, 1), (2, 3), (3, 2), (4, 4)])),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one[1],
)


@given(zoo=st.lists(modules, min_size=1, max_size=4), extra=st.integers(0, 3000), data=st.data())
def test_any_plan_covers_all_products_once_in_few_passes(zoo: Any, extra: int, data: Any) -> None:
    made = {
        f"n{number}": tuple(UnitModule(f"m{place}", *one) for place, one in enumerate(several))
        for number, several in enumerate(zoo)
    }
    names = [*combinations(made, 2), *((name, name) for name in made)]
    pairs = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    row = 4 * max(module.channels for several in made.values() for module in several)
    kept = plan_mining(made, pairs=pairs, neighbors=3, memory=GB).kept
    plan = plan_mining(made, pairs=pairs, neighbors=3, memory=kept + row + extra)
    check(plan, made, pairs, kept + row + extra)
    # A pass may waste less than one row.
    assert len(plan.passes) <= max(1, -(-plan.bytes // (extra + 1)))


def test_too_little_memory_says_how_much_is_needed() -> None:
    zoo = {"a": model(400, [(2, 2), (3, 3)]), "b": model(300, [(2, 2)])}
    with pytest.raises(MemoryTooSmall, match="1,000 bytes of memory are too few") as caught:
        plan_mining(zoo, pairs=[("a", "b")], neighbors=5, memory=1000)
    needed = int(str(caught.value).split("take ")[1].split(". ")[0].replace(",", ""))
    plan_mining(zoo, pairs=[("a", "b")], neighbors=5, memory=needed)
    with pytest.raises(MemoryTooSmall):
        plan_mining(zoo, pairs=[("a", "b")], neighbors=5, memory=needed - 1)
    with pytest.raises(BadQuestion, match="neighbors=0"):
        plan_mining(zoo, pairs=[("a", "b")], neighbors=0, memory=GB)
