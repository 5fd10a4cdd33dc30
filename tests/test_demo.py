"""The demonstration: every line of its tour runs as printed, and what it says of heads is true."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import WITHOUT_TORCH, call
from PIL import Image

from lensbase.api import open_store
from lensbase.api.cli.tour import topic_heads
from lensbase.ingest.demo import POOL, make_scenes
from lensbase.ingest.world.pool import text_attribute, text_pool
from lensbase.schema.errors import BadQuestion

REDUCED = os.environ.get("LENSBASE_REDUCED") == "1"
SCENES = 64


@dataclass
class Line:
    """A line of the tour, and what is printed below it."""

    kind: str
    source: str
    answer: str


def tour_lines(printed: str) -> Iterator[Line]:
    """Take apart what the demonstration prints, as a reader would who copies its lines."""
    for block in re.split(r"^(?=\$ |>>> )", printed, flags=re.MULTILINE)[1:]:
        lines = block.splitlines()
        if block.startswith(">>> "):
            taken = 1
            while taken < len(lines) and lines[taken].startswith("... "):
                taken += 1
            yield Line("python", "\n".join(line[4:] for line in lines[:taken]), rest(lines, taken))
            continue
        taken = 1
        while not is_whole("\n".join(lines[:taken])):
            taken += 1
        yield Line("shell", "\n".join(lines[:taken])[2:], rest(lines, taken))


def is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def rest(lines: list[str], taken: int) -> str:
    return "\n".join(lines[taken:])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small demonstration in `demo/`, and what making it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = call("demo", "--images", SCENES, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_it_prints_what_it_promises(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    sources = [line.source for line in tour_lines(printed)]
    assert sources[0].startswith("lensbase ingest demo/demo.lens demo/scenes/manifest.csv")
    assert sources[1] == "lensbase verify demo/demo.lens"
    assert "clip" in sources
    assert sum(source.startswith("lensbase head texts") for source in sources) == 3
    assert any(".top_images(" in source for source in sources)
    assert any("head_effects" in source for source in sources)
    assert "nothing is wrong" in printed
    assert f"Run world-scenes: {SCENES} images, none rejected, complete." in printed
    assert Image.open(folder / "demo" / "heatmap.png").size == (224, 224)
    assert max(map(len, printed.splitlines())) <= 102
    assert "\x1b" not in printed


def test_every_line_runs_as_printed_and_answers_the_same(demo: tuple[Path, str]) -> None:
    """Shell lines in a shell, Python lines in one fresh Python; output is compared as text."""
    folder, printed = demo
    lines = list(tour_lines(printed))
    # A folder with `lensbase` in it, as an activated environment has.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for line in lines:
        if line.kind != "shell" or line.source.startswith("lensbase ingest"):
            continue
        done = subprocess.run(
            ["bash", "-c", line.source],
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line.source
        assert done.stdout
        assert line.answer.startswith(done.stdout), line.source

    python = [line for line in lines if line.kind == "python"]
    script = "import code, sys\nconsole = code.InteractiveConsole({'__name__': '__console__'})\n"
    for number, line in enumerate(python):
        script += (
            f"print('<{number}>')\nassert not console.runsource({line.source!r}, symbol='single')\n"
        )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    answers = re.split(r"^<\d+>\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(answers) == len(python)
    for line, answer in zip(python, answers, strict=True):
        assert line.answer.startswith(answer.rstrip("\n")), line.source


def test_again_it_makes_nothing_and_needs_no_torch(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done = call("demo", "--images", SCENES, program=WITHOUT_TORCH, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    picture = folder / "demo" / "heatmap.png"
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert before | {picture: 0} == after | {picture: 0}
    tour = "$ lensbase verify"
    assert done.stdout.partition(tour)[2] == printed.partition(tour)[2]
    assert "is there already" in done.stdout


def test_the_ingest_line_again_changes_nothing(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    line = next(tour_lines(printed))
    arguments = shlex.split(line.source.replace("\\\n", ""))[1:]
    done = call(*arguments, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert line.answer.startswith(done.stdout)


def test_another_number_of_scenes_is_refused(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    done = call("demo", "--images", 65, program=WITHOUT_TORCH, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: demo/scenes holds 64 scenes, not 65")
    assert len(done.stderr.splitlines()) == 1


def test_heads_of_the_tour_speak_mostly_of_one_thing_each(demo: tuple[Path, str]) -> None:
    """Half of what each head's first five texts explain is about its attribute; all differ."""
    with open_store(demo[0] / "demo" / "demo.lens") as store:
        heads = topic_heads(store)
        assert len(heads) == len({head.topic for head in heads}) == 3
        for head in heads:
            rows = store.run().head(head.address).textspan(m=5).rows()
            own = [row for row in rows if text_attribute(row["text"]) == head.topic]
            assert head.text == own[0]["text"]
            explained = [sum(row["explained_variance"] for row in part) for part in (own, rows)]
            assert explained[0] >= explained[1] / 2


def test_scenes_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    left_over = tmp_path / "scenes.partial" / "images" / "99999.png"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    manifest = make_scenes(folder, count=20)
    assert len(list((folder / "images").iterdir())) == 20
    assert (folder / POOL).read_text(encoding="utf-8").splitlines() == text_pool()
    written = manifest.stat().st_mtime_ns
    assert make_scenes(folder, count=20).stat().st_mtime_ns == written
    with pytest.raises(BadQuestion, match="holds 20 scenes, not 21"):
        make_scenes(folder, count=21)
    assert not left_over.parent.exists()


@pytest.mark.slow
def test_the_whole_demonstration(tmp_path: Path) -> None:
    """4,000 scenes in under 3 minutes; most of a head's 50 top scenes show what its text says."""
    images = 1000 if REDUCED else 4000
    start = time.perf_counter()
    done = call("demo", "--images", images, cwd=tmp_path)
    seconds = time.perf_counter() - start
    assert (done.returncode, done.stderr) == (0, "")
    assert seconds < 180, f"{seconds:.0f} s"
    with open_store(tmp_path / "demo" / "demo.lens") as store:
        for head in topic_heads(store):
            top = store.run().head(head.address).top_images(head.text, k=50)
            shown = store.sql(
                f'SELECT "{head.topic}"::VARCHAR AS value, count(*) AS scenes FROM images '
                "WHERE list_contains(?, image_id) GROUP BY ALL ORDER BY scenes DESC",
                [top["image_id"].tolist()],
            )
            assert shown[0]["scenes"] >= 25, f"{head}: {shown}"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(REDUCED, reason="1,600 samples of four models; test_rosetta_cli mines fewer")
def test_it_mines_the_models_that_come_with_it(tmp_path: Path) -> None:
    done = call("demo", "--images", SCENES, "--zoo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open_store(tmp_path / "demo" / "demo.lens") as store:
        zoo = store.rosetta("world")
        assert list(zoo.models["model"]) == ["generator", "clip", "resnet", "mae"]
        assert len(zoo.concepts()) >= 10
