"""The notebooks of `examples/` run from top to bottom, and what is kept of a run is light."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
LARGEST = 600_000  # bytes
RUN: dict[str, Any] = runpy.run_path(str(EXAMPLES / "run.py"))


@pytest.fixture(scope="module")
def demo(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `demo/demo.lens` is 150 scenes, as `lensbase demo` makes it of 4,000."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copytree(neuron_store, folder / "demo" / "demo.lens", symlinks=True)
    return folder


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook: Any) -> str:
    """Everything that outputs say, without pictures."""
    found: list[str] = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            found.append(output.get("text", ""))
            for kind, value in output.get("data", {}).items():
                if not kind.startswith("image/"):
                    found.append(re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", value))
    return "\n".join(found)


def bar(output: Any) -> bool:
    """Whether an output is a bar, which work shows only where it takes long enough."""
    return output.output_type == "display_data" and list(output.data) == ["text/plain"]


def runs(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a notebook in a folder; cells show what they show in the stored notebook."""
    monkeypatch.delenv("LENSBASE_DEMO", raising=False)
    monkeypatch.setenv("LENSBASE_SAMPLES", "96")
    monkeypatch.setenv("LENSBASE_STEPS", "3")
    path = EXAMPLES / name
    notebook = RUN["normalized"](RUN["run_notebook"](path, folder))
    stored = nbformat.read(path, as_version=4)
    for cell, kept in zip(code_cells(notebook), code_cells(stored), strict=True):
        kinds, wanted = (
            [sorted(output.get("data", {"text": 0})) for output in one.outputs if not bar(output)]
            for one in (cell, kept)
        )
        assert kinds == wanted, cell.source
    assert "Warning" not in texts(notebook)
    return notebook


@pytest.mark.parametrize(
    "name",
    [
        "1-first-look.ipynb",
        pytest.param("2-heads-and-tokens.ipynb", marks=pytest.mark.slow),
        pytest.param("3-neurons.ipynb", marks=pytest.mark.slow),
    ],
)
def test_a_notebook_runs(name: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = texts(runs(name, demo, monkeypatch))
    if name.startswith("3"):
        bar = r"100% \|█+\| \d+ of \d+ images, +[\d.]+ images/s, 00:00 left"
        assert re.search(bar, shown), "the bar of indirect effects"


@pytest.mark.slow
def test_the_notebook_of_a_zoo_mines_it_and_shows_bars(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = texts(runs("4-rosetta.ipynb", demo, monkeypatch))
    assert re.search(r"mining: 100% \|█+\| 96 of 96 pictures, +[\d.]+ pictures/s", shown)
    assert len(re.findall(r"3 of 3 steps", shown)) == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_of_a_notebook(path: Path) -> None:
    """Outputs are there, light, of no machine, and what another run would write."""
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < LARGEST
    cells = code_cells(notebook)
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 3
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"display_data", "execute_result", "stream"}
    shown = texts(notebook)
    assert not re.search(r"(?<![\w.<])/(tmp|home|root|work|usr|opt|var|Users)/", shown)
    assert "Warning" not in shown
    assert RUN["normalized"](nbformat.read(path, as_version=4)) == notebook
    pictures = [output for cell in cells for output in cell.outputs if "image/" in str(output)]
    assert len(pictures) >= 3


def test_there_are_four_of_them() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["1-", "2-", "3-", "4-"]
