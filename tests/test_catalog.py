"""Generations: published whole, never changed, read by many, rolled back."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pyarrow as pa
import pytest

from lensbase.schema import durable
from lensbase.schema.catalog import (
    create_store,
    current_generation,
    publishing,
    rollback,
)
from lensbase.schema.errors import (
    FormatTooNew,
    GenerationNotFound,
    NotAStore,
    RunBusy,
    StoreNotFound,
)
from lensbase.schema.format import FORMAT_MAJOR
from lensbase.schema.layout import Layout
from lensbase.schema.locks import lock_segments
from lensbase.schema.snapshot import open_snapshot


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return create_store(tmp_path / "s.lens")


def _images(layout: Layout) -> int:
    return open_snapshot(layout.root).rows("SELECT count(*) AS n FROM image")[0]["n"]


def _add_image(layout: Layout) -> None:
    with publishing(layout) as draft:
        number = draft.info.next_image_id
        draft.info.next_image_id += 1
        draft.insert("image", pa.table({"image_id": [number], "key": [f"k{number}"]}))


def test_a_new_store_has_generation_one(layout: Layout) -> None:
    assert current_generation(layout) == 1
    path = layout.catalog(1)
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert (layout.root / layout.current_link.readlink()) == path.parent
    assert create_store(layout.root) == layout
    assert current_generation(layout) == 1


def test_a_reader_keeps_what_it_opened(layout: Layout) -> None:
    before = open_snapshot(layout.root)
    for _ in range(3):
        _add_image(layout)
    assert before.rows("SELECT count(*) AS n FROM image") == [{"n": 0}]
    assert _images(layout) == 3


def test_a_failing_draft_publishes_nothing(layout: Layout) -> None:
    def fail() -> None:
        with publishing(layout) as draft:
            draft.insert("image", pa.table({"image_id": [0], "key": ["a"]}))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert current_generation(layout) == 1
    assert _images(layout) == 0
    assert sorted(path.name for path in layout.catalogs.iterdir()) == ["000001"]
    # DuckDB would serve the failed draft's file again, were it left open.
    _add_image(layout)
    assert _images(layout) == 1


def test_two_generations_are_kept(layout: Layout) -> None:
    for _ in range(4):
        _add_image(layout)
    assert sorted(path.name for path in layout.catalogs.iterdir()) == ["000004", "000005"]


def test_rollback_publishes_the_one_before_and_reuses_no_number(layout: Layout) -> None:
    _add_image(layout)
    _add_image(layout)
    assert rollback(layout) == 4
    assert _images(layout) == 1
    _add_image(layout)
    snapshot = open_snapshot(layout.root)
    assert [row["image_id"] for row in snapshot.rows("SELECT * FROM image ORDER BY 1")] == [0, 2]
    with pytest.raises(GenerationNotFound, match="earlier ones kept: 4"):
        rollback(layout, 1)


def test_what_is_not_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="lensbase demo"):
        open_snapshot(tmp_path / "none.lens")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(NotAStore):
        open_snapshot(tmp_path / "full")
    with pytest.raises(NotAStore, match="new or an empty folder"):
        create_store(tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_a_newer_format_is_refused(layout: Layout) -> None:
    marker = durable.read_json(layout.marker)
    durable.write_json(layout.marker, marker | {"format_major": FORMAT_MAJOR + 1})
    with pytest.raises(FormatTooNew, match="upgrade"):
        open_snapshot(layout.root)


def test_every_relation_and_column_is_explained(layout: Layout) -> None:
    snapshot = open_snapshot(layout.root)
    columns = snapshot.rows(
        "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal"
    )
    explained = {
        (row["relation"], row["column"])
        for row in snapshot.rows("SELECT * FROM data_dictionary WHERE comment <> ''")
    }
    missing = [row for row in columns if (row["table_name"], row["column_name"]) not in explained]
    assert not missing
    assert len(columns) > 100


def test_a_view_explains_columns_as_its_own_table_does(layout: Layout) -> None:
    """Columns of one name mean different things in different tables."""
    told = {
        (row["relation"], row["column"]): row["comment"]
        for row in open_snapshot(layout.root).rows("SELECT * FROM data_dictionary")
    }
    for view, table, columns in (
        ("neuron_peaks", "neuron_peak", ("norm", "coefficient")),
        ("neuron_top_images", "neuron_top", ("norm", "rank")),
        ("neuron_texts", "neuron_text", ("coefficient", "rank")),
        ("neurons", "neuron", ("mean_norm", "norm_p98")),
        ("head_effects", "head_effect", ("norm", "share")),
        ("heads", "head", ("mean_norm",)),
    ):
        for column in columns:
            assert told[view, column] == told[table, column], f"{view}.{column}"
    assert "head" not in told["neuron_peaks", "norm"]
    assert "picking" not in told["neuron_top_images", "rank"]


def _publish_many(root: Path, count: int) -> None:
    for _ in range(count):
        _add_image(Layout(root))


def test_processes_take_turns_publishing(layout: Layout) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_publish_many, args=(layout.root, 3)) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = [_images(layout) for _ in range(20)]
    for worker in workers:
        worker.join()
    assert all(worker.exitcode == 0 for worker in workers)
    assert seen == sorted(seen)
    assert _images(layout) == 9
    ids = open_snapshot(layout.root).rows("SELECT DISTINCT image_id FROM image")
    assert len(ids) == 9


def _try_lock(path: Path, segments: list[int]) -> bool:
    try:
        with lock_segments(path, "r", segments):
            return True
    except RunBusy:
        return False


def test_a_segment_has_one_owner_whatever_the_division(tmp_path: Path) -> None:
    path = tmp_path / "r.lock"
    context = multiprocessing.get_context("spawn")
    with lock_segments(path, "r", [0, 2, 4]), context.Pool(1) as pool:
        assert not pool.apply(_try_lock, (path, [4, 5]))
        assert pool.apply(_try_lock, (path, [1, 3]))
        assert not _try_lock(path, [0])
        with lock_segments(path, "r", [1]):
            pass
        assert not pool.apply(_try_lock, (path, [2])), "an inner owner freed the outer's locks"
    assert _try_lock(path, [0, 1, 2, 3, 4])
