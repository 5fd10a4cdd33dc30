"""Best buddies, tuples and concepts against searches that follow the definitions word by word."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbase.queries.best_buddies import Buddies, best_buddies
from lensbase.queries.rosetta_tuples import (
    RosettaTuples,
    best_tuples,
    correlated,
    rosetta_concepts,
    rosetta_tuples,
    strongest_tuples,
    tuple_counts,
    units_in_tuples,
)
from lensbase.schema.errors import BadQuestion

F64 = npt.NDArray[np.float64]


def nearest(correlation: F64, k: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The k nearest of each row, as mining keeps them: -1 and NaN where there are fewer."""
    index = np.full((len(correlation), k), -1, np.int32)
    value = np.full((len(correlation), k), np.nan, np.float32)
    for row, numbers in enumerate(correlation):
        known = np.flatnonzero(~np.isnan(numbers))
        best = known[np.argsort(-numbers[known], kind="stable")][:k]
        index[row, : len(best)], value[row, : len(best)] = best, numbers[best]
    return index, value


def random_correlation(
    random: np.random.Generator, shape: tuple[int, int], *, dead: bool = True
) -> F64:
    found = np.tanh(random.standard_normal(shape))
    if dead:
        found[random.random(shape[0]) < 0.1] = np.nan
        found[:, random.random(shape[1]) < 0.1] = np.nan
    return found


def buddies(correlation: F64, k: int, *, kept: int) -> Buddies:
    forward, values = nearest(correlation, kept)
    backward, _ = nearest(correlation.T, kept)
    return best_buddies(forward, backward, k, correlation=values)


def literal_buddies(correlation: F64, k: int) -> set[tuple[int, int]]:
    """T4.3 by a search over all pairs."""

    def near(numbers: F64, unit: int) -> bool:
        return not np.isnan(numbers[unit]) and np.sum(numbers > numbers[unit]) < k

    return {
        (i, j)
        for i, j in product(*map(range, correlation.shape))
        if near(correlation[i], j) and near(correlation[:, j], i) and correlation[i, j] > 0
    }


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    k=st.integers(1, 5),
    more=st.integers(0, 3),
)
def test_best_buddies_are_those_of_a_search_over_all_pairs(
    seed: int, shape: tuple[int, int], k: int, more: int
) -> None:
    correlation = random_correlation(np.random.default_rng(seed), shape)
    found = buddies(correlation, k, kept=k + more)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == literal_buddies(
        correlation, k
    )
    np.testing.assert_array_equal(
        found.correlation, correlation[found.first, found.second].astype(np.float32)
    )
    for place in range(len(found)):
        i, j = found.first[place], found.second[place]
        assert found.rank_first[place] == 1 + np.sum(correlation[i] > correlation[i, j])
        assert found.rank_second[place] == 1 + np.sum(correlation[:, j] > correlation[i, j])
    other = buddies(correlation.T, k, kept=k + more)
    turned = found.reversed()
    for name in ("first", "second", "correlation", "rank_first", "rank_second"):
        np.testing.assert_array_equal(getattr(turned, name), getattr(other, name))


def test_a_k_larger_than_what_was_kept_takes_what_there_is() -> None:
    correlation = random_correlation(np.random.default_rng(0), (6, 9), dead=False)
    assert len(buddies(correlation, 7, kept=3)) == len(buddies(correlation, 3, kept=3))


def literal_tuples(pairs: list[Buddies], size: int, least: float | None) -> set[tuple[int, ...]]:
    """T4.4 by a product over every anchor unit's buddies."""
    found: set[tuple[int, ...]] = set()
    for anchor in range(size):
        choices = [
            [
                int(one.second[place])
                for place in range(len(one))
                if one.first[place] == anchor and (least is None or one.correlation[place] >= least)
            ]
            for one in pairs
        ]
        found |= {(anchor, *units) for units in product(*choices)}
    return found


