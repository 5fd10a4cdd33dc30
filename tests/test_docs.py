"""The examples of the documentation run as they are written."""

from __future__ import annotations

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
from commands import invoke

from lensbase.ingest.rosetta import job

DOCS = Path(__file__).resolve().parent.parent / "docs"
SAID = {
    "chapter2": "worst group: ",
    "chapter3": "pentagon taken for hexagon",
    "chapter4": "inversion into generator: 3 pictures from 3 starts each",
}
ELSEWHERE = {"figure-4.2-cifar.webp"}
"""Pictures made of data that is no part of the repository."""


def tables(page: str) -> list[tuple[str, list[list[str]]]]:
    """Each example's first line, and the column names of the tables that it prints."""
    found: list[tuple[str, list[list[str]]]] = []
    lines = page.splitlines()
    for before, line in pairwise(["", *lines]):
        if line.startswith(">>> "):
            found.append((line, []))
        elif line.strip() and not line.strip(" ─"):
            found[-1][1].append(re.split(r" {2,}", before.strip()))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_examples_of_the_chapters_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smaller demonstration: every example answers, and every picture is drawn.

    Zoos are mined on fewer samples and inverted in fewer steps. Tables have the columns that the
    pages show; their numbers and rows are of more.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert invoke("demo", "--images", 400).exit_code == 0
    pictures = tmp_path / "docs" / "images"
    pictures.mkdir(parents=True)
    run_page = runpy.run_path(str(DOCS / "run_pages.py"))["run_page"]
    monkeypatch.setattr(job, "SAMPLES", 160)
    for name, said in SAID.items():
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        page = re.sub(r"\bsteps=\d+", "steps=4", re.sub(r"\bsamples=\d+", "samples=32", page))
        told = run_page(page)
        shown = tables(page)
        assert sum(len(columns) for _, columns in shown) > 5
        assert tables(told) == shown
        assert said in told
        named = {part.partition(")")[0] for part in page.split("](images/")[1:]} - ELSEWHERE
        assert {path.name for path in pictures.iterdir()} == named
        for path in pictures.iterdir():
            path.unlink()
