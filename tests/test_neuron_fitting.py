"""Fitting neurons and completing a run where memory, images or other processes are not as hoped."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from commands import start
from world_store import FEW, ingest_scenes, run_bytes

from lensbase.api import ingest as ingest_from_api
from lensbase.api.verify import verify
from lensbase.ingest import fit_state, job
from lensbase.ingest.by_neuron import remove_earlier
from lensbase.ingest.finalize import finalize
from lensbase.ingest.free_memory import free_memory
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.errors import BadSelection, BadSize, ImagesChanged, NoImages, UnknownRun
from lensbase.schema.layout import Layout
from lensbase.schema.locks import lock_segments
from lensbase.schema.snapshot import open_snapshot, read_static

SCENES = 24
SMALL: dict[str, Any] = FEW | {"neurons": "6", "batch_size": 4, "reference": 4}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=SCENES, seed=5)
    return folder


@pytest.fixture
def mine(scenes: Path, tmp_path: Path) -> Path:
    """A copy whose pictures a test may spoil."""
    return shutil.copytree(scenes, tmp_path / "scenes")


def picture(folder: Path, row: int) -> Path:
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        return folder / list(csv.DictReader(file))[row]["path"]


def fitted_to(store: Path) -> list[int]:
    return read_static(Layout(store), "r", "neuron_reference").tolist()


# Memory


def system(folder: Path, *, available: int, group: dict[str, str]) -> dict[str, Path]:
    """Files of a Linux that has so many KiB, and of the control group `/a/b` or its parent."""
    (folder / "proc" / "self").mkdir(parents=True)
    meminfo = f"MemTotal: 900 kB\nMemFree: 10 kB\nMemAvailable: {available} kB\n"
    (folder / "proc" / "meminfo").write_text(meminfo)
    (folder / "proc" / "self" / "cgroup").write_text("4:memory:/old\n0::/a/b\n")
    for name, value in group.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return {"proc": folder / "proc", "groups": folder / "groups"}


@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        ({}, 600 * 1024),
        ({"a/b/memory.max": "max\n", "a/b/memory.current": "9\n"}, 600 * 1024),
        ({"a/b/memory.max": "5000\n", "a/b/memory.current": "1200\n"}, 3800),
        ({"a/memory.max": "5000\n", "a/memory.current": "6000\n"}, 0),
        ({"memory.max": "5000\n", "memory.current": "5\n", "a/b/memory.max": "max"}, 4995),
        (
            {
                "a/b/memory.max": "5000\n",
                "a/b/memory.current": "4900\n",
                "a/b/memory.stat": "anon 100\ninactive_file 4000\n",
            },
            4100,
        ),
    ],
)
def test_what_caches_would_give_back_is_free_and_what_a_group_forbids_is_not(
    tmp_path: Path, group: dict[str, str], wanted: int
) -> None:
    assert free_memory(**system(tmp_path, available=600, group=group)) == wanted


def test_where_nothing_says_what_is_free_half_of_all_memory_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS, whose sysconf has no SC_AVPHYS_PAGES."""
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    assert free_memory(proc=tmp_path, groups=tmp_path) == 1000 * 4096 // 2


