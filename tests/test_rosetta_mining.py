"""Mining against correlations computed as they are written, in float64 (to 1e-5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_mining import brute_force, literal_correlations, literal_statistics
from mined_members import GivenMaps, HeldPictures, TinyNetwork, numbered_pictures
from torch import Tensor
from torch.nn import functional as F

from lensbase.ingest.rosetta.interpolation import interpolation_matrix
from lensbase.ingest.rosetta.mining import Mined, mine_units
from lensbase.ingest.rosetta.mining_plan import plan_mining
from lensbase.ingest.rosetta.neighbors import Neighbors, largest
from lensbase.schema.errors import ImagesChanged, MemoryTooSmall, NoImages
from lensbase.schema.zoo_errors import BadZooPairs, MapsMismatch, MapsNotFinite

IMAGES = 23
CLOSE = 1e-5
PLENTY = 1 << 30
FIRST_GRIDS = [(5, (7, 7)), (4, (4, 4)), (6, (7, 7)), (3, (6, 2)), (2, (1, 1))]
SECOND_GRIDS = [(6, (4, 4)), (7, (7, 7)), (4, (3, 8)), (3, (2, 2))]


def random_maps(layers: Sequence[tuple[int, tuple[int, int]]], seed: int) -> list[Tensor]:
    """Maps that correlate: mixtures of a few common ones, with offsets, scales and a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn((IMAGES, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    maps: list[Tensor] = []
    for channels, grid in layers:
        mixing = torch.randn((channels, 4), generator=generator)
        own = F.interpolate(torch.einsum("ck,nkhw->nchw", mixing, common), grid, mode="area")
        own = own + 0.5 * torch.randn(own.shape, generator=generator)
        scale = 10 ** (4 * torch.rand((channels, 1, 1), generator=generator) - 2)
        offset = 20 * torch.randn((channels, 1, 1), generator=generator)
        maps.append(((own + 0.3).relu() + offset) * scale)
    return maps


def mine(first: Sequence[Tensor], second: Sequence[Tensor], size: int, **options: Any) -> Mined:
    members = [GivenMaps("a", first), GivenMaps("b", second)]
    pictures = HeldPictures(numbered_pictures(len(first[0])), size)
    options = {"memory": PLENTY, "pairs": [("a", "b")]} | options
    return mine_units(members, pictures, **options)


def assert_neighbors(found: Neighbors, correlations: Any, neighbors: int) -> None:
    """The ranks' correlations to 1e-5, and each unit at its rank unless two are that close."""
    index, values = brute_force(correlations, neighbors)
    np.testing.assert_array_equal(found.index == -1, index == -1)
    np.testing.assert_allclose(found.correlation, values, rtol=0, atol=CLOSE)
    rows = np.arange(len(index))[:, None]
    claimed = np.where(found.index == -1, np.nan, correlations[rows, found.index])
    np.testing.assert_allclose(claimed, values, rtol=0, atol=CLOSE)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in found.index)


def assert_same(one: Mined, other: Mined, *, atol: float = 0.0) -> None:
    assert one.statistics.keys() == other.statistics.keys()
    for name, ours in one.statistics.items():
        theirs = other.statistics[name]
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=atol, atol=atol)
        np.testing.assert_allclose(ours.variance, theirs.variance, rtol=atol)
        np.testing.assert_array_equal(ours.dead, theirs.dead)
    assert [(p.first, p.second) for p in one.pairs] == [(p.first, p.second) for p in other.pairs]
    for ours, theirs in zip(one.pairs, other.pairs, strict=True):
        for way in ("forward", "backward"):
            mine, yours = getattr(ours, way), getattr(theirs, way)
            np.testing.assert_allclose(mine.correlation, yours.correlation, rtol=0, atol=atol)
            np.testing.assert_array_equal(mine.index, yours.index)


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    larger=st.tuples(st.integers(0, 40), st.integers(0, 40)),
)
def test_the_matrices_are_torchs_interpolation(sizes: Any, larger: Any) -> None:
    h, w = sizes
    H, W = h + larger[0], w + larger[1]
    maps = torch.rand((2, 3, h, w), dtype=torch.float64)
    ours = interpolation_matrix(h, H) @ maps @ interpolation_matrix(w, W).T
    theirs = F.interpolate(maps, (H, W), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [1, 3, 7, IMAGES])
def test_correlations_are_the_literal_ones_whatever_the_batch_size(size: int) -> None:
    first, second = random_maps(FIRST_GRIDS, 1), random_maps(SECOND_GRIDS, 2)
    mined = mine(first, second, size, neighbors=20)
    correlations = literal_correlations(first, second)
    (pair,) = mined.pairs
    assert (pair.first, pair.second) == ("a", "b")
    assert_neighbors(pair.forward, correlations, 20)
    assert_neighbors(pair.backward, correlations.T, 20)
    assert np.nanmax(pair.forward.correlation) > 0.5
    for name, maps in (("a", first), ("b", second)):
        mean, variance = literal_statistics(maps)
        np.testing.assert_allclose(mined.statistics[name].mean, mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mined.statistics[name].variance, variance, rtol=1e-5)
        assert not mined.statistics[name].dead.any()


