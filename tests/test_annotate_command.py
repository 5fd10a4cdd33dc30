"""`lensbase annotate`: what it says about roles that are given, replaced and taken away."""

from __future__ import annotations

from pathlib import Path

from commands import invoke
from fabricated_store import fabricate


def test_the_command_says_what_a_component_was_before(tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    fabricate(path)

    def told(*arguments: str) -> str:
        return invoke("annotate", path, *arguments).stdout

    assert told("L2.H1", "L1.H0", "--role", "color") == "L2.H1, L1.H0: annotated as color.\n"
    assert told("L2.H1", "--role", "color") == "L2.H1: annotated as color.\n"
    assert told("L2.H1", "--role", "shape") == "L2.H1: annotated as shape (was color).\n"
    both = "L2.H1, L1.H0: annotated as count (L2.H1 was shape, L1.H0 was color).\n"
    assert told("L2.H1", "L1.H0", "--role", "count") == both
    assert told("L1.H0", "L1.H1", "--remove").startswith("L1.H0, L1.H1: have no role now (L1.H0")
