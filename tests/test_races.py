"""Processes that begin, publish or stop at awkward moments: nothing is lost or in the way."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest
from world_store import ingest_scenes, store_bytes

from lensbase.api import open_store
from lensbase.api.copying import copy_store
from lensbase.api.maintenance import drop_run
from lensbase.api.verify import verify
from lensbase.ingest import begin, job
from lensbase.schema import catalog
from lensbase.schema.catalog import create_store, current_generation, publishing, rollback
from lensbase.schema.errors import BadSelection, GenerationNotFound
from lensbase.schema.layout import Layout


def _part(scenes: Path, store: Path, number: int) -> None:
    ingest_scenes(scenes, store, part=(number, 2), pool=None, head_tokens=None)


@pytest.mark.slow
def test_parts_started_at_once_on_no_store(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    context = multiprocessing.get_context("spawn")
    parts = [context.Process(target=_part, args=(scenes, path, n)) for n in (1, 2)]
    for process in parts:
        process.start()
    for process in parts:
        process.join()
    assert [process.exitcode for process in parts] == [0, 0]
    with open_store(path) as opened:
        assert [(row["run"], row["status"]) for row in opened.runs] == [("r", "complete")]
    assert verify(path).ok


def test_a_run_that_another_process_began_meanwhile_is_gone_on_with(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "s.lens", begin.begin_run
    turns = iter([True])

    def begun_twice(*args: object, **kwargs: object) -> begin.BegunRun:
        if next(turns, False):
            real(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        return real(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(job, "begin_run", begun_twice)
    assert ingest_scenes(scenes, path, limit=20).complete
    with open_store(path) as opened:
        assert opened.sql("SELECT name, folder FROM run").rows() == [{"name": "r", "folder": "r"}]


def test_a_run_killed_while_it_begins_is_not_in_its_own_way(scenes: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    layout = create_store(path)
    for left in ("r", "r~0"):
        (layout.arrays(left) / "layer").mkdir(parents=True)
        (layout.arrays(left) / "layer" / "zarr.json").write_text("{}")
    assert ingest_scenes(scenes, path, limit=20).complete
    assert [folder.name for folder in (path / "runs").iterdir()] == ["r"]


def test_an_interrupt_after_the_swap_leaves_the_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = create_store(tmp_path / "s.lens")
    real = catalog.durable.sync_directory

    def interrupted(folder: Path) -> None:
        real(folder)
        if folder == layout.root and current_generation(layout) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(catalog.durable, "sync_directory", interrupted)
    with pytest.raises(KeyboardInterrupt), publishing(layout):
        pass
    monkeypatch.undo()
    with open_store(layout.root) as opened:
        assert opened.generation == 2
    with publishing(layout):
        pass
    assert current_generation(layout) == 3


def test_rollback_leads_out_of_a_lost_catalogue(world_store: Path, tmp_path: Path) -> None:
    """And numbers of images that it listed are not used again."""
    path = tmp_path / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    with publishing(Layout(path)):
        pass
    layout = Layout(path)
    layout.catalog(current_generation(layout)).unlink()
    rollback(layout)
    assert verify(path).ok
    with open_store(path) as opened:
        (info,) = opened.sql("SELECT next_run_id, next_image_id FROM lens_info").rows()
    assert info == {"next_run_id": 1, "next_image_id": 150}


def test_a_new_store_in_the_place_of_a_deleted_one_is_read(scenes: Path, tmp_path: Path) -> None:
    """Within one process: open maps of the old files must not answer for the new ones."""
    path = tmp_path / "s.lens"
    ingest_scenes(scenes, path, limit=20, where="background = 'water'")
    with open_store(path) as opened:
        before = opened.run().representation().values
    shutil.rmtree(path)
    ingest_scenes(scenes, path, limit=len(before), where="background <> 'water'")
    with open_store(path) as opened:
        after = opened.run().representation().values
    assert after.shape == before.shape
    assert abs(after - before).max() > 0.01
    assert verify(path).ok


def test_a_first_segment_of_rejected_images_verifies(tmp_path: Path, scenes: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(16):
        (folder / f"a{number:02}.png").write_bytes(b"")
    for file in sorted((scenes / "images").iterdir())[:5]:
        shutil.copy(file, folder / f"b-{file.name}")
    done = job.ingest(folder, tmp_path / "s.lens", segment_rows=16, workers=0, threads=1)
    assert (done.images, done.rejected) == (21, 16)
    report = verify(tmp_path / "s.lens")
    assert report.ok, str(report)


def test_a_copy_holds_nothing_of_what_it_leaves_out(
    scenes: Path, world_store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "two.lens"
    shutil.copytree(world_store, path, symlinks=True)
    ingest_scenes(scenes, path, run="other", limit=20)
    copy = copy_store(path, tmp_path / "copy.lens", runs=["r"])
    assert store_bytes(copy) == store_bytes(world_store)
    with pytest.raises(GenerationNotFound, match="earlier ones kept: none"):
        rollback(Layout(copy))
    drop_run(copy, "r")
    rollback(Layout(copy))
    assert verify(copy).ok


def test_a_copy_of_no_image_is_refused(world_store: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSelection, match="holds for no image"):
        copy_store(world_store, tmp_path / "copy.lens", where="background = 'nowhere'")
    assert not list(tmp_path.iterdir())
