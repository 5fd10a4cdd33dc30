"""Scenes of several objects in which a text picks one, with a mask of that one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from .attributes import COLORS, SHAPES
from .captions import with_article
from .render import Drawing, render
from .scenes import IntArray, Sampling, Scenes, sample_scenes

# Two to four objects, equally often; colors that training kept from a shape are left out.
SEVERAL: Final = Sampling(counts=(0, 1 / 3, 1 / 3, 1 / 3, 0, 0), withheld="avoid")

_BATCH: Final = 500
_PIXELS: Final = 9  # so little of an object may be left visible


def write_masks(
    directory: Path, *, count: int, seed: int = 0, sampling: Sampling = SEVERAL
) -> Path:
    """Draw scenes in which color and shape pick one object; returns the manifest's path.

    - `images/00000.png` and so on, 64 x 64 RGB;
    - `masks/00000.png`: 255 where the picked object is visible, 0 elsewhere;
    - `manifest.csv`: path, label ("a red circle", as no other object of the scene is), and how
      many `objects` there are.

    The same arguments give the same files.
    """
    for name in ("images", "masks"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    written = 0
    with (directory / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "objects"])
        while written < count:
            scenes = sample_scenes(rng, _BATCH, sampling)
            drawing = render(scenes)
            picked = pick_objects(scenes, drawing, rng)
            for scene in np.flatnonzero(picked >= 0)[: count - written]:
                name, slot = f"{written:05d}.png", picked[scene]
                mask = (drawing.masks[scene] == slot + 1) * np.uint8(255)
                Image.fromarray(drawing.images[scene]).save(directory / "images" / name)
                Image.fromarray(mask).save(directory / "masks" / name)
                color, shape = COLORS[scenes.color[scene, slot]], SHAPES[scenes.shape[scene, slot]]
                label = with_article(f"{color} {shape}")
                writer.writerow([f"images/{name}", label, int(scenes.count[scene])])
                written += 1
    return directory / "manifest.csv"


def pick_objects(scenes: Scenes, drawing: Drawing, rng: np.random.Generator) -> IntArray:
    """Of each scene one object that no other has both color and shape of, -1 without any: [n].

    Hardly visible objects are not picked, but count as others.
    """
    pair = np.where(scenes.visible, scenes.color * len(SHAPES) + scenes.shape, -1)
    alone = (pair[:, :, None] == pair[:, None, :]).sum(2) == 1
    seen = _areas(drawing.masks, pair.shape[1]) > _PIXELS
    order = rng.random(pair.shape) * (alone & seen & scenes.visible)
    return np.where(order.any(1), order.argmax(1), -1)


def _areas(masks: npt.NDArray[np.uint8], objects: int) -> IntArray:
    """Visible pixels of each object [n, objects]."""
    return np.stack([(masks == number).sum((1, 2)) for number in range(1, objects + 1)], axis=1)
