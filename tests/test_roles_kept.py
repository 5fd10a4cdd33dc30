"""Roles of components outlive compacting, rollback, copying and dropping, even at once."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fabricated_store import fabricate
from world_store import ingest_scenes

from lensbase.api import Store, compaction, open_store
from lensbase.api.copying import copy_store
from lensbase.api.maintenance import compact, drop_run, rollback
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema import catalog, runs
from lensbase.schema.derived import derived_results, write_derived
from lensbase.schema.layout import Layout

COLUMNS = ["run", "component", "layer", "head", "role", "source", "note", "created_at"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fabricate(tmp_path / "s.lens")
    return tmp_path / "s.lens"


def roles(store: Store) -> dict[str, str]:
    return {row["component"]: row["role"] for row in store.annotations}


def test_annotations_outlive_compacting_and_rollback(path: Path) -> None:
    with open_store(path) as store:
        store.annotate(["L2.H1", "L1.H1"], role="color")
        store.annotate("L1.H1", role=None)
        store.annotate("L1.H0", role="shape", note="of one")
        kept = store.annotations.rows()
    done = compact(path)
    assert done.taken_in["annotation"] == 3
    assert derived_results(Layout(path), "annotation") == []
    with open_store(path) as store:
        assert store.generation == done.generation
        assert store.annotations.rows() == kept
        store.annotate("L2.H0", role="texture")
        kept = store.annotations.rows()
        assert len(kept) == 3
    rollback(path)
    with open_store(path) as store:
        assert store.annotations.rows() == kept
    compact(path)
    with open_store(path) as store:
        assert store.annotations.rows() == kept


def test_annotations_are_copied(world_store: Path, tmp_path: Path) -> None:
    path, taken_in, beside = (tmp_path / name for name in ("a.lens", "b.lens", "c.lens"))
    shutil.copytree(world_store, path, symlinks=True)
    with open_store(path) as store:
        store.annotate("L5.H1", role="color")
        kept = store.annotations.rows()
    copy_store(path, beside, where="image_id < 40", without=["thumbnail"])
    compact(path)
    copy_store(path, taken_in)
    for copy in (beside, taken_in):
        with open_store(copy) as store:
            assert store.annotations.rows() == kept


def test_a_reader_keeps_what_it_saw_while_the_store_is_compacted(path: Path) -> None:
    with open_store(path) as store:
        store.annotate("L2.H1", role="color")
        assert roles(store) == {"L2.H1": "color"}
        compact(path)
        assert roles(store) == {"L2.H1": "color"}
        store.annotate("L1.H0", role="shape")
        assert roles(store) == {"L2.H1": "color", "L1.H0": "shape"}
        compact(path)
        store.annotate("L1.H0", role=None)
        assert roles(store) == {"L2.H1": "color"}
    with open_store(path) as store:
        assert roles(store) == {"L2.H1": "color"}


def _both(first: Callable[[], object], second: Callable[[], object], at: threading.Event) -> None:
    """Run two changes of a store; the second begins once the first has come to `at`."""
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(first)
        assert at.wait(60)
        waiting = threads.submit(second)
        running.result(60)
        waiting.result(60)


@pytest.mark.parametrize("compacting_first", [True, False])
def test_rollback_and_compact_at_once_lose_no_annotation(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, compacting_first: bool
) -> None:
    """Each is stopped in its middle for half a second, in which the other could come between."""
    with open_store(path) as store:
        store.annotate("L2.H1", role="color")
        store.annotate(["L1.H0", "L1.H1"], role="shape", note="two")
        kept = store.annotations.rows()
    with catalog.publishing(Layout(path)):
        pass  # so that the generation before has the run
    reached = threading.Event()
    module, name = (
        (compaction, "_remove") if compacting_first else (catalog, "write_back_published")
    )
    own = getattr(module, name)

    def slowly(argument: Any) -> None:
        if not compacting_first:
            own(argument)
        reached.set()
        time.sleep(0.5)
        if compacting_first:
            own(argument)

    monkeypatch.setattr(module, name, slowly)
    changes: list[Callable[[], object]] = [lambda: compact(path), lambda: rollback(path)]
    _both(*(changes if compacting_first else changes[::-1]), at=reached)
    with open_store(path) as store:
        assert store.annotations.rows() == kept
    monkeypatch.undo()
    compact(path)
    with open_store(path) as store:
        assert store.annotations.rows() == kept


@pytest.mark.parametrize("compacted", [True, False])
def test_the_same_ingest_after_a_drop_finds_the_roles(tmp_path: Path, *, compacted: bool) -> None:
    path = tmp_path / "s.lens"
    options: dict[str, Any] = {"heads": "last:1", "head_tokens": None}
    few = tmp_path / "few"
    write_scenes(few, count=24, seed=3)
    assert ingest_scenes(few, path, **options).complete
    with open_store(path) as store:
        store.annotate(["L7.H1", "L7.H0"], role="color", note="of the drop")
        kept = store.annotations.rows()
    if compacted:
        compact(path)
    drop_run(path, "r")
    with open_store(path) as store:
        assert len(store.annotations) == 0
    assert ingest_scenes(few, path, **options).complete
    with open_store(path) as store:
        assert store.annotations.rows() == kept


def test_classifiers_of_copied_models_are_copied(world_store: Path, tmp_path: Path) -> None:
    path, copied = tmp_path / "a.lens", tmp_path / "b.lens"
    # Without what other tests asked the shared store.
    shutil.copytree(world_store, path, symlinks=True, ignore=shutil.ignore_patterns("derived"))
    with open_store(path) as store:
        made = store.run().classifier(["circle", "square"])
    other = {"query": "classifier", "weights_sha256": "0" * 64}
    assert write_derived(Layout(path), "classifier", other, rows=pa.table({"label": ["circle"]}))
    copy_store(path, copied)
    (found,) = derived_results(Layout(copied), "classifier")
    assert found.parameters["classes"] == made.classes
    (original,) = [
        one for one in derived_results(Layout(path), "classifier") if one.parameters != other
    ]
    assert found.path.read_bytes() == original.path.read_bytes()


def test_a_copy_has_no_roles_of_other_runs(tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    fabricate(path, runs=("one", "two"))
    with open_store(path) as store:
        store.annotate("L2.H1", role="color", run="one")
        store.annotate("L2.H0", role="color", run="two")
    compact(path)
    layout = Layout(tmp_path / "partial.lens")
    catalog.adopt(Layout(path), catalog.current_generation(Layout(path)), layout)
    runs.drop_run(layout, "one", keep_roles=False)
    assert derived_results(layout, "annotation") == []


def test_a_role_taken_away_stays_away_if_a_file_is_left_over(path: Path) -> None:
    with open_store(path) as store:
        store.annotate("L2.H1", role="color")
        (left,) = derived_results(Layout(path), "annotation")
        content = left.path.read_bytes()
        store.annotate("L2.H1", role=None)
    compact(path)
    left.path.write_bytes(content)  # as if killed before it was removed
    with open_store(path) as store:
        assert len(store.annotations) == 0
    compact(path)
    with open_store(path) as store:
        assert len(store.annotations) == 0


def test_annotations_of_a_dropped_run_go_with_it(tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    fabricate(path, runs=("one", "two"))
    with open_store(path) as store:
        store.annotate("L2.H1", role="color", run="one")
        store.annotate("L2.H0", role="color", run="two")
    compact(path)
    with open_store(path) as store:
        store.annotate("L1.H1", role="shape", run="one")
    drop_run(path, "one")
    with open_store(path) as store:
        assert [row["run"] for row in store.annotations] == ["two"]
    # A generation with the run is still there to go back to.
    assert compact(path).dropped == 0
    rollback(path)
    with open_store(path) as store:
        assert len(store.annotations) == 3
    drop_run(path, "one")
    for _ in range(2):
        rollback(path)
        drop_run(path, "one")
    compact(path)
    with open_store(path) as store:
        assert [row["run"] for row in store.annotations] == ["two"]


# Command line
