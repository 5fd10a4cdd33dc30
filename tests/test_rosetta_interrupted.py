"""Mining runs that are killed and go on: the same bytes as one that nothing disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mined_members import HeldPictures, TinyNetwork, numbered_pictures
from test_rosetta_mining import assert_same

from lensbase.ingest.rosetta.mining import Mined, mine_units
from lensbase.schema.zoo_errors import MiningMismatch

SIZE = 6
IMAGES = 40
MEMORY = 4_000
PASSES = 4
PAIRS = [("a", "b"), ("a", "c"), ("a", "a")]


def members() -> list[TinyNetwork]:
    return [
        TinyNetwork("a", [(6, (8, 8)), (6, (4, 4))], 1),
        TinyNetwork("b", [(9, (8, 8)), (7, (5, 3))], 2),
        TinyNetwork("c", [(9, (2, 2)), (3, (16, 16))], 3),
    ]


def mine(state: Path | None, **options: Any) -> Mined:
    options = {"pairs": PAIRS, "memory": MEMORY, "neighbors": 3, "seconds": 0.0} | options
    pictures = options.pop("pictures", None) or HeldPictures(numbered_pictures(IMAGES), SIZE)
    models = options.pop("members", None) or members()
    return mine_units(models, pictures, state=state, **options)


# Each process dies by SIGKILL, at a batch or while it writes a state, and the next one goes on:
# a fork of one that has only imported what it needs.
KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from lensbase.ingest.rosetta import mining_state
from test_rosetta_interrupted import mine

KILLS = [
    ("batch", 3),  # in the first pass
    ("write", 9),  # in the second
    ("batch", 1),  # before anything new was kept
]
written = mining_state._parts

def mine_and_die(where, call):
    calls = itertools.count(1)

    def dies(here):
        return where == here and next(calls) == call

    def progress(done, total):
        if dies("batch"):
            os.kill(os.getpid(), signal.SIGKILL)

    def parts(tensors, metadata):
        last = dies("write")
        for number, part in enumerate(written(tensors, metadata)):
            if last and number == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield part

    mining_state._parts = parts
    mine(Path(sys.argv[1]), progress=progress)

for kill in KILLS:
    child = os.fork()
    if not child:
        mine_and_die(*kill)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (kill, status)
"""


def test_killed_processes_leave_what_the_next_one_finishes_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    state = tmp_path / "mining.safetensors"
    subprocess.run(
        [sys.executable, "-c", KILLED, str(state)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "CUDA_VISIBLE_DEVICES": ""},
    )
    pictures = HeldPictures(numbered_pictures(IMAGES), SIZE)
    resumed = mine(state, pictures=pictures)
    whole = mine(tmp_path / "whole.safetensors")
    assert whole.passes == PASSES
    assert 0 < pictures.served < (PASSES - 1) * -(-IMAGES // SIZE)
    assert_same(resumed, whole)
    assert state.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert_same(mine(None), whole)


def test_a_state_every_so_often_and_after_each_pass(tmp_path: Path) -> None:
    state = tmp_path / "folder" / "mining.safetensors"
    seen: list[bool] = []
    mine(state, seconds=1e9, progress=lambda *_: seen.append(state.exists()))
    batches = -(-IMAGES // SIZE)
    assert seen == [False] * batches + [True] * (PASSES - 1) * batches


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    state = tmp_path / "mining.safetensors"
    whole = mine(state)
    pictures = HeldPictures(numbered_pictures(IMAGES), SIZE)
    assert_same(mine(state, pictures=pictures), whole)
    assert pictures.served == 0


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"neighbors": 4, "memory": 10**6}, "settings"),
        ({"pairs": [*PAIRS, ("b", "c")], "memory": 10**6}, "pairs"),
        ({"memory": 10**6}, "memory"),
        ({"settings": {"keys_sha256": "another"}}, "settings"),
        ({"pictures": HeldPictures(numbered_pictures(IMAGES + 1), SIZE)}, "images"),
        (
            {"members": [*members()[:2], TinyNetwork("c", [(9, (2, 2)), (3, (16, 16))], 9)]},
            "models",
        ),
    ],
)
def test_another_runs_state_is_refused(tmp_path: Path, options: Any, what: str) -> None:
    state = tmp_path / "mining.safetensors"
    mine(state)
    before = state.read_bytes()
    with pytest.raises(MiningMismatch, match=rf"a mining run with other {what}\. Repeat"):
        mine(state, **options)
    assert state.read_bytes() == before
