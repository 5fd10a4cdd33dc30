"""Verifying neurons: what is damaged is named, with the way out; what does not follow is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from commands import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from world_store import FEW, ingest_scenes, neuron_rows

from lensbase.api.copying import copy_store
from lensbase.api.finalizing import finalize_run
from lensbase.api.identities import Findings, broken_identities, inconsistent_rows
from lensbase.api.neuron_identities import (
    _ROUNDING,  # pyright: ignore[reportPrivateUsage]
    _check_effects,  # pyright: ignore[reportPrivateUsage]
)
from lensbase.api.verify import forget_damaged, verify
from lensbase.ingest.recheck import differences
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.arrays import run_arrays, write_static
from lensbase.schema.by_neuron import SHARD_NEURONS, extent_arrays, extents, top_arrays
from lensbase.schema.catalog import current_generation
from lensbase.schema.layout import Layout
from lensbase.schema.shards import RowArray, encode_shard, shard_path
from lensbase.schema.snapshot import open_snapshot, read_static, run_shape

Change = Callable[[Any], Any]


@pytest.fixture(scope="module")
def scenes_few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_scenes(folder, count=40, seed=5)
    return folder


@pytest.fixture(scope="module")
def whole(scenes_few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "s.lens"
    options: dict[str, Any] = FEW | {"neurons": "5,6"}
    assert ingest_scenes(scenes_few, path, **options).complete
    report = verify(path, level="model", sample=16)
    assert report.ok, str(report)
    assert problems(path) == []
    return path


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "s.lens"
    shutil.copytree(whole, path, symlinks=True)
    return path


# Damage, and the way out


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("lost", ["a byte", "a file", "the manifest"])
def test_numbers_by_neuron_are_written_again(store: Path, whole: Path, lost: str) -> None:
    layout = Layout(store)
    (label,) = [path.name for path in layout.by_neuron("r").glob("top-*")]
    shard = next(
        path for path in (layout.by_neuron("r") / label / "norm").rglob("0*") if path.is_file()
    )
    manifest = layout.by_neuron_manifest("r", int(label.removeprefix("top-")))
    if lost == "a byte":
        flip(shard)
    else:
        (shard if lost == "a file" else manifest).unlink()
    report = verify(store, level="checksums")
    assert [(one.segment, one.finalized) for one in report.problems] == [(None, True)]
    assert f"lensbase finalize {store} --run r" in report.problems[0].remedy
    assert forget_damaged(store, report) == [("r", None)]
    finalize_run(store, "r")
    assert verify(store, sample=1024).ok
    assert neuron_rows(store) == neuron_rows(whole)


def test_the_command_says_what_to_do_next(store: Path) -> None:
    (top,) = Layout(store).by_neuron("r").glob("top-*")
    shutil.rmtree(top)
    result = invoke("verify", store, "--forget")
    assert result.exit_code == 1
    assert f"Run r is to be completed again: lensbase finalize {store} --run r" in result.stderr
    assert invoke("finalize", store, "--run", "r").exit_code == 0
    assert invoke("verify", store).exit_code == 0


def test_a_segment_s_neurons_are_redone_and_fitted_ones_are_not(
    store: Path, whole: Path, scenes_few: Path
) -> None:
    layout = Layout(store)
    specs = run_arrays(run_shape(open_snapshot(store).run_rows()[0]))
    flip(shard_path(layout.arrays("r") / "neuron_norm", specs["neuron_norm"], 1))
    layout.peak_rows("r", 2).unlink()
    report = verify(store)
    assert [one.segment for one in report.problems] == [1, 2]
    forget_damaged(store, report)
    said: list[str] = []
    options: dict[str, Any] = FEW | {"neurons": "5,6"}
    assert ingest_scenes(scenes_few, store, notice=said.append, **options).complete
    assert said == []
    assert verify(store).ok
    assert neuron_rows(store) == neuron_rows(whole)
    flip(layout.arrays("r") / "neuron_direction" / "c" / "0" / "0" / "0")
    report = verify(store)
    assert [one.segment for one in report.problems] == [None]
    assert "lensbase run drop" in report.problems[0].remedy
    assert forget_damaged(store, report) == []


# What does not follow: files with another content, as if they had been written so


def rewrite_rows(store: Path, name: str, change: Change) -> None:
    """Change a row array in segment 1."""
    snapshot = open_snapshot(store)
    run = snapshot.run_rows()[0]
    array = snapshot.row_arrays(run)[name]
    values = change(array.read(np.arange(16, 32)).astype(np.float32))
    parts = encode_shard(array.spec, values.astype(array.spec.dtype), segment_rows=16)
    shard_path(array.path, array.spec, 1).write_bytes(b"".join(parts))


def rewrite_static(store: Path, name: str, change: Change) -> None:
    values = read_static(Layout(store), "r", name)
    write_static(Layout(store).arrays("r") / name, change(values).astype(values.dtype))


def rewrite_columns(store: Path, name: str, change: Change) -> None:
    """Change numbers by neuron of the first shard of neurons."""
    snapshot = open_snapshot(store)
    run = snapshot.run_rows()[0]
    shape, group = run_shape(run), Layout(store).by_neuron("r")
    kind, name = name.split(" ")
    specs = top_arrays(shape) if kind == "top" else extent_arrays(shape, extents(shape)[0])
    path = shard_path(group / f"{kind}-{run['by_neuron']}" / name, specs[name], 0)
    array = RowArray(group / f"{kind}-{run['by_neuron']}" / name, specs[name], SHARD_NEURONS)
    values = change(array.read(np.arange(SHARD_NEURONS)))
    path.write_bytes(b"".join(encode_shard(specs[name], values, segment_rows=SHARD_NEURONS)))


def test_all_images_and_all_neurons_are_right_in_a_copy_too(whole: Path, tmp_path: Path) -> None:
    copy = copy_store(whole, tmp_path / "copy.lens", where='"count" = 1')
    for path in (whole, copy):
        report = verify(path, sample=1024)
        assert report.ok, str(report)


@pytest.mark.parametrize("storage", ["float16", "float32"])
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), scale=st.integers(-26, 4), spread=st.integers(0, 6))
def test_honest_numbers_of_any_size_follow_from_each_other(
    storage: str, seed: int, scale: int, spread: int
) -> None:
    """Effects down to 2^-26, whose float16 vectors are of subnormal numbers: no false alarm.

    And the same sums, in float16 three or more units off, are one.
    """
    random, kept = np.random.default_rng(seed), np.dtype(storage)
    size = 2.0**scale * 2.0 ** -random.uniform(0, spread, (1, 8, 1))
    direction = random.normal(size=(1, 8, 64))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    mean = (size * random.normal(size=(1, 8, 64)) / 8).astype(np.float32).astype(np.float64)
    phi = mean + size * random.normal(size=(5, 1, 8, 1)) * direction
    norm = np.linalg.norm(phi, axis=-1).astype(kept)
    threshold = np.median(norm.astype(np.float64), axis=0)
    large = (norm > threshold)[..., None]
    values: dict[str, Any] = {
        "neuron_norm": norm,
        "neuron_coefficient": np.einsum("klne,lne->kln", phi - mean, direction).astype(kept),
        "neuron_sum": phi.sum(2).astype(kept),
        "neuron_sum_large": (phi * large).sum(2).astype(kept),
        "neuron_mean_large": (mean * large).sum(2).astype(np.float32).astype(kept),
    }
    fitted = {"mean": mean, "direction": direction, "threshold": threshold}
    found = Findings(problems=[])
    _check_effects(found, values, fitted, rounding=_ROUNDING[storage])
    assert found.problems == []
    off = 3 * np.spacing(values["neuron_mean_large"])
    _check_effects(
        found,
        values | {"neuron_mean_large": values["neuron_mean_large"] + off},
        fitted,
        rounding=_ROUNDING[storage],
    )
    if storage == "float16":
        assert any("large neurons' means differ" in one for one in found.problems)


def problems(store: Path) -> list[str]:
    snapshot = open_snapshot(store)
    run = snapshot.run_rows()[0]
    found = broken_identities(snapshot, run, sample=1024, seed=0).problems
    return [*inconsistent_rows(snapshot, run), *found]


@pytest.mark.parametrize(
    ("rewrite", "name", "change", "said"),
    [
        (rewrite_rows, "neuron_norm", lambda v: v * 1.01, "differs from what is stored by neuron"),
        (rewrite_rows, "neuron_norm", lambda v: v * 0.5, "longer than their effects"),
        (rewrite_rows, "neuron_norm", lambda v: v * 1.5, "neuron_peak has other facts"),
        (rewrite_rows, "neuron_coefficient", lambda v: v * 3, "longer than their effects"),
        (rewrite_rows, "neuron_coefficient", lambda v: v[::-1], "is stored by neuron"),
        (rewrite_rows, "neuron_sum", lambda v: v * 100, "sums of all neurons are longer"),
        (rewrite_rows, "neuron_sum_large", lambda v: v + 5, "sums of large neurons are longer"),
        (rewrite_rows, "neuron_mean_large", lambda v: v * 1.01, "large neurons' means differ"),
        (rewrite_static, "neuron_mean", lambda v: v * 1.01, "large neurons' means differ"),
        (rewrite_static, "neuron_threshold", lambda v: v * 1.01, "thresholds differ"),
        (rewrite_static, "neuron_direction", lambda v: v * 1.01, "not of unit length"),
        (rewrite_static, "neuron_explained", lambda v: v + 1, "outside 0 to 1"),
        (rewrite_static, "neuron_reference", lambda v: v[::-1] // 2, "thresholds differ"),
        (rewrite_columns, "0 norm", lambda v: v[:, ::-1], "neuron_norm differs from what"),
        (rewrite_columns, "0 coefficient", lambda v: -v, "neuron_coefficient differs from what"),
        (rewrite_columns, "top row", lambda v: v[:, ::-1], "largest norm of L5.N0 are others"),
        (rewrite_columns, "top norm", lambda v: v * 2, "largest norm of L5.N0 are others"),
    ],
)
def test_arrays_that_contradict_each_other_are_found(
    store: Path, rewrite: Callable[..., None], name: str, change: Change, said: str
) -> None:
    rewrite(store, name, change)
    assert any(said in one for one in problems(store)), problems(store)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM neuron WHERE layer = 5 AND neuron = 9", "neuron has 1023 rows, not 1024"),
        ("UPDATE neuron SET mean_norm = mean_norm * 1.01", "mean_norm differs"),
        ("UPDATE neuron SET active = active + 1 WHERE neuron = 3", "neurons' active differs"),
        ("UPDATE neuron SET norm_p98 = 0", "norm_p98 differs"),
        ("UPDATE neuron SET explained_variance = 0", "explained_variance differs"),
        ("INSERT INTO neuron_peak SELECT * FROM neuron_peak LIMIT 1", "neuron_peak has"),
        ("UPDATE neuron_peak SET norm = norm * 2", "neuron_peak has other facts"),
        ("UPDATE neuron_top SET rank = 21 - rank", "neuron_top has other images of L5.N0"),
        ("DELETE FROM neuron_top WHERE rank = 20 AND neuron = 1", "neuron_top has"),
    ],
)
def test_rows_that_contradict_the_arrays_are_found(store: Path, statement: str, said: str) -> None:
    layout = Layout(store)
    catalog = layout.catalog(current_generation(layout))
    catalog.chmod(0o644)
    with duckdb.connect(str(catalog)) as connection:
        connection.execute(statement)
    assert any(said in one for one in problems(store)), problems(store)


@pytest.mark.parametrize("name", ["norm", "coefficient", "sum", "sum_large", "mean_large", "bias"])
def test_the_model_run_again_finds_other_neurons(store: Path, name: str) -> None:
    """By 3%: what is stored is rounded, and may differ by 0.5%."""
    rewrite_rows(store, f"neuron_{name}", lambda values: values * 1.03)
    snapshot = open_snapshot(store)
    found = differences(snapshot, snapshot.run_rows()[0], sample=3, seed=0)
    assert found.images == 3
    assert found.problems
    assert all(f"neuron_{name} of" in one or name == "norm" for one in found.problems)
