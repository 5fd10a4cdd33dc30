"""An mkdocs hook: the notebooks of `examples/` are copied into the built pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def on_files(files: Files, config: Any) -> Files:
    """Add the notebooks as files to be copied."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        name = f"examples/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """In the repository they lie beside `docs/`; in the built pages below it."""
    return markdown.replace("](../examples/", "](examples/")