def literal_components(units: set[int], edges: set[tuple[int, int]]) -> set[frozenset[int]]:
    left, found = set(units), set[frozenset[int]]()
    while left:
        group, pending = set[int](), [left.pop()]
        while pending:
            unit = pending.pop()
            group.add(unit)
            for i, j in edges:
                for one, other in ((i, j), (j, i)):
                    if one == unit and other in units and other not in group:
                        pending.append(other)
        left -= group
        found.add(frozenset(group))
    return found


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    k=st.integers(1, 4),
    least=st.none() | st.floats(-0.5, 0.9),
)
def test_tuples_and_concepts_are_those_of_the_definitions(
    seed: int, sizes: list[int], k: int, least: float | None
) -> None:
    random, anchor = np.random.default_rng(seed), sizes[0]
    pairs = [buddies(random_correlation(random, (anchor, n)), k, kept=k) for n in sizes[1:]]
    own = random_correlation(random, (anchor, anchor), dead=False)
    own = (own + own.T) / 2
    np.fill_diagonal(own, np.nan)
    selves = buddies(own, k, kept=k)
    found = rosetta_tuples(pairs, min_correlation=least)
    rows = {tuple(row) for row in found.units.tolist()}
    assert len(rows) == len(found)
    assert rows == literal_tuples(pairs, anchor, least)
    for row, said in zip(found.units.tolist(), found.correlations.tolist(), strict=True):
        for pair, unit, number in zip(pairs, row[1:], said, strict=True):
            (place,) = np.flatnonzero((pair.first == row[0]) & (pair.second == unit))
            assert number == pair.correlation[place]

    counts = tuple_counts(correlated(pairs, least))
    assert counts.tolist() == np.bincount(found.units[:, 0], minlength=len(counts)).tolist()

    best = best_tuples(correlated(pairs, least))
    strongest: dict[int, tuple[float, float]] = {}
    for row, said in zip(found.units.tolist(), found.correlations, strict=True):
        strength = (float(said.min()), float(said.sum(dtype=np.float64)))
        strongest[row[0]] = max(strongest.get(row[0], (-1.0, -1.0)), strength)
    assert best.units[:, 0].tolist() == sorted(strongest)
    for row, said in zip(best.units.tolist(), best.correlations, strict=True):
        assert tuple(row) in rows
        assert (float(said.min()), float(said.sum(dtype=np.float64))) == strongest[row[0]]

    concepts = rosetta_concepts(best, selves)
    groups = [
        frozenset(concepts.units[concepts.concept == number].tolist())
        for number in range(concepts.count)
    ]
    edges = set(zip(selves.first.tolist(), selves.second.tolist(), strict=True))
    assert set(groups) == literal_components(set(strongest), edges)
    assert concepts.largest == max(map(len, groups), default=0)
    chosen = best.units[strongest_tuples(best, concepts), 0].tolist()
    order = [max(strongest[unit] for unit in group) for group in groups]
    assert [strongest[unit] for unit in chosen] == order == sorted(order, reverse=True)
    for group, unit in zip(groups, chosen, strict=True):
        assert unit in group

    every = units_in_tuples(correlated(pairs, least), best, concepts, most=10_000)
    for place, units in enumerate(every):
        assert units.tolist() == sorted({row[place] for row in rows})
    few = units_in_tuples(correlated(pairs, least), best, concepts, most=1 + len(pairs) * k)
    if chosen:
        # Room for one unit at least: the strongest concept's.
        assert chosen[0] in few[0]
        assert sum(map(len, few)) <= 1 + len(pairs) * k


def test_a_long_chain_is_one_concept() -> None:
    """Ten thousand units, each the buddy of the next, in random order."""
    order = np.random.default_rng(0).permutation(10_000)
    chain = Buddies(
        np.concatenate([order[:-1], order[1:]]),
        np.concatenate([order[1:], order[:-1]]),
        *(np.ones(19_998, np.float32) for _ in range(3)),  # type: ignore[arg-type]
    )
    tuples = RosettaTuples(np.stack([np.arange(10_000)] * 2, 1), np.ones((10_000, 1), np.float32))
    assert rosetta_concepts(tuples, chain).sizes.tolist() == [10_000]


def test_tuples_take_no_more_memory_than_there_are_tuples() -> None:
    def pair(first: npt.NDArray[np.int64]) -> Buddies:
        ones = np.ones(len(first), np.int64)
        return Buddies(first, np.arange(len(first)), ones.astype(np.float32), ones, ones)

    # All but one unit of the anchor match nothing in the last model.
    many, one = pair(np.repeat(np.arange(2_000), 5)), pair(np.array([1_999]))
    tracemalloc.start()
    found = rosetta_tuples([many, many, many, one])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 125
    assert peak < 2_000_000


def test_too_many_tuples_are_refused_before_they_are_formed() -> None:
    n = 1000
    every = Buddies(
        np.zeros(n, np.int64),
        np.arange(n),
        np.full(n, 0.5, np.float32),
        np.arange(n) + 1,
        np.ones(n, np.int64),
    )
    with pytest.raises(BadQuestion, match=r"1,000,000,000 tuples.*min_correlation="):
        rosetta_tuples([every] * 3)
    assert len(rosetta_tuples([every] * 3, min_correlation=0.6)) == 0
