"""Stores of formats 1.0 to 1.2: they say how to upgrade, and answer the same afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pytest

from lensbase.api import open_store
from lensbase.api.maintenance import upgrade
from lensbase.api.verify import verify
from lensbase.schema.catalog import create_store, current_generation
from lensbase.schema.errors import FormatTooOld, NeuronsNotStored
from lensbase.schema.layout import Layout
from lensbase.schema.manifest import committed_segments

# What each minor version of the format added.
NEW_COLUMNS = {
    1: {"run": ("storage", "layer_sums")},
    2: {
        "run": (
            "neuron_layers",
            "neuron_passes",
            "neurons",
            "neuron_input",
            "reference",
            "by_neuron",
            "neuron_peak_complete",
        )
    },
    3: {},
}
NEW_TABLES = {
    1: ("annotation", "derived"),
    2: ("neuron", "neuron_peak", "neuron_top", "neuron_text"),
    3: (
        "rosetta_run",
        "rosetta_model",
        "rosetta_pair",
        "rosetta_unit",
        "rosetta_match",
        "rosetta_concept",
    ),
}
NEW_ARRAYS = {1: ("layer_sum", "layer_total"), 2: (), 3: ()}


def as_of(store: Path, path: Path, minor: int) -> Path:
    """Copy a store to what lensbase of format 1.`minor` would have left."""
    shutil.copytree(store, path, symlinks=True)
    layout = Layout(path)
    catalog = layout.catalog(current_generation(layout))
    catalog.chmod(0o644)
    later = range(minor + 1, 4)
    with duckdb.connect(str(catalog)) as connection:
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
        for (name,) in views.fetchall():
            connection.execute(f'DROP VIEW "{name}"')
        for version in later:
            for table, columns in NEW_COLUMNS[version].items():
                for column in columns:
                    connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            for table in NEW_TABLES[version]:
                connection.execute(f"DROP TABLE {table}")
        connection.execute(f"UPDATE lens_info SET format_minor = {minor}")
    arrays = [name for version in later for name in NEW_ARRAYS[version]]
    for name in arrays:
        shutil.rmtree(layout.arrays("r") / name)
    segments = [layout.manifest("r", segment) for segment in committed_segments(layout, "r")]
    for manifest in (*segments, layout.static_manifest("r")):
        facts = json.loads(manifest.read_text())
        facts["files"] = [
            entry for entry in facts["files"] if not any(f"/{a}/" in entry[0] for a in arrays)
        ]
        manifest.write_text(json.dumps(facts))
    return path


@pytest.fixture
def old_store(world_store: Path, tmp_path: Path) -> Path:
    """The store as lensbase of format 1.0 left it: no sums over layers, no roles, no neurons."""
    return as_of(world_store, tmp_path / "old.lens", 0)


def test_it_says_how_to_upgrade_and_then_answers(old_store: Path, world_store: Path) -> None:
    with pytest.raises(FormatTooOld, match=r"has format 1\.0.*`lensbase upgrade .*old\.lens`"):
        open_store(old_store)
    assert upgrade(old_store) == current_generation(Layout(old_store))
    assert verify(old_store, level="identities").ok
    with open_store(old_store) as old, open_store(world_store) as new:
        (facts,) = old.sql("SELECT storage, layer_sums FROM runs")
        assert (facts["storage"], facts["layer_sums"]) == ("float16", False)
        before, after = old.run(), new.run()
        assert np.array_equal(before.layer_effects().values, after.layer_effects().values)
        # Without totals the means come from stored values: float16's rounding apart.
        means, wanted = before._run.term_means, after._run.term_means  # pyright: ignore
        off = np.abs(means - wanted).max() / np.abs(wanted).max()
        assert off < 1e-4, f"means differ by {off:.1e}"
        assert list(old.sql("SELECT * FROM annotation")) == []
        assert len(before.neurons) == 0


def test_a_store_of_format_1_1_answers_the_same_and_has_no_neurons(
    world_store: Path, tmp_path: Path
) -> None:
    path = as_of(world_store, tmp_path / "old.lens", 1)
    with pytest.raises(FormatTooOld, match=r"has format 1\.1.*`lensbase upgrade .*old\.lens`"):
        open_store(path)
    upgrade(path)
    assert verify(path).ok
    with open_store(path) as old, open_store(world_store) as new:
        before, after = old.run(), new.run()
        for query in ("SELECT * FROM runs", "SELECT * FROM heads ORDER BY ALL"):
            assert old.sql(query).rows() == new.sql(query).rows()
        address = before.heads.rows()[-1]["component"]
        texts = [run.head(address).textspan(m=3).rows() for run in (before, after)]
        assert texts[0] == texts[1]
        assert np.array_equal(before._run.term_means, after._run.term_means)  # pyright: ignore
        assert len(before.neurons) == len(old.sql("SELECT * FROM neuron_texts")) == 0
        with pytest.raises(NeuronsNotStored, match="--neurons"):
            before.neuron("L5.N3")


def test_a_store_of_format_1_2_answers_the_same_and_has_no_zoos(
    world_store: Path, tmp_path: Path
) -> None:
    path = as_of(world_store, tmp_path / "old.lens", 2)
    with pytest.raises(FormatTooOld, match=r"has format 1\.2.*`lensbase upgrade .*old\.lens`"):
        open_store(path)
    upgrade(path)
    assert verify(path, level="checksums").ok
    with open_store(path) as old, open_store(world_store) as new:
        for query in ("SELECT * FROM runs", "SELECT * FROM heads ORDER BY ALL"):
            assert old.sql(query).rows() == new.sql(query).rows()
        assert len(old.sql("SELECT * FROM rosetta_zoos")) == 0


def test_an_upgraded_catalogue_has_the_tables_of_a_new_one(old_store: Path, tmp_path: Path) -> None:
    """Columns by name and type, whatever their order; defaults say that nothing is kept."""
    upgrade(old_store)
    new = create_store(tmp_path / "new.lens")

    def columns(layout: Layout) -> set[tuple[str, ...]]:
        path = layout.catalog(current_generation(layout))
        with duckdb.connect(str(path), read_only=True) as connection:
            return set(
                connection.execute(
                    """SELECT table_name, column_name, data_type FROM duckdb_columns()
                       WHERE NOT internal AND NOT starts_with(table_name, 'manifest_')"""
                ).fetchall()
            )

    found, wanted = columns(Layout(old_store)), columns(new)
    assert wanted - found == set()
    assert {table for table, *_ in found - wanted} <= {"images"}
    with open_store(old_store) as opened:
        (facts,) = opened.sql("SELECT neuron_layers, neurons, neuron_input, reference FROM runs")
    assert tuple(facts.values()) == ("[]", 0, False, 0)
