"""The examples of the documentation run as they are written."""

from __future__ import annotations

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
from commands import invoke

DOCS = Path(__file__).resolve().parent.parent / "docs"


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


def test_examples_of_the_chapters_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smaller demonstration: every example answers, and every picture is drawn.

    Tables have the columns that the pages show; their numbers and rows are of more scenes.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert invoke("demo", "--images", 400).exit_code == 0
    pictures = tmp_path / "docs" / "images"
    pictures.mkdir(parents=True)
    run_page = runpy.run_path(str(DOCS / "run_pages.py"))["run_page"]
    for name, said in (("chapter2", "worst group: "), ("chapter3", "pentagon taken for hexagon")):
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        told = run_page(page)
        shown = tables(page)
        assert sum(len(columns) for _, columns in shown) > 5
        assert tables(told) == shown
        assert said in told
        named = {part.partition(")")[0] for part in page.split("](images/")[1:]}
        assert {path.name for path in pictures.iterdir()} == named
        for path in pictures.iterdir():
            path.unlink()