@settings(max_examples=25)
@given(data=st.data(), size=st.integers(1, IMAGES), neighbors=st.integers(1, 9))
def test_any_grids_and_channels(data: st.DataObject, size: int, neighbors: int) -> None:
    layer = st.tuples(st.integers(1, 6), st.tuples(st.integers(1, 9), st.integers(1, 9)))
    layers = [data.draw(st.lists(layer, min_size=1, max_size=4)) for _ in range(2)]
    first, second = random_maps(layers[0], 3), random_maps(layers[1], 4)
    (pair,) = mine(first, second, size, neighbors=neighbors).pairs
    correlations = literal_correlations(first, second)
    dead = [literal_statistics(one)[1] < 1e-9 for one in (first, second)]
    correlations[dead[0]] = np.nan
    correlations[:, dead[1]] = np.nan
    assert_neighbors(pair.forward, correlations, neighbors)
    assert_neighbors(pair.backward, correlations.T, neighbors)


def test_large_offsets_and_tiny_scales_lose_nothing() -> None:
    first = [one * 1e-12 for one in random_maps(FIRST_GRIDS, 1)]
    second = random_maps(SECOND_GRIDS, 2)
    second = [one / one.std((0, 2, 3), keepdim=True) + 3000 for one in second]
    (pair,) = mine(first, second, 4).pairs
    correlations = literal_correlations(first, second)
    assert_neighbors(pair.forward, correlations, 5)
    assert_neighbors(pair.backward, correlations.T, 5)


def test_many_batches_of_one_image_add_up_to_float64() -> None:
    generator = torch.Generator().manual_seed(5)
    first = [torch.rand((3000, 6, 2, 2), generator=generator) ** 4]
    second = [0.3 * first[0][:, :4] + torch.rand((3000, 4, 2, 2), generator=generator) + 7]
    (pair,) = mine(first, second, 1).pairs
    assert_neighbors(pair.forward, literal_correlations(first, second), 5)


def test_a_member_with_itself_excludes_each_unit_itself() -> None:
    maps = random_maps(FIRST_GRIDS, 1)
    mined = mine(maps, random_maps(SECOND_GRIDS, 2), 5, pairs=[("a", "a")])
    assert set(mined.statistics) == {"a"}
    (pair,) = mined.pairs
    assert pair.forward is pair.backward
    correlations = literal_correlations(maps, maps)
    np.fill_diagonal(correlations, np.nan)
    assert_neighbors(pair.forward, correlations, 5)


def test_dead_units_are_flagged_and_never_matched() -> None:
    first, second = random_maps(FIRST_GRIDS, 1), random_maps(SECOND_GRIDS, 2)
    first[0][:, 2] = 0.0
    first[1][:, 0] = -0.17
    second[1][:, 5] = 1234.5678
    second[1][:, 4] = 1e6 + torch.rand(second[1][:, 4].shape)  # sixteen levels: rounding
    mined = mine(first, second, 4, neighbors=20)
    assert mined.statistics["a"].dead.nonzero()[0].tolist() == [2, 5]
    assert mined.statistics["b"].dead.nonzero()[0].tolist() == [10, 11]
    (pair,) = mined.pairs
    correlations = literal_correlations(first, second)
    correlations[[2, 5]] = np.nan
    correlations[:, [10, 11]] = np.nan
    assert_neighbors(pair.forward, correlations, 20)
    assert_neighbors(pair.backward, correlations.T, 20)
    assert (pair.forward.index[[2, 5]] == -1).all()
    assert not np.isin(pair.forward.index, [10, 11]).any()


def test_equal_units_are_in_the_order_of_their_index() -> None:
    second = random_maps([(9, (4, 4))], 2)
    second[0][:, [1, 4, 6, 8]] = second[0][:, [0]]
    (pair,) = mine([second[0][:, :1] * 2], second, 4, neighbors=3).pairs
    assert pair.forward.index.tolist() == [[0, 1, 4]]
    twice = mine([second[0][:, :1]], [second[0], second[0]], 4, neighbors=7).pairs[0]
    assert twice.forward.index.tolist() == [[0, 1, 4, 6, 8, 9, 10]]


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=11, max_size=11), min_size=1, max_size=5),
    st.integers(1, 12),
)
def test_the_largest_of_a_row_with_ties(rows: list[list[int]], count: int) -> None:
    values, places = largest(torch.tensor(rows, dtype=torch.float32), count)
    for row, got, where in zip(rows, values.tolist(), places.tolist(), strict=True):
        want = sorted(range(11), key=lambda place: (-row[place], place))[:count]
        assert where == want
        assert got == [row[place] for place in want]


