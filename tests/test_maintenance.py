"""Undoing and adding: what changes is a new generation, and what was stored is not lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from commands import invoke
from world_store import ingest_scenes, store_bytes

from lensbase.api import open_store
from lensbase.api.maintenance import ColumnsAdded, add_columns, drop_run, rollback, upgrade
from lensbase.api.verify import verify
from lensbase.schema.catalog import current_generation
from lensbase.schema.errors import BadColumns, UnknownRun
from lensbase.schema.layout import Layout


@pytest.fixture
def store(world_store: Path, tmp_path: Path) -> Path:
    path = tmp_path / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    return path


def test_a_dropped_run_comes_back_by_rollback(store: Path, world_store: Path) -> None:
    drop_run(store, "r")
    with open_store(store) as opened:
        assert len(opened.runs) == 0
        assert opened.sql("SELECT count(*) AS n FROM image").rows() == [{"n": 0}]
    rollback(store)
    assert verify(store, level="checksums").ok
    assert store_bytes(store) == store_bytes(world_store)


def test_files_of_a_dropped_run_go_when_no_generation_needs_them(store: Path) -> None:
    drop_run(store, "r")
    assert (store / "runs" / "r").exists()
    # Generations without it push the one with it out.
    with pytest.raises(UnknownRun, match="its runs: none"):
        drop_run(store, "r")
    rollback(store, None)
    drop_run(store, "r")
    rollback(store)
    drop_run(store, "r")
    assert (store / "runs" / "r").exists()


def test_a_name_can_be_used_again_beside_the_dropped_run(scenes: Path, store: Path) -> None:
    drop_run(store, "r")
    assert ingest_scenes(scenes, store, limit=64).complete
    with open_store(store) as opened:
        rows = opened.sql('SELECT "row", image_id FROM images ORDER BY "row" LIMIT 1').rows()
        folder = opened.sql("SELECT folder FROM run").rows()[0]["folder"]
    assert rows == [{"row": 0, "image_id": 150}]
    assert folder == "r~1"
    assert verify(store).ok


def test_columns_that_come_later(store: Path) -> None:
    with open_store(store) as opened:
        keys = [row["key"] for row in opened.run().images.rows()]
    frame = pd.DataFrame({"key": keys[:3], "label": ["x", "y", "z"], "rating": [1, 2, 3]})
    assert add_columns(store, frame) == ColumnsAdded(3, len(keys) - 3, [])
    more = {"key": [*keys[2:4], "nope.png"], "rating": [30, 40, 50]}
    assert add_columns(store, pa.table(more)) == ColumnsAdded(2, len(keys) - 2, ["nope.png"])
    with open_store(store) as opened:
        found = opened.sql(
            "SELECT label, rating, background FROM images ORDER BY image_id LIMIT 5"
        ).rows()
        picked = opened.run().representation(where="rating >= 30")
    assert [row["rating"] for row in found] == [1, 2, 30, 40, None]
    assert [row["label"] for row in found[:3]] == ["x", "y", "z"]
    assert all(row["background"] for row in found)
    assert np.array_equal(np.asarray(picked.image_ids), [2, 3])


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"key": ["nowhere.png"], "rating": [1]}, "no image of the store"),
        ({"name": ["a"], "rating": [1]}, "no column 'key'"),
        ({"key": ["a"], "status": [1]}, "belong to the view"),
        ({"key": ["a"]}, "only 'key'"),
    ],
)
def test_columns_that_do_not_fit_change_nothing(
    store: Path, table: dict[str, list[object]], told: str
) -> None:
    before = (store / "CURRENT").read_text()
    with pytest.raises(BadColumns, match=told):
        add_columns(store, pa.table(table))
    assert (store / "CURRENT").read_text() == before


def test_columns_naming_an_image_twice_change_nothing(store: Path) -> None:
    with pytest.raises(BadColumns, match="name an image again"):
        add_columns(store, pa.table({"image_id": [1, 1], "rating": [1, 2]}), on="image_id")
    with pytest.raises(BadColumns, match="--on takes key or image_id, not 'file'; rename"):
        add_columns(store, pa.table({"file": ["a"], "rating": [1]}), on="file")


def test_what_is_up_to_date_is_not_published_again(store: Path) -> None:
    before = current_generation(Layout(store))
    assert upgrade(store) == before
    assert "already; nothing to change" in invoke("upgrade", store).stdout
    assert current_generation(Layout(store)) == before
