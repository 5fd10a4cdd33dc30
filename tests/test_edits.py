"""Edits of maps against literal ones, and pictures that follow them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from disk_zoo import PAIRS, SIDE, Disks, Reader, statistics
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lensbase.ingest.rosetta.editing import edit
from lensbase.ingest.rosetta.edits import (
    EDITS,
    CopyPaste,
    Edit,
    Lower,
    Raise,
    Shift,
    ZoomIn,
    edit_of,
)
from lensbase.ingest.rosetta.inversion import Inversion, Pairs
from lensbase.schema.zoo_errors import BadEdit, BadLatent, BadOptimization, BadPairs, UnknownEdit

Map = npt.NDArray[np.float64]
DISKS, READER = Disks(), Reader()
STATISTICS = statistics()
ALL = Pairs(READER, *PAIRS)  # pyright: ignore[reportArgumentType]
MAPS = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1)).map(
    lambda given: np.random.default_rng(given[2]).normal(size=given[:2])
)


def edited(how: Edit, maps: Map) -> Map:
    return how(torch.tensor(maps)).numpy()


def literal_shift(maps: Map, down: int, right: int) -> Map:
    moved = np.zeros_like(maps)
    for row, column in np.ndindex(*maps.shape):
        if 0 <= row - down < maps.shape[0] and 0 <= column - right < maps.shape[1]:
            moved[row, column] = maps[row - down, column - right]
    return moved


def literal_zoom(maps: Map) -> Map:
    """Each place of a doubled map lies a quarter of a place off one of the old centers."""
    height, width = maps.shape
    found = np.zeros_like(maps)
    for row, column in np.ndindex(height, width):
        y = min(max((row + height // 2 + 0.5) / 2 - 0.5, 0), height - 1)
        x = min(max((column + width // 2 + 0.5) / 2 - 0.5, 0), width - 1)
        top, left = int(y), int(x)
        low, far = min(top + 1, height - 1), min(left + 1, width - 1)
        above = maps[top, left] * (1 - x + left) + maps[top, far] * (x - left)
        below = maps[low, left] * (1 - x + left) + maps[low, far] * (x - left)
        found[row, column] = above * (1 - y + top) + below * (y - top)
    return found


@given(maps=MAPS)
def test_zoom_is_the_center_of_the_doubled_map(maps: Map) -> None:
    assert np.abs(edited(ZoomIn(), maps) - literal_zoom(maps)).max() < 1e-12
    assert (edited(ZoomIn(1.0), maps) == maps).all()


@pytest.mark.parametrize(("side", "places"), [(4, 1), (8, 2), (16, 4)])
def test_a_shift_is_relative_to_the_size_of_the_map(side: int, places: int) -> None:
    maps = np.random.default_rng(side).normal(size=(side, side))
    for right, down in ((1, 0), (-1, 0), (0, 1), (1, -1)):
        moved = edited(Shift(right / 4, down / 4), maps)
        assert (moved == literal_shift(maps, down * places, right * places)).all()


@given(maps=MAPS, right=st.floats(-1, 1), down=st.floats(-1, 1))
def test_a_part_of_a_place_mixes_the_two_nearest(maps: Map, right: float, down: float) -> None:
    rows, columns = down * maps.shape[0], right * maps.shape[1]
    expected = np.zeros_like(maps)
    for row in (math.floor(rows), math.floor(rows) + 1):
        for column in (math.floor(columns), math.floor(columns) + 1):
            share = (1 - abs(rows - row)) * (1 - abs(columns - column))
            expected += share * literal_shift(maps, row, column)
    assert np.abs(edited(Shift(right, down), maps) - expected).max() < 1e-12


@pytest.mark.parametrize("vertical", [False, True])
@given(maps=MAPS)
def test_copy_and_paste_joins_halves_of_two_shifts(vertical: bool, maps: Map) -> None:
    if vertical:
        maps = maps.T
    width = maps.shape[1]
    places = width // 4
    by = places / width
    left, right = literal_shift(maps, 0, -places), literal_shift(maps, 0, places)
    expected = np.concatenate([left[:, : width // 2], right[:, width // 2 :]], 1)
    given_ = maps.T.copy() if vertical else maps
    found = edited(CopyPaste(by, vertical=vertical), given_)
    assert np.abs((found.T if vertical else found) - expected).max() < 1e-12


@given(maps=MAPS)
def test_lower_and_raise_level_a_map_at_its_ends(maps: Map) -> None:
    assert (edited(Lower(), maps) == maps.min()).all()
    assert (edited(Raise(), maps) == maps.max()).all()


@pytest.mark.parametrize("name", list(EDITS))
def test_every_map_of_a_stack_is_edited_by_itself(name: str) -> None:
    how, maps = edit_of(name), np.random.default_rng(1).normal(size=(2, 3, 6, 5))
    whole = edited(how, maps)
    for image, channel in np.ndindex(2, 3):
        assert np.abs(whole[image, channel] - edited(how, maps[image, channel])).max() < 1e-12


def centers(latents: npt.NDArray[np.float32] | Tensor) -> Map:
    return np.asarray(SIDE / 2 + 11 * np.tanh(0.8 * np.asarray(latents)[..., 3:]), np.float64)


def changed(latent: Tensor, change: str, **settings: Any) -> Inversion:
    given_: dict[str, Any] = {"pairs": ALL, "statistics": STATISTICS, "steps": 120, "alpha": 0.02}
    given_ |= settings
    return edit(DISKS, latent, change, **given_)


@pytest.mark.parametrize("maps_from", ["generator", "model"])
@pytest.mark.parametrize(("right", "down"), [(0.25, 0.0), (-0.25, 0.0), (0.0, 0.25)])
def test_a_shifted_map_moves_the_disk(maps_from: str, right: float, down: float) -> None:
    latent = DISKS.sample(4, 2)
    latent[:, 3:] *= 0.3  # in the middle, with room to move
    found = changed(latent, "shift", amounts={"right": right, "down": down}, maps_from=maps_from)
    moved = centers(found.latent) - centers(latent)
    wanted = np.array([right, down]) * SIDE
    assert np.abs(moved - wanted).max() < 3, f"moved by {moved}, asked for {wanted}"
    before = (DISKS.generate(latent) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert (found.targets == before).all()


def test_one_unit_is_lowered_and_another_raised() -> None:
    latent = DISKS.sample(4, 2)
    less = changed(latent, "lower", only=[3]).latent
    more = changed(latent, "raise", only=[3]).latent
    red = latent[:, 0].numpy()
    assert (less[:, 0] < red - 0.5).all()
    assert (more[:, 0] > red + 0.5).all()


def test_copy_and_paste_starts_afresh_and_other_edits_from_the_latent() -> None:
    latent = DISKS.sample(2, 2)
    pasted = changed(latent, "copy-paste", starts=3, start=5, steps=1)
    assert (pasted.latents == DISKS.sample(3, 5).numpy()[None]).all()
    moved = changed(latent, "shift", amounts={"right": 0.25}, steps=1)
    assert (moved.latents[:, 0] == latent.numpy()).all()
    assert changed(latent[0], "zoom", steps=1).latents.shape == (1, 1, 5)


@pytest.mark.parametrize(
    ("change", "settings", "error", "says"),
    [
        ("rotate", {}, UnknownEdit, "there are zoom, shift"),
        ("shift", {"amounts": {"left": 0.1}}, BadEdit, "takes right and down, not 'left'"),
        ("shift", {"amounts": {"right": 2.0}}, BadEdit, "right=2.0"),
        ("shift", {"amounts": {"right": math.nan}}, BadEdit, "right=nan"),
        ("lower", {"amounts": {"by": 1}}, BadEdit, "takes no amount"),
        ("zoom", {"amounts": {"factor": 0.5}}, BadEdit, "factor=0.5"),
        (Shift(0.1), {"amounts": {"right": 0.2}}, BadEdit, "cannot be added"),
        ("zoom", {"pairs": ()}, BadPairs, "no pairs are given"),
        ("zoom", {"only": [5, 6], "pairs": Pairs(READER, [0], [0])}, BadPairs, "none of the pairs"),
        ("zoom", {"pairs": Pairs(READER, [0, 1], [0])}, BadPairs, "one length"),
        ("zoom", {"latent": torch.full((5,), math.nan)}, BadLatent, "no numbers"),
        ("zoom", {"latent": torch.zeros(2, 4)}, BadLatent, "of shape"),
        ("zoom", {"latent": torch.tensor(3.5)}, BadLatent, "of shape"),
        ("zoom", {"latent": torch.zeros(0, 5)}, BadLatent, "does not fit 0 images"),
        ("zoom", {"maps_from": "pixels"}, BadOptimization, "neither"),
        ("zoom", {"steps": 0}, BadOptimization, "steps=0"),
        ("zoom", {"alpha": -1.0}, BadOptimization, "alpha"),
    ],
)
def test_bad_edits_are_named_before_the_first_step(
    change: Any, settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    told: list[int] = []
    given_: dict[str, Any] = {"progress": lambda done, of: told.append(done), **settings}
    with pytest.raises(error, match=says):
        changed(given_.pop("latent", torch.zeros(1, 5)), change, **given_)
    assert not told
