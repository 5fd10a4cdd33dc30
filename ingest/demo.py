"""The demonstration's images and texts: scenes of the embedded world, in one folder."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from ..schema.errors import BadQuestion
from .world.dataset import MANIFEST, write_scenes
from .world.pool import text_pool

POOL = "scenes.txt"


def make_scenes(directory: Path, *, count: int) -> Path:
    """Draw scenes into a folder, with their manifest and a text pool; return the manifest's path.

    Nothing is drawn where the folder holds them already; it appears whole or not at all. Raises
    `BadQuestion` where it holds another number of scenes.
    """
    manifest = directory / MANIFEST
    if manifest.exists():
        with manifest.open(encoding="utf-8", newline="") as file:
            drawn = sum(1 for _ in csv.DictReader(file))
        if drawn != count:
            msg = (
                f"{directory} holds {drawn} scenes, not {count}: ask for --images {drawn}, name "
                "another folder, or remove this one."
            )
            raise BadQuestion(msg)
        return manifest
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_scenes(partial, count=count)
    (partial / POOL).write_text("\n".join(text_pool()) + "\n", encoding="utf-8")
    partial.replace(directory)
    return manifest
