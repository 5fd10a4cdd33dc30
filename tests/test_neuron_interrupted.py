"""Ingests with neurons that are killed, run in parts or in several passes: the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import call
from world_store import FEW, TWO_PASSES, ingest_scenes, neuron_rows, run_bytes

from lensbase.api.verify import verify
from lensbase.ingest.world.dataset import write_scenes
from lensbase.schema.errors import ImagesChanged
from lensbase.schema.layout import Layout

SCENES = 48


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    write_scenes(folder, count=SCENES, seed=5)
    return folder


@pytest.fixture(scope="module")
def whole(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nothing disturbed, in one pass."""
    path = tmp_path_factory.mktemp("whole") / "s.lens"
    assert ingest_scenes(few, path, **FEW).complete
    return path


def assert_same(path: Path, whole: Path) -> None:
    ours, theirs = run_bytes(path), run_bytes(whole)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different
    assert neuron_rows(path) == neuron_rows(whole)
    report = verify(path)
    assert report.ok, str(report)


def run_script(script: str, few: Path, path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(
        [sys.executable, "-c", script, str(few), str(path)],
        check=True,
        env=environment | {"CUDA_VISIBLE_DEVICES": ""},
    )


# Each process dies by SIGKILL at a call of a function (before it, or once it has returned), and the
# next one goes on: a fork of one that has only imported what it needs.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from lensbase.ingest import begin, by_neuron, finalize, fit_state, neuron_stage, segment_job
from lensbase.schema import manifest
from world_store import FEW, TWO_PASSES, ingest_scenes

KILLS = [
    (fit_state.KeptState, "keep", 1, True),         # in the first round of the fit
    (fit_state.KeptState, "keep", 2, True),         # in the second
    (neuron_stage, "commit_fitted", 1, False),      # between the fit and its commit
    (begin, "write_static", 3, True),               # half-way through writing what was fitted
    (segment_job, "write_tensors", 2, False),       # in the pass before the last
    (segment_job, "effect_arrays", 2, True),        # in the last pass
    (manifest, "forget_passes", 1, False),          # between a segment's commit and clearing up
    (by_neuron, "_written", 3, True),               # while neurons are written the other way
    (finalize, "_publish", 1, False),               # between that and publishing it
]

def dies(owner, name, call, after):
    real, calls = getattr(owner, name), itertools.count(1)
    def wrapped(*args, **kwargs):
        this = next(calls) == call
        if this and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        given = real(*args, **kwargs)
        if this:
            os.kill(os.getpid(), signal.SIGKILL)
        return given
    setattr(owner, name, wrapped)

fit_state._SECONDS = 0
options = FEW | {"memory": TWO_PASSES}
for kill in [*KILLS, None]:
    child = os.fork()
    if not child:
        if kill is not None:
            dies(*kill)
        ingest_scenes(Path(sys.argv[1]), Path(sys.argv[2]), **options)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == (0 if kill is None else -signal.SIGKILL), kill
"""


def test_killed_at_every_stage_and_resumed_gives_the_same_bytes(
    few: Path, whole: Path, tmp_path: Path
) -> None:
    """Nine times: in the fit, its commit, both passes, a segment's commit, and at the end."""
    path = tmp_path / "killed.lens"
    run_script(KILLED, few, path)
    assert_same(path, whole)
    left = [one.name for one in Layout(path).segment_dir("r").iterdir() if one.is_dir()]
    assert left == []


# What was fitted is committed, and the lock let go, only once the other part says that it waits.
PARTS = """
import os, sys, time
from pathlib import Path
from lensbase.ingest import neuron_stage
from world_store import FEW, ingest_scenes

path = Path(sys.argv[2])
waits, commit = path.with_name("waits"), neuron_stage.commit_fitted

def committed(*args, **kwargs):
    last = time.monotonic() + 60
    while not waits.exists():
        assert time.monotonic() < last, "nobody waits"
        time.sleep(0.01)
    return commit(*args, **kwargs)

neuron_stage.commit_fitted = committed
parts = []
for number in (1, 2):
    child = os.fork()
    if not child:
        said = []

        def notice(message):
            said.append(message)
            if message.startswith("Another process fits"):
                waits.touch()

        ingest_scenes(Path(sys.argv[1]), path, part=(number, 2), notice=notice, **FEW)
        path.with_name(f"said-{number}").write_text(chr(10).join(said))
        os._exit(0)
    parts.append(child)
for child in parts:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
def test_of_parts_started_at_once_one_fits_and_the_other_waits(
    few: Path, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "s.lens"
    run_script(PARTS, few, path)
    said = [(tmp_path / f"said-{number}").read_text(encoding="utf-8") for number in (1, 2)]
    # Completing the run comes later, and one may wait for the other there too.
    assert sorted(one.splitlines()[0] for one in said) == [
        "Another process fits the neurons of this run: waiting for it.",
        "Fitting neurons to 30 reference images, in two rounds.",
    ]
    assert_same(path, whole)


def test_several_passes_give_what_one_gives(few: Path, whole: Path, tmp_path: Path) -> None:
    """And are kept by the run, whatever memory there is when it goes on."""
    path, said = tmp_path / "s.lens", list[str]()
    first = ingest_scenes(few, path, memory=TWO_PASSES, part=(2, 2), notice=said.append, **FEW)
    assert not first.complete
    assert said == [
        "The neurons of 3 layers do not fit into memory together: 2 passes over the images.",
        "Fitting neurons to 30 reference images, in two rounds.",
        "Pass 1 of 2.",
        "Pass 2 of 2.",
    ]
    said.clear()
    assert ingest_scenes(few, path, memory=1, notice=said.append, **FEW).complete
    assert said[1:] == ["Pass 1 of 2.", "Pass 2 of 2."], "the fit is not made again"
    assert_same(path, whole)
    again: list[str] = []
    assert ingest_scenes(few, path, notice=again.append, **FEW).complete
    assert again == []


def test_an_image_that_only_the_last_pass_can_read_is_no_other_ones_numbers(
    few: Path, tmp_path: Path
) -> None:
    path, folder = tmp_path / "s.lens", tmp_path / "scenes"
    (folder / "images").mkdir(parents=True)
    pictures = sorted((few / "images").iterdir())[:24]
    for picture in pictures:
        (folder / "images" / picture.name).write_bytes(picture.read_bytes())
    lines = (few / "manifest.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "manifest.csv").write_text("".join(lines[:25]), encoding="utf-8")
    away = folder / "images" / pictures[20].name
    away.write_bytes(b"")

    def comes_back(message: str) -> None:
        if message == "Pass 2 of 2.":
            away.write_bytes(pictures[20].read_bytes())

    options: dict[str, Any] = FEW | {"memory": TWO_PASSES}
    with pytest.raises(ImagesChanged, match=r"row 20 of run 'r' can be read now.*segment 1 anew"):
        ingest_scenes(folder, path, notice=comes_back, **options)
    done = ingest_scenes(folder, path, **options)
    assert (done.complete, done.rejected) == (True, 0)
    report = verify(path, level="model")
    assert report.ok, str(report)


def test_a_run_cannot_be_dropped_while_its_neurons_are_fitted(few: Path, tmp_path: Path) -> None:
    path, tried = tmp_path / "s.lens", list[tuple[int, str]]()

    def drop(done: int, total: int) -> None:
        if not tried:
            dropped = call("run", "drop", path, "r")
            tried.append((dropped.returncode, dropped.stderr))

    assert not ingest_scenes(few, path, part=(1, 3), progress=drop, **FEW).complete
    ((code, said),) = tried
    assert code == 2
    assert "another process is writing run 'r'" in said
    assert call("run", "drop", path, "r").returncode == 0
