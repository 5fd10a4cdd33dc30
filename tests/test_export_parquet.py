"""Export as Parquet: what SQL says is what the files say, and a folder appears whole or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lensbase.api import open_store
from lensbase.api.exporting import DICTIONARY, export_parquet
from lensbase.schema.errors import BadSQL, FolderTaken


@pytest.fixture(scope="module")
def tables(world_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet") / "made" / "tables"
    with open_store(world_zoo) as store:
        rows = export_parquet(store, folder)
    assert rows == {path.stem: parquet.read_metadata(path).num_rows for path in folder.iterdir()}
    return folder


def test_every_view_is_a_file_with_the_same_rows(world_zoo: Path, tables: Path) -> None:
    with open_store(world_zoo) as store:
        named = store.sql(
            "SELECT DISTINCT relation FROM data_dictionary WHERE relation IN "
            "(SELECT view_name FROM duckdb_views() WHERE NOT internal)"
        )
        expected = {*named["relation"], DICTIONARY}
        assert {path.stem for path in tables.glob("*.parquet")} == expected
        assert len(expected) >= 24
        for view in sorted(expected):
            # SQL's functions are in the dictionary of `store.sql`, and in no file.
            rows = " WHERE NOT contains(relation, '(')" if view == DICTIONARY else ""
            asked = store.sql(f'FROM "{view}"{rows} ORDER BY ALL').arrow()
            read = _sorted(tables / f"{view}.parquet")
            assert read.equals(asked), view


def _sorted(file: Path) -> pa.Table:
    return duckdb.read_parquet(str(file)).order("ALL").to_arrow_table()


def test_common_tools_read_the_files(world_zoo: Path, tables: Path) -> None:
    file = tables / "head_effects.parquet"
    with open_store(world_zoo) as store:
        rows = len(store.sql("FROM head_effects"))
    assert rows > 1000
    assert len(pd.read_parquet(file)) == len(pl.read_parquet(file)) == rows
    assert _sorted(file).num_rows == rows


def test_rows_are_grouped_so_that_memory_is_bounded(
    world_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lensbase.api.exporting._ROWS", 2048)
    told: list[tuple[int, int]] = []
    with open_store(world_zoo) as store:
        rows = export_parquet(store, tmp_path / "t", progress=lambda *said: told.append(said))
    facts = parquet.read_metadata(tmp_path / "t" / "neuron_peaks.parquet")
    groups = [facts.row_group(place).num_rows for place in range(facts.num_row_groups)]
    assert max(groups) <= 2048
    assert sum(groups) == rows["neuron_peaks"]
    assert facts.row_group(0).column(0).compression == "ZSTD"
    assert told == [(done, len(rows)) for done in range(len(rows) + 1)]


def test_a_folder_with_files_is_left_alone_unless_forced(world_zoo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("keep me", encoding="utf-8")
    (folder / "runs.parquet").write_text("old", encoding="utf-8")
    with open_store(world_zoo) as store:
        with pytest.raises(FolderTaken, match="force"):
            export_parquet(store, folder)
        assert (folder / "runs.parquet").read_text(encoding="utf-8") == "old"
        export_parquet(store, folder, force=True)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "keep me"
    assert len(parquet.read_table(folder / "runs.parquet")) == 1


def test_a_store_and_a_file_are_no_folders_to_write_into(world_zoo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open_store(world_zoo) as store:
        for taken in (world_zoo, tmp_path / "file"):
            with pytest.raises(FolderTaken):
                export_parquet(store, taken, force=True)
    assert (world_zoo / "lens.json").exists()


def test_a_failed_export_leaves_nothing(world_zoo: Path, tmp_path: Path) -> None:
    def fail(done: int, _: int) -> None:
        if done == 3:
            raise BadSQL

    with open_store(world_zoo) as store, pytest.raises(BadSQL):
        export_parquet(store, tmp_path / "out", progress=fail)
    assert not list(tmp_path.iterdir())


def test_results_computed_later_are_exported_too(neuron_store: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(neuron_store, tmp_path / "s.lens", symlinks=True)
    with open_store(copied) as store:
        store.annotate("L5.H3", "position")
        rows = export_parquet(store, tmp_path / "t")
    assert rows["annotations"] == 1
    (row,) = parquet.read_table(tmp_path / "t" / "annotations.parquet").to_pylist()
    assert (row["component"], row["role"]) == ("L5.H3", "position")
