"""`lensbase ingest` as a process: closing line, progress bar, Ctrl-C, following it, parts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import WITHOUT_TORCH, call, invoke, start
from PIL import Image

from lensbase.api import open_store
from lensbase.api.cli.ingesting import bytes_of
from lensbase.api.progress import run_progress
from lensbase.api.verify import verify
from lensbase.schema.errors import BadSize
from lensbase.schema.layout import Layout
from lensbase.schema.manifest import committed_segments

# One image at a time, and sixteen in a segment: slow enough to be interrupted in the middle.
SLOWLY = ["--batch-size", "1", "--threads", "1", "--workers", "0", "--segment-rows", "16"]


def command(scenes: Path, store: Path, *options: str) -> list[object]:
    return ["ingest", store, scenes / "manifest.csv", "--model", "world", "--run", "r", *options]


def committed_at(store: Path) -> dict[int, int]:
    layout = Layout(store)
    return {n: layout.manifest("r", n).stat().st_mtime_ns for n in committed_segments(layout, "r")}


def wait_for_segments(store: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(committed_segments(Layout(store), "r")) < number:
        assert time.monotonic() < deadline, "no segment was committed"
        time.sleep(0.005)


def read_terminal(leader: int) -> Iterator[str]:
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # the other end is closed
            return
        if not data:
            return
        yield data.decode(errors="replace")


@pytest.mark.slow
def test_interrupted_followed_and_resumed(scenes: Path, tmp_path: Path) -> None:
    """Ctrl-C: exit 130 and one line; what was committed stays, and `--watch` sees the rest come."""
    store = tmp_path / "s.lens"
    ingest = command(scenes, store, *SLOWLY)
    process = start(*ingest)
    wait_for_segments(store, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [
        "Interrupted: what was committed stays, and the same command goes on from there."
    ]
    before = committed_at(store)
    assert 2 <= len(before) < 10
    with open_store(store) as opened:
        facts = opened.runs[0]
    assert facts["status"] == "ingesting"

    watching = start("info", store, "--watch", program=WITHOUT_TORCH)
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    resumed = start(*ingest, stderr=follower)
    os.close(follower)
    shown = "".join(read_terminal(leader))
    out, _ = resumed.communicate()
    assert resumed.returncode == 0
    assert out.startswith("Run r: 150 images, none rejected, complete.\nNext: lensbase pool add")
    assert re.search(r"100% \|█+\| 150 of 150 images, +[\d.]+ images/s, 00:00 left", shown)
    assert f"{16 * len(before)} of 150 images" in shown, "what was there is not counted again"
    assert {n: committed_at(store)[n] for n in before} == before

    lines, err = watching.communicate(timeout=30)
    assert (watching.returncode, err) == (0, "")
    told = lines.splitlines()
    assert told[0].startswith(f"r: {16 * len(before)} of 150 images")
    assert told[-1] == "r: 150 of 150 images (100%), 10 of 10 segments, complete"
    assert verify(store).ok


def test_ctrl_c_while_watching_is_one_line(world_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "waiting.lens"
    shutil.copytree(world_store, path, symlinks=True)
    assert invoke("rollback", path).exit_code == 0
    watching = start("info", path, "--watch")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("r: ")
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate()
    assert (watching.returncode, err) == (130, "Interrupted.\n")


def test_ctrl_c_in_the_middle_of_a_query_is_one_line(world_store: Path) -> None:
    """DuckDB takes the interrupt for itself and raises a RuntimeError."""
    endless = "SELECT sum(sin(a.range + b.range)) FROM range(1000000) a, range(1000000) b"
    asking = start("sql", world_store, endless)
    deadline = time.monotonic() + 60
    while _cpu_seconds(asking.pid) < 3:
        assert asking.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asking.send_signal(signal.SIGINT)
    _, err = asking.communicate(timeout=60)
    assert (asking.returncode, err) == (130, "Interrupted.\n")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_piped_it_is_quiet_and_says_what_to_do_next(scenes: Path, tmp_path: Path) -> None:
    """Options reach the run; rejected images are counted, and the line that lists them runs."""
    folder, store = tmp_path / "photos", tmp_path / "s.lens"
    folder.mkdir()
    for number in range(20):
        source = scenes / "images" / f"{number:05d}.png"
        (folder / source.name).write_bytes(source.read_bytes())
    (folder / "empty.png").touch()
    pool = tmp_path / "My words.txt"
    pool.write_text("a red circle\na blue square\nwater\n", encoding="utf-8")
    done = call(
        *["ingest", store, folder, "--model", "world", "--heads", "6,7", "--no-tokens"],
        *["--head-tokens", "last:1", "--no-thumbnails", "--pool", pool, "--limit", "21"],
        *["--batch-size", "4", "--threads", "1", "--workers", "1", "--devices", "cpu"],
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, why, following = done.stdout.splitlines()
    assert first == "Run world-photos: 21 images, 1 rejected, complete."
    query = re.fullmatch(r'Why: lensbase sql (\S+) "(.+)"', why)
    assert query is not None
    rows = json.loads(invoke("sql", query[1], query[2], "--json").stdout)
    assert [row["key"] for row in rows] == ["empty.png"]
    assert following.startswith("Next: lensbase head texts ")
    assert invoke(*following.split()[2:]).exit_code == 0
    with open_store(store) as opened:
        facts = opened.runs[0]
    assert json.loads(facts["head_layers"]) == [6, 7]
    assert json.loads(facts["head_token_layers"]) == [7]
    assert facts["tokens"] is False
    assert facts["default_pool"] == "my-words"
    assert (facts["batch_size"], facts["threads"], facts["precision"]) == (4, 1, "fp32")

    again = invoke(
        *["ingest", store, folder, "--model", "world", "--heads", "6,7", "--no-tokens"],
        *["--head-tokens", "last:1", "--no-thumbnails", "--no-resume"],
    )
    assert again.exit_code == 2
    assert "lensbase run drop" in again.stderr


def test_parts_say_that_others_are_missing(scenes: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.lens"
    options = ["--segment-rows", "64", "--batch-size", "32", "--threads", "1", "--workers", "0"]
    first = invoke(*command(scenes, store, *options, "--part", "2/2"))
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("Run r: 64 of 150 images, none rejected.\nNext: the other parts")
    (progress,) = run_progress(store)
    assert (progress.committed, progress.segments_committed, progress.complete) == (64, 1, False)
    result = invoke("finalize", store)
    assert (result.exit_code, "lacks 2 of 3 segments" in result.stderr) == (2, True)
    second = invoke(*command(scenes, store, *options, "--part", "1/2"))
    assert "150 images, none rejected, complete" in second.stdout


def test_16_bit_pictures_and_others_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    Image.new("I;16", (80, 60), 30000).save(folder / "a.png")
    Image.new("L", (60, 80), 99).save(folder / "b.png")
    result = invoke("ingest", tmp_path / "s.lens", folder, "--model", "world", "--workers", "0")
    assert "2 images, none rejected, complete" in result.stdout, result.output


def test_a_wrong_option_leaves_no_store(scenes: Path, tmp_path: Path) -> None:
    for option, value in (("--storage", "float8"), ("--segment-rows", "17")):
        done = invoke(*command(scenes, tmp_path / "s.lens", option, value))
        assert done.exit_code == 2
        assert value in done.stderr
        assert not (tmp_path / "s.lens").exists()


@pytest.mark.slow
def test_neurons_are_asked_for_and_stages_are_told(scenes: Path, tmp_path: Path) -> None:
    """A bar for each stage, and what begins above it; afterwards nothing is left to do."""
    options = ["--neurons", "4,5", "--neuron-input", "--reference", "20", "--memory", "2.5MB"]
    options += ["--no-tokens", "--limit", "48", "--threads", "1", "--workers", "0"]
    options += ["--batch-size", "16", "--segment-rows", "16"]
    store = tmp_path / "s.lens"
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    process = start(*command(scenes, store, *options), stderr=follower)
    os.close(follower)
    shown = "".join(read_terminal(leader))
    out, _ = process.communicate()
    assert process.returncode == 0, shown
    assert out.startswith("Run r: 48 images, none rejected, complete.")
    lines = [line.rsplit("\r", 1)[-1] for line in shown.replace("\r\n", "\n").strip().split("\n")]
    told = [
        found[0] if (found := re.search(r"\d+ of \d+ images(?=,)", line)) else line
        for line in lines
    ]
    assert told == [
        "The neurons of 2 layers do not fit into memory together: 2 passes over the images.",
        "Fitting neurons to 20 reference images, in two rounds.",
        "40 of 40 images",
        "40 of 40 images",
        "Pass 1 of 2.",
        "48 of 48 images",
        "Pass 2 of 2.",
        "48 of 48 images",
    ]
    with open_store(store) as opened:
        (facts,) = opened.sql("SELECT neuron_layers, neuron_input, reference FROM runs").rows()
    assert facts == {"neuron_layers": "[4, 5]", "neuron_input": True, "reference": 20}
    again = call(*command(scenes, store, *options))
    assert (again.returncode, again.stderr) == (0, "")


def test_a_wrong_option_about_neurons_leaves_no_store(scenes: Path, tmp_path: Path) -> None:
    for options, said in (
        (["--neurons", "7"], "no second-order effect. Write default"),
        (["--neurons", "8"], "numbers from 0 to 6 such as 4,5,6"),
        (["--neurons", "x"], "--neurons x does not choose layers"),
        (["--neurons", "none", "--neuron-input"], "neuron_input (--neuron-input) is about neurons"),
        (["--reference", "20"], "reference (--reference) is about neurons"),
        (["--neurons", "5", "--memory", "4 apples"], "write one such as 4GB, 4GiB"),
        (["--neurons", "5", "--memory", "0"], "memory '0' is no number of bytes"),
        (["--neurons", "5", "--reference", "0"], "a reference set of 0 images"),
    ):
        done = invoke(*command(scenes, tmp_path / "s.lens", *options))
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
        assert not (tmp_path / "s.lens").exists()


def test_layers_are_checked_before_weights_are_looked_for(scenes: Path, tmp_path: Path) -> None:
    """Of a model by name and a folder's: their weights are not even there."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_cfg": {"embed_dim": 64, "vision_cfg": {"layers": 5}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    for model, layers in ((f"local-dir:{folder}", 5), ("ViT-B-16", 12)):
        for option in ("--neurons", "--heads", "--head-tokens"):
            done = invoke(
                *["ingest", tmp_path / "s.lens", scenes, "--model", model, option, str(layers)]
            )
            assert (done.exit_code, f"a model with {layers}" in done.stderr) == (2, True), option
        done = invoke(
            *["ingest", tmp_path / "s.lens", scenes, "--model", model, "--neurons", "2"],
            *([] if layers == 5 else ["--pretrained", "none.pt"]),
        )
        assert (done.exit_code, "there is no checkpoint" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "s.lens").exists()


def test_sizes_are_read_as_people_write_them() -> None:
    sizes = {"4GB": 4_000_000_000, "4GiB": 4 << 30, "4 gib": 4 << 30, "1.5M": 1_500_000}
    sizes |= {"123456": 123_456, "8kB": 8000, "2TiB": 2 << 40, "7b": 7}
    assert {text: bytes_of(text) for text in sizes} == sizes
    for text in ("", "GB", "4XB", "-4GB", "4GBit", "1e9", "0"):
        with pytest.raises(BadSize, match="is no number of bytes"):
            bytes_of(text)
