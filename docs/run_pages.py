"""Run the examples of a page and paste what they print: `python docs/run_pages.py PAGE...`.

Every `pycon` block of a page is a piece of one Python session, run from the repository's root. An
`sql` block is put to the session's `store`, and the answer comes into the `text` block after it.
With `--check`, pages stay as they are and the examples only have to run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(
    r"(?<=```pycon\n)(?P<pycon>.*?)(?=\n```)"
    r"|(?<=```sql\n)(?P<sql>.*?)\n```\n(?:\n```text\n.*?\n```\n)?",
    re.DOTALL,
)
_PROMPTS = (">>> ", "... ")


def main() -> None:
    """Run the pages named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="leave the pages as they are")
    asked = parser.parse_args()
    pages = [page.resolve() for page in asked.pages]
    os.chdir(ROOT)
    for page in pages:
        before = page.read_text(encoding="utf-8")
        after = run_page(before)
        if not asked.check:
            page.write_text(after, encoding="utf-8")


def run_page(text: str) -> str:
    """The page with the output of its examples, which share one namespace, as they print it now."""
    namespace: dict[str, Any] = {"__name__": "__main__"}

    def answered(block: re.Match[str]) -> str:
        if (query := block["sql"]) is not None:
            return f"{query}\n```\n\n```text\n{namespace['store'].sql(query)}\n```\n"
        return "\n".join(_answered(example, namespace) for example in _examples(block[0]))

    return _BLOCK.sub(answered, text)


def _examples(block: str) -> list[str]:
    """The sources of a block, with their prompts; what they printed is left out."""
    examples: list[str] = []
    for line in block.splitlines():
        if line.startswith(">>> "):
            examples.append(line)
        elif line.rstrip() == "..." or line.startswith("... "):
            examples[-1] += f"\n{line}"
    return examples


def _answered(example: str, namespace: dict[str, Any]) -> str:
    source = "\n".join(line[len(_PROMPTS[0]) :] for line in example.splitlines())
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        # "single" shows the value of an expression, as the prompt does.
        exec(compile(f"{source}\n", "<example>", "single"), namespace)
    shown = "\n".join(line.rstrip() for line in printed.getvalue().strip("\n").splitlines())
    return f"{example}\n{shown}" if shown else example


if __name__ == "__main__":
    sys.exit(main())
