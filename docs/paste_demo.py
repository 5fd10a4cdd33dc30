"""Run the demonstration and paste what it prints into README.md: `python docs/paste_demo.py`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPENING = "<!-- demo: pasted from a real run by `python docs/paste_demo.py` -->"
CLOSING = "<!-- /demo -->"


def main() -> None:
    """Build the demo store afresh in `demo/`, and replace the pasted part of the README."""
    shutil.rmtree(ROOT / "demo", ignore_errors=True)
    command = [str(Path(sys.executable).with_name("lensbase")), "demo"]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    told = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
    readme = ROOT / "README.md"
    pasted = f"{OPENING}\n```console\n{told}\n```\n{CLOSING}"
    text = re.sub(
        f"{re.escape(OPENING)}.*{re.escape(CLOSING)}",
        lambda _: pasted,
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    readme.write_text(text, encoding="utf-8")
    shutil.copyfile(ROOT / "demo" / "heatmap.png", ROOT / "docs" / "images" / "heatmap.png")


if __name__ == "__main__":
    main()
