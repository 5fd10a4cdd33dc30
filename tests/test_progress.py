"""Long work told: a bar where somebody watches, silence elsewhere, and lines in the log."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import call
from world_store import ingest_scenes

from lensbase.schema.stages import is_watched, quiet, stage

LOG = logging.getLogger("lensbase.tests")
BAR = re.compile(r"\d+% \|[█▏▎▍▌▋▊▉ ]+\| \d+ of 50 units, +[\d.]+ units/s, \d\d:\d\d left")

# 50 steps of 20 ms, in two stages of work within each other.
WORK = """
import logging, sys, time
from lensbase.schema.stages import stage
log = logging.getLogger("lensbase.tests")
with stage(log, "outer work", unit="unit"{options}) as outer:
    outer.say("half of it")
    for done in range(51):
        outer.tell(done, 50)
        time.sleep(0.02)
    with stage(log, "inner work", unit="text") as inner:
        inner.tell(0, 2, "texts")
        inner.tell(2, 2, "texts")
print("end")
"""


def on_a_terminal(code: str, **environment: str) -> str:
    """What a program writes to a terminal that is its stderr."""
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | environment,
    )
    os.close(follower)
    shown = b"".join(read(leader))
    out, _ = process.communicate()
    os.close(leader)
    assert (process.returncode, out) == (0, b"end\n")
    return shown.decode()


def read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            return
        if not part:
            return
        yield part


def test_a_terminal_sees_a_bar_with_rate_and_time_left() -> None:
    shown = on_a_terminal(WORK.format(options=""))
    assert shown.startswith("half of it\r\n")
    told = BAR.findall(shown)
    assert len(told) >= 5
    assert re.search(r" 00:00 left", told[-1])
    # Work within other work begins below its bar, and nothing moves the cursor up.
    assert re.search(r"50 of 50 units[^\r\n]*\r*\n[^\n]*texts: 100% \|█+\| 2 of 2 texts", shown)
    assert "\x1b[A" not in shown


@pytest.mark.parametrize(
    ("options", "environment"),
    [(", progress=False", {}), ("", {"TQDM_DISABLE": "1"})],
    ids=["told to", "by the environment"],
)
def test_bars_can_be_switched_off(options: str, environment: dict[str, str]) -> None:
    shown = on_a_terminal(WORK.format(options=options), **environment)
    assert "%" not in shown


@pytest.mark.parametrize(("options", "lines"), [("", 0), (", progress=True", 1)])
def test_piped_nothing_is_drawn_unless_asked_for(options: str, lines: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(options=options)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "end\n"
    assert bool(BAR.search(done.stderr)) is bool(lines)
    assert bool(done.stderr) is bool(lines)


def test_what_is_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What began, what was said meanwhile, and how long it took; an error's end too."""
    with caplog.at_level(logging.INFO, "lensbase"):
        with stage(LOG, "some work", unit="unit", progress=True) as work:
            work.say("a remark of 100 %s")
        with pytest.raises(KeyError), stage(LOG, "other work", unit="unit"):
            raise KeyError
    told = [record.getMessage() for record in caplog.records]
    assert told[:2] == ["some work", "a remark of 100 %s"]
    assert re.fullmatch(r"some work took \d+\.\d s", told[2])
    assert told[3] == "other work"
    assert re.fullmatch(r"other work stopped after \d+\.\d s", told[4])


def test_a_function_is_told_instead(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Any] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    with stage(LOG, "work", unit="unit", progress=progress, notice=told.append) as work:
        work.tell(1, 3)
        work.say("next")
        work.tell(3, 3)
    assert told == [(1, 3), "next", (3, 3)]
    assert capsys.readouterr() == ("", "")


def test_work_within_quiet_work_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert is_watched()
    with stage(LOG, "outer", unit="unit", progress=False), stage(LOG, "in", unit="unit") as inner:
        inner.tell(1, 2)
    assert capsys.readouterr().err == ""
    with quiet(False), stage(LOG, "in", unit="unit") as inner:
        inner.tell(1, 2)
    assert "1 of 2 units" in capsys.readouterr().err


def test_without_a_console_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_watched()
    with stage(LOG, "work", unit="unit") as work:
        work.tell(1, 2)


def test_an_ingest_is_logged_by_the_modules_at_work(
    scenes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With neurons: what begins and how long it took, and nothing on stdout or stderr."""
    with caplog.at_level(logging.INFO, "lensbase"):
        ingest_scenes(
            scenes, tmp_path / "s.lens", limit=32, heads="last:1", neurons="6", reference=16
        )
    told = [(record.name, record.getMessage()) for record in caplog.records]
    assert told[0] == ("lensbase.ingest.job", "ingesting 32 images into run r")
    assert told[1][1] == "Fitting neurons to 16 reference images, in two rounds."
    assert ("lensbase.ingest.neuron_summary", "codes of 16 of 4 texts for 512 neurons") in told
    name, last = told[-1]
    assert name == "lensbase.ingest.job"
    assert re.fullmatch(r"ingesting 32 images into run r took \d+\.\d s", last)
    assert capfd.readouterr() == ("", "")


def test_the_command_line_logs_where_it_is_asked_to(world_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    shutil.copytree(world_store, path, symlinks=True)
    texts = ["head", "texts", path, "L7.H7", "--where", "image_id < 90", "-m", "2"]
    logged, plain = call("--log", *texts), call(*texts)
    assert (plain.returncode, plain.stderr) == (0, "")
    assert (logged.returncode, logged.stdout) == (0, plain.stdout)
    first, last = logged.stderr.splitlines()
    assert re.search(r"^[-0-9 :,]+ lensbase.api.spans: TEXTSPAN of 1 head over 4 texts$", first)
    assert re.search(r" TEXTSPAN of 1 head over 4 texts took \d+\.\d s$", last)
