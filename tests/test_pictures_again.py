"""Images of a run read again, by key, from where they came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pets import IMAGES, KEYS, write_pets
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from lensbase.ingest.pictures_again import pictures_again
from lensbase.ingest.sources import open_source
from lensbase.schema.errors import SourceNotFound, UnknownImage


def preprocess(image: Image.Image) -> torch.Tensor:
    return pil_to_tensor(image.resize((4, 4))).float()


def described(path: Path) -> dict[str, Any]:
    """What the catalogue holds of a run's source."""
    source = open_source(path)
    return {"dataset_root": source.root, "dataset_kind": source.kind}


@pytest.mark.parametrize("kind", ["folder", "parquet"])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_come_in_the_order_of_their_keys(tmp_path: Path, kind: str, workers: int) -> None:
    path = write_pets(tmp_path / "pets")
    if kind == "parquet":
        path = tmp_path / "pets.parquet"
        pq.write_table(pa.table({"image": IMAGES, "path": KEYS}), path)
    run = described(path)
    alone = {key: next(pictures_again(run, [key], preprocess=preprocess)).images[0] for key in KEYS}
    chosen = [KEYS[4], KEYS[0], KEYS[5], KEYS[2], KEYS[1]]
    found = list(pictures_again(run, chosen, preprocess=preprocess, batch_size=2, workers=workers))
    assert [len(batch.images) for batch in found] == [2, 2, 1]
    assert all(batch.ok.all() for batch in found)
    again = torch.cat([batch.images for batch in found])
    assert torch.equal(again, torch.stack([alone[key] for key in chosen]))
    assert len({tuple(image.flatten().tolist()) for image in alone.values()}) > 1


def test_what_has_gone_is_named(tmp_path: Path) -> None:
    pets = write_pets(tmp_path / "pets")
    run = described(pets)
    (pets / KEYS[1]).unlink()
    batch = next(pictures_again(run, KEYS[:3], preprocess=preprocess))
    assert batch.ok.tolist() == [True, False, True]
    path = tmp_path / "pets.parquet"
    pq.write_table(pa.table({"image": IMAGES, "path": KEYS}), path)
    run = described(path)
    pq.write_table(pa.table({"image": IMAGES[1:], "path": KEYS[1:]}), path)
    with pytest.raises(UnknownImage, match=f"{KEYS[0]}.*1 of 2"):
        pictures_again(run, KEYS[:2], preprocess=preprocess)
    path.unlink()
    with pytest.raises(SourceNotFound):
        pictures_again(run, KEYS[:2], preprocess=preprocess)
