"""A store of format 1.0: it says how to upgrade, and answers the same afterwards."""

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
from lensbase.schema.catalog import current_generation
from lensbase.schema.errors import FormatTooOld
from lensbase.schema.layout import Layout
from lensbase.schema.manifest import committed_segments

NEW_COLUMNS = {"run": ("storage", "layer_sums")}
NEW_TABLES = ("annotation", "derived")
NEW_ARRAYS = ("layer_sum", "layer_total")


@pytest.fixture
def old_store(world_store: Path, tmp_path: Path) -> Path:
    """The store as lensbase of format 1.0 left it: no sums over layers, no roles."""
    path = tmp_path / "old.lens"
    shutil.copytree(world_store, path, symlinks=True)
    layout = Layout(path)
    catalog = layout.catalog(current_generation(layout))
    catalog.chmod(0o644)
    with duckdb.connect(str(catalog)) as connection:
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
        for (name,) in views.fetchall():
            connection.execute(f'DROP VIEW "{name}"')
        for table, columns in NEW_COLUMNS.items():
            for column in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for table in NEW_TABLES:
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE lens_info SET format_minor = 0")
    for name in NEW_ARRAYS:
        shutil.rmtree(layout.arrays("r") / name)
    segments = [layout.manifest("r", segment) for segment in committed_segments(layout, "r")]
    for manifest in (*segments, layout.static_manifest("r")):
        facts = json.loads(manifest.read_text())
        facts["files"] = [
            entry for entry in facts["files"] if not any(f"/{a}/" in entry[0] for a in NEW_ARRAYS)
        ]
        manifest.write_text(json.dumps(facts))
    return path


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
