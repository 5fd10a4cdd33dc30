"""Zero-shot segmentation against baselines that need the model, in scenes of the embedded world.

Scenes of two to four objects of which a text picks one. As a program it prints a table:

    python benchmarks/test_segmentation.py --scenes 500
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segmentation_baselines import BASELINES, open_attention

from lensbase.api import open_store
from lensbase.api.run import RunView
from lensbase.ingest.job import ingest
from lensbase.ingest.models import load_model
from lensbase.ingest.world.masks import write_masks
from lensbase.queries.segmentation import (
    average_precision,
    confusion,
    foreground,
    heat,
    intersection_over_union,
    pixel_accuracy,
)

SCENES = 100
LEFT_OUT = "LRP, partial LRP"
_BATCH = 100


@dataclass(frozen=True)
class Scores:
    """One row of the table."""

    pixel_accuracy: float
    miou: float
    map: float
    foreground_map: float

    def row(self, name: str) -> str:
        """The row in Markdown, in percent."""
        numbers = (self.pixel_accuracy, self.miou, self.map, self.foreground_map)
        return f"| {name} | " + " | ".join(f"{100 * one:.1f}" for one in numbers) + " |"


def measure(count: int, folder: Path, *, seed: int = 11) -> dict[str, Scores]:
    """Scores of lensbase and of every baseline on the same scenes, masks and texts."""
    manifest = write_masks(folder, count=count, seed=seed)
    model = load_model("world")
    ingest(manifest, folder / "s.lens", run="r", workers=0, heads="none")
    with open_store(folder / "s.lens") as store:
        run = store.run()
        found = run.evaluate_segmentation(folder / "masks", templates="{}")
        scores = {
            "lensbase, token heatmaps": Scores(
                found.pixel_accuracy, found.miou, found.map, found.foreground_map
            )
        }
        return scores | baselines(run, folder, model=model)


def baselines(run: RunView, folder: Path, *, model: Any) -> dict[str, Scores]:
    """Scores of the baselines; `folder` holds the images and their masks."""
    rows = run.images.rows()
    images = [Image.open(folder / row["key"]).convert("RGB") for row in rows]
    pixels = torch.stack([model.preprocess(image) for image in images])
    texts = torch.from_numpy(model.encode_text([row["label"] for row in rows]))
    truth = np.array([_mask(folder / "masks" / Path(row["key"]).name) for row in rows])
    clip = open_attention(model.model)
    scores: dict[str, Scores] = {}
    for name, baseline in BASELINES.items():
        maps = [
            baseline(clip, pixels[start : start + _BATCH], texts[start : start + _BATCH])
            for start in range(0, len(rows), _BATCH)
        ]
        scores[name] = _scores(torch.cat(maps).numpy(), truth)
    return scores


def _scores(maps: npt.NDArray[np.float32], truth: npt.NDArray[np.bool_]) -> Scores:
    heats = heat(maps, (truth.shape[1], truth.shape[2]))
    counts = confusion(foreground(heats), truth).sum(0)
    pairs = list(zip(heats, truth, strict=True))
    return Scores(
        float(pixel_accuracy(counts)),
        float(intersection_over_union(counts).mean()),
        float(np.mean([average_precision(one, mask) for one, mask in pairs])),
        float(np.mean([average_precision(one, mask, classes="foreground") for one, mask in pairs])),
    )


def _mask(path: Path) -> npt.NDArray[np.bool_]:
    with Image.open(path) as image:
        return np.asarray(image) > 0


def table(scores: dict[str, Scores]) -> str:
    """The scores in Markdown."""
    lines = [
        "| method | pixel accuracy | mIoU | mAP | mAP, foreground only |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(row.row(name) for name, row in scores.items()),
        f"| {LEFT_OUT} | left out | | | |",
    ]
    return "\n".join(lines)


def test_token_heatmaps_lead_the_table(tmp_path: Path) -> None:
    scores = measure(SCENES, tmp_path)
    print("\n" + table(scores))
    ours, *others = scores.values()
    best = max(other.map for other in others)
    assert ours.map > best, f"mAP {ours.map:.3f}, the best baseline's {best:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES)
    with tempfile.TemporaryDirectory() as folder:
        print(table(measure(parser.parse_args().scenes, Path(folder))))


if __name__ == "__main__":
    main()
