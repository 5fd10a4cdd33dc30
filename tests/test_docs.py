"""The examples of the documentation run as they are written."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from commands import invoke

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_examples_of_the_chapters_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a smaller demonstration: every example answers, and every picture is drawn."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert invoke("demo", "--images", 400).exit_code == 0
    pictures = tmp_path / "docs" / "images"
    pictures.mkdir(parents=True)
    run_page = runpy.run_path(str(DOCS / "run_pages.py"))["run_page"]
    for name, said in (("chapter2", "worst group: "), ("chapter3", "pentagon taken for hexagon")):
        page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
        told = run_page(page)
        examples = [line for line in page.splitlines() if line.startswith(">>> ")]
        assert [line for line in told.splitlines() if line.startswith(">>> ")] == examples
        assert said in told
        named = {part.partition(")")[0] for part in page.split("](images/")[1:]}
        assert {path.name for path in pictures.iterdir()} == named
        for path in pictures.iterdir():
            path.unlink()