def test_a_run_without_neurons_asks_for_no_memory(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(job, "neuron_memory")
    assert ingest_scenes(scenes, tmp_path / "s.lens", heads="last:1", limit=4).complete


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"reference": 2.5}, BadSelection, "a reference set of 2.5 images"),
        ({"reference": True}, BadSelection, "a reference set of True images"),
        ({"reference": "20"}, BadSelection, "a reference set of '20' images"),
        ({"memory": "4GB"}, BadSize, "memory='4GB' is no number of bytes; give a whole one"),
        ({"memory": -5}, BadSize, "memory=-5 is no number of bytes"),
        ({"memory": 1e9}, BadSize, "memory=1000000000.0 is no number of bytes"),
        ({"memory": True}, BadSize, "memory=True is no number of bytes"),
    ],
)
def test_numbers_that_are_none_are_refused_before_a_model_is_loaded(
    scenes: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ingest_scenes(scenes, tmp_path / "s.lens", **(SMALL | {"model": "no-such"} | options))


def test_numbers_may_be_those_of_numpy(scenes: Path, tmp_path: Path) -> None:
    numbers = {"reference": np.int64(5), "memory": np.int64(10**8)}
    assert ingest_scenes(scenes, tmp_path / "s.lens", **(SMALL | numbers)).complete
    assert fitted_to(tmp_path / "s.lens") == [0, 4, 9, 14, 19]


# Images


def between_rounds(change: Callable[[], object]) -> Callable[[int, int], None]:
    """Progress that changes something once the first round of a fit is done."""
    pending = [change]

    def tell(done: int, total: int) -> None:
        if pending and 2 * done == total:
            pending.pop()()

    return tell


@pytest.mark.parametrize("kind", ["gone", "broken", "another"])
def test_an_image_that_changes_between_the_rounds_of_a_fit_is_noticed(
    mine: Path, tmp_path: Path, kind: str
) -> None:
    """Row 12 of the reference rows 0, 6, 12 and 18; the same command again fits anew."""
    path, spoiled = tmp_path / "s.lens", picture(mine, 12)
    change: dict[str, Callable[[], object]] = {
        "gone": spoiled.unlink,
        "broken": lambda: spoiled.write_bytes(b""),
        "another": lambda: shutil.copyfile(picture(mine, 13), spoiled),
    }
    with pytest.raises(ImagesChanged, match=r"of row 12 one read an image .* fits them anew"):
        ingest_scenes(mine, path, progress=between_rounds(change[kind]), **SMALL)
    assert not Layout(path).fits("r").exists()
    assert ingest_scenes(mine, path, **SMALL).complete
    wanted = [0, 6, 12, 18] if kind == "another" else [0, 1, 6, 18]
    assert fitted_to(path) == wanted
    report = verify(path, level="model")
    assert report.ok, str(report)


def test_an_image_that_changes_while_a_fit_is_stopped_is_noticed(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_state, "_SECONDS", 0)

    def stop() -> None:
        raise KeyboardInterrupt

    path = tmp_path / "s.lens"
    with pytest.raises(KeyboardInterrupt):
        ingest_scenes(mine, path, progress=between_rounds(stop), **SMALL)
    shutil.copyfile(picture(mine, 13), picture(mine, 12))
    with pytest.raises(ImagesChanged, match="of row 12"):
        ingest_scenes(mine, path, **SMALL)
    assert ingest_scenes(mine, path, **SMALL).complete


def test_an_image_that_only_one_pass_of_a_fit_can_read_is_noticed(
    mine: Path, tmp_path: Path
) -> None:
    """Of the second pass the first round finds an image that the first pass could not read."""
    path, spoiled = tmp_path / "s.lens", picture(mine, 12)
    content = spoiled.read_bytes()
    spoiled.unlink()

    def comes_back(done: int, total: int) -> None:
        if done == total and not spoiled.exists():
            spoiled.write_bytes(content)

    options = SMALL | {"neurons": "4,5,6", "memory": 1_600_000}
    with pytest.raises(ImagesChanged, match="of row 1 one read"):
        ingest_scenes(mine, path, progress=comes_back, **options)
    assert ingest_scenes(mine, path, **options).complete
    assert fitted_to(path) == [0, 6, 12, 18]


@pytest.mark.parametrize(
    ("spoiled", "wanted"),
    [
        ([], [0, 6, 12, 18]),
        ([6], [0, 1, 12, 18]),
        ([0, 1, 6], [7, 12, 13, 18]),
        ([0, 6, 12, 18], [1, 7, 13, 19]),
        ([row for row in range(SCENES) if row not in (5, 22)], [5, 22]),  # and no more
    ],
)
def test_others_take_the_places_of_reference_images_that_cannot_be_read(
    mine: Path, tmp_path: Path, spoiled: list[int], wanted: list[int]
) -> None:
    for row in spoiled:
        picture(mine, row).write_bytes(b"")
    path, said = tmp_path / "s.lens", list[str]()
    done = ingest_scenes(mine, path, notice=said.append, **SMALL)
    assert (done.complete, done.rejected) == (True, len(spoiled))
    assert fitted_to(path) == wanted
    missing = len({0, 6, 12, 18} & set(spoiled))
    others = f"{missing} of these cannot be read: others take their places."
    less = f"No more can be read: the neurons are fitted to {len(wanted)}, not 4."
    assert said[1:] == [others] * bool(missing) + [less] * (len(wanted) < 4)
    report = verify(path, level="model")
    assert report.ok, str(report)


def test_a_fit_that_is_stopped_among_the_others_goes_on_there(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two batches each time: among the others, at the end of that round, in the second."""
    for row in (0, 1, 2, 6, 7, 8, 13, 14, 18):
        picture(mine, row).write_bytes(b"")
    whole, path = tmp_path / "whole.lens", tmp_path / "s.lens"
    assert ingest_scenes(mine, whole, **SMALL).complete
    monkeypatch.setattr(fit_state, "_SECONDS", 0)
    layout, stops = Layout(path), 0

    def once(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3 and not layout.fitted_manifest("r").exists():
            raise KeyboardInterrupt

    while stops < 9:
        calls = 0
        try:
            assert ingest_scenes(mine, path, progress=once, **SMALL).complete
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 3
    assert fitted_to(path) == [3, 12, 19, 20]
    assert run_bytes(path) == run_bytes(whole)


def test_a_run_without_a_readable_image_says_so_and_goes_on_once_there_is_one(
    tmp_path: Path,
) -> None:
    folder, path = tmp_path / "broken", tmp_path / "s.lens"
    folder.mkdir()
    write_scenes(tmp_path / "whole", count=3, seed=5)
    pictures = sorted((tmp_path / "whole" / "images").iterdir())
    for one in pictures:
        (folder / one.name).write_bytes(b"")
    options: dict[str, Any] = {"workers": 0, "threads": 1, "neurons": "6", "run": "r"}
    said = "none of the 3 images of run 'r' can be read.*`lensbase run drop`"
    for _ in range(2):
        with pytest.raises(NoImages, match=said):
            ingest_from_api(folder, path, **options)
    shutil.copyfile(pictures[1], folder / pictures[1].name)
    told: list[str] = []
    done = ingest_from_api(folder, path, notice=told.append, **options)
    assert (done.complete, done.rejected) == (True, 2)
    # All three are reference images, so no others could take their places.
    assert told[1:] == ["No more can be read: the neurons are fitted to 1, not 3."]
    assert fitted_to(path) == [1]


# Completing a run


@pytest.fixture(scope="module")
def complete(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("complete") / "s.lens"
    assert ingest_scenes(scenes, path, **SMALL).complete
    return path


def test_a_run_that_has_gone_cannot_be_completed(complete: Path) -> None:
    with pytest.raises(UnknownRun, match="was dropped, or the store rolled back"):
        finalize(Layout(complete), 99)


def test_labels_that_a_kept_generation_names_stay_and_no_others(complete: Path) -> None:
    """Whatever their numbers are: a killed process may have left larger ones."""
    layout = Layout(complete)
    (run,) = open_snapshot(complete).run_rows()
    named, written, left = run["by_neuron"], 1000, (2000, 2001)
    for label in (written, *left):
        shutil.copytree(
            layout.by_neuron("r") / f"top-{named}", layout.by_neuron("r") / f"top-{label}"
        )
        layout.by_neuron_manifest("r", label).write_text("{}")
    remove_earlier(layout, "r", written=written)
    found = {path.name for path in layout.by_neuron("r").iterdir()}
    assert found == {f"0-{named}", f"top-{named}", f"top-{written}"}
    labels = (named, written, *left)
    kept = [label for label in labels if layout.by_neuron_manifest("r", label).exists()]
    assert kept == [named, written]
    remove_earlier(layout, "r", written=named)
    report = verify(complete)
    assert report.ok, str(report)


def test_whoever_waits_for_another_process_to_complete_a_run_says_so(complete: Path) -> None:
    layout, told, said = Layout(complete), Event(), list[str]()

    def notice(message: str) -> None:
        said.append(message)
        told.set()

    (run,) = open_snapshot(complete).run_rows()
    with lock_segments(layout.run_lock("r"), "r", [run["segments"]]):
        thread = Thread(target=finalize, args=(layout, run["run_id"]), kwargs={"notice": notice})
        thread.start()
        assert told.wait(20)
        process = start("--log", "finalize", complete)
        assert process.stderr is not None
        assert any(line.endswith(f"{said[0]}\n") for line in process.stderr)
    thread.join(20)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, thread.is_alive()) == (0, False)
    assert out.startswith("Run r: 24 images")
    assert said == ["Another process completes this run, or fits its neurons: waiting for it."]
