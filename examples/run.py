"""Run the notebooks and keep what they show: `python examples/run.py [NOTEBOOK...]`.

They run from top to bottom in a fresh kernel, in the folder that holds `demo/` (the repository's
root, or `--root`). What is kept of a run is what a reader sees: no times, counters or versions.
"""

from __future__ import annotations

import argparse
import io
import re
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).resolve().parent
_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> None:
    """Run the notebooks named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(HERE.glob("*.ipynb")))
    parser.add_argument("--root", type=Path, default=HERE.parent, help="the folder with demo/")
    asked = parser.parse_args()
    for path in asked.notebooks:
        notebook = run_notebook(path, asked.root)
        nbformat.write(normalized(notebook), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB")


def run_notebook(path: Path, root: Path) -> Any:
    """Execute a notebook in a folder, and return it with its outputs; raises where a cell does."""
    notebook: Any = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(root)}},
    ).execute()
    return notebook


def normalized(notebook: Any) -> Any:
    """The same notebook, with nothing in it that another run of the same code would change."""
    notebook.metadata = nbformat.from_dict(_METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = None
            output.pop("transient", None)
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = _PNG.sub(_as_webp, data["text/html"])
                if "<img" in data["text/html"]:
                    data.pop("image/png", None)
            if "image/png" in data:
                data["image/png"] = _lighter(data["image/png"])
                # Of a picture, a reader needs no name of an object.
                if re.match(r"<[\w.]*(Axes|Figure)\b", data.get("text/plain", "")):
                    data["text/plain"] = "a figure"
    return notebook


def _as_webp(found: re.Match[str]) -> str:
    """A picture within HTML, in a quarter of the space."""
    out = io.BytesIO()
    Image.open(io.BytesIO(b64decode(found[1]))).convert("RGB").save(out, "WEBP", quality=85)
    return f"data:image/webp;base64,{b64encode(out.getvalue()).decode()}"


def _lighter(png: str) -> str:
    """A PNG of 256 colors, where that is smaller."""
    given, out = b64decode(png), io.BytesIO()
    picture = Image.open(io.BytesIO(given))
    if picture.mode == "P":
        return png
    picture.convert("RGB").quantize(256).save(out, "PNG", optimize=True)
    return b64encode(min(given, out.getvalue(), key=len)).decode()


if __name__ == "__main__":
    main()
