"""Writing scenes to disk as an ordinary image data set that also comes with the truth."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from .attributes import ATTRIBUTES, VALUES
from .captions import in_words, write_captions
from .render import render
from .scenes import IMAGE_SIZE, Sampling, Scenes, sample_scenes

# Half the scenes show one object, so that labels are plain; backgrounds are independent of shapes.
EVALUATION: Final = Sampling(counts=(0.5, 0.1, 0.1, 0.1, 0.1, 0.1))

MANIFEST: Final = "manifest.csv"
OBJECTS: Final = "objects.csv"
MASKS: Final = "masks.npz"
_BATCH: Final = 500

Rows = Iterator[dict[str, str | int]]


def write_scenes(
    directory: Path, *, count: int, seed: int = 0, sampling: Sampling = EVALUATION
) -> Path:
    """Draw scenes and write them to a folder; returns the manifest's path.

    - `images/00000.png` and so on, 64 x 64 RGB;
    - `manifest.csv`: path, label (the shape), group ("pentagon on water"), every attribute, and a
      caption; attributes that objects have are those of the scene's first object;
    - `objects.csv`: every object of every scene, numbered from 1 as in the masks;
    - `masks.npz`: `masks` uint8 [count, 64, 64] in the manifest's order, 0 for the background.

    The same arguments give the same files.
    """
    scenes = sample_scenes(np.random.default_rng(seed), count, sampling)
    return draw_scenes(directory, scenes, seed=seed)


def draw_scenes(directory: Path, scenes: Scenes, *, seed: int = 0) -> Path:
    """Write given scenes as `write_scenes` does; the seed is that of their captions."""
    (directory / "images").mkdir(parents=True, exist_ok=True)
    paths = [f"images/{i:05d}.png" for i in range(len(scenes))]
    masks = [np.zeros((0, IMAGE_SIZE, IMAGE_SIZE), np.uint8)]
    for start in range(0, len(scenes), _BATCH):
        drawing = render(scenes.take(slice(start, start + _BATCH)))
        masks.append(drawing.masks)
        for path, image in zip(paths[start:], drawing.images, strict=False):
            Image.fromarray(image).save(directory / path, compress_level=1)
    np.savez_compressed(directory / MASKS, masks=np.concatenate(masks))
    captions = write_captions(scenes, random.Random(seed))
    _write_table(directory / MANIFEST, _manifest_rows(scenes, paths, captions))
    _write_table(directory / OBJECTS, _object_rows(scenes, paths))
    return directory / MANIFEST


def _manifest_rows(scenes: Scenes, paths: list[str], captions: list[str]) -> Rows:
    names = {name: [VALUES[name][v] for v in scenes.labels(name)] for name in ATTRIBUTES}
    for i, path in enumerate(paths):
        values: dict[str, str | int] = {name: names[name][i] for name in ATTRIBUTES}
        values["count"] = int(scenes.count[i])
        group = f"{values['shape']} on {values['background']}"
        yield {
            "path": path,
            "label": values["shape"],
            "group": group,
            **values,
            "caption": captions[i],
        }


def _object_rows(scenes: Scenes, paths: list[str]) -> Rows:
    for path, scene in zip(paths, in_words(scenes), strict=True):
        for number, thing in enumerate(scene.objects, start=1):
            yield {"path": path, "object": number, **asdict(thing)}


def _write_table(path: Path, rows: Rows) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