@pytest.mark.parametrize("share", [1.6, 3, 11])
def test_a_tiled_run_finds_the_same(share: float) -> None:
    first, second = random_maps(FIRST_GRIDS, 1), random_maps(SECOND_GRIDS, 2)
    pairs = [("a", "b"), ("a", "a")]
    said: list[str] = []
    zoo = {"a": GivenMaps("a", first).modules, "b": GivenMaps("b", second).modules}
    plan = plan_mining(zoo, pairs=pairs, neighbors=2, memory=PLENTY)
    memory = plan.kept + int(plan.bytes / share)
    whole = mine(first, second, 6, pairs=pairs, neighbors=2)
    tiled = mine(first, second, 6, pairs=pairs, neighbors=2, memory=memory, notice=said.append)
    assert whole.passes == 1
    assert tiled.passes >= share
    assert f"in {tiled.passes} passes over the images" in said[0]
    assert_same(tiled, whole, atol=1e-6)


def test_a_member_added_later_finds_the_same_bits() -> None:
    pictures = numbered_pictures(IMAGES)
    members = [
        TinyNetwork("a", [(5, (8, 8)), (6, (4, 4))], 1),
        TinyNetwork("b", [(4, (8, 8)), (7, (5, 3))], 2),
        TinyNetwork("c", [(6, (2, 2)), (3, (16, 16))], 3),
    ]
    options: dict[str, Any] = {"memory": PLENTY, "neighbors": 4}
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    whole = mine_units(members, HeldPictures(pictures, 6), pairs=pairs, **options)
    before = mine_units(members[:2], HeldPictures(pictures, 6), pairs=pairs[:1], **options)
    after = mine_units(members, HeldPictures(pictures, 6), pairs=pairs[1:], **options)
    together = Mined(before.statistics | after.statistics, before.pairs + after.pairs, 1)
    assert_same(together, whole)


def test_members_run_once_a_batch_and_those_in_no_pair_not_at_all() -> None:
    maps = [random_maps(FIRST_GRIDS[:2], seed) for seed in range(4)]
    members = [GivenMaps(name, one) for name, one in zip("abcd", maps, strict=True)]
    pictures = HeldPictures(numbered_pictures(IMAGES), 16)
    done: list[tuple[int, int]] = []
    mine_units(
        members,
        pictures,
        pairs=[("a", "b"), ("c", "a"), ("b", "c"), ("b", "b")],
        memory=PLENTY,
        progress=lambda *both: done.append(both),
    )
    assert [one.calls for one in members] == [2, 2, 2, 0]
    assert pictures.served == 2
    assert done == [(16, IMAGES), (IMAGES, IMAGES)]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e30])
@pytest.mark.parametrize("image", [3, 20])
def test_maps_that_are_not_finite_are_named(value: float, image: int) -> None:
    first, second = random_maps(FIRST_GRIDS, 1), random_maps(SECOND_GRIDS, 2)
    second[2][image, 3, 1, 1] = value
    with pytest.raises(MapsNotFinite, match=r"b:m2/3 is NaN, infinite or too large"):
        mine(first, second, 4)


def test_bad_input_is_named() -> None:
    first, second = random_maps(FIRST_GRIDS, 1), random_maps(SECOND_GRIDS, 2)
    with pytest.raises(BadZooPairs, match="needs 'c'; models: a, b"):
        mine(first, second, 4, pairs=[("a", "c")])
    with pytest.raises(BadZooPairs, match="named twice"):
        mine(first, second, 4, pairs=[("a", "b"), ("b", "a")])
    with pytest.raises(MemoryTooSmall, match="Allow more memory"):
        mine(first, second, 4, memory=100)
    with pytest.raises(NoImages):
        mine_units([GivenMaps("a", first)], HeldPictures([], 4), pairs=[("a", "a")], memory=PLENTY)
    with pytest.raises(BadZooPairs, match="same name"):
        mine_units(
            [GivenMaps("a", first), GivenMaps("a", second)],
            HeldPictures(numbered_pictures(3), 4),
            pairs=[("a", "a")],
            memory=PLENTY,
        )


def test_maps_that_are_not_as_declared_are_named() -> None:
    member = GivenMaps("a", random_maps(FIRST_GRIDS, 1))
    member.given[1] = member.given[1][:, :, :3]
    with pytest.raises(MapsMismatch, match=r"a:m1 gives maps \(4, 4, 3, 4\) for 4 images"):
        mine_units(
            [member], HeldPictures(numbered_pictures(8), 4), pairs=[("a", "a")], memory=PLENTY
        )


def test_pictures_that_go_missing_are_an_error() -> None:
    class Fewer(HeldPictures):
        def from_image(self, start: int) -> Any:
            return HeldPictures(self.pictures[:10], self.batch_size).from_image(start)

    member = GivenMaps("a", random_maps(FIRST_GRIDS, 1))
    with pytest.raises(ImagesChanged, match="23 pictures, and 10 came"):
        mine_units([member], Fewer(numbered_pictures(IMAGES), 4), pairs=[("a", "a")], memory=PLENTY)
