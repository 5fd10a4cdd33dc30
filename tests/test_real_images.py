"""Real photographs and real architectures: nothing rejected, everything adds up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lensbase.api import open_store
from lensbase.api.verify import verify
from lensbase.ingest.job import ingest

REDUCED = bool(os.environ.get("LENSBASE_REDUCED"))


def _check(store: Path, images: int) -> None:
    """Every image read, terms add up to 1e-5 before and 2e-3 after storage, the store verified."""
    with open_store(store) as opened:
        (facts,) = opened.runs.rows()
        run = opened.run()
        whole = run.representation().values.astype(np.float64)
        sample = slice(None) if images <= 1_000 else np.arange(0, images, 10)
        ids = np.asarray(run.representation().image_ids)[sample]
        terms = run.layer_effects(ids).values.astype(np.float64).sum(1)
    assert (facts["committed"], facts["rejected"]) == (images, 0)
    assert facts["max_residual"] < 1e-5
    off = np.linalg.norm(terms - whole[sample], axis=1) / np.linalg.norm(whole[sample], axis=1)
    assert off.max() < 2e-3
    report = verify(store)
    assert report.ok, str(report)


@pytest.mark.slow
def test_a_thousand_photographs_without_a_rejected_one(
    imagenet_samples: Path, tmp_path: Path
) -> None:
    """Greyscale and EXIF-rotated ones among them."""
    store = tmp_path / "photographs.lens"
    ingest(imagenet_samples / "manifest.csv", store, model="world", heads="all")
    _check(store, 1_000)


@pytest.mark.slow
def test_ten_thousand_images_out_of_a_parquet_file(cifar10: Path, tmp_path: Path) -> None:
    store = tmp_path / "cifar.lens"
    ingest(cifar10, store, model="world", heads="all")
    _check(store, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16"])
def test_large_architectures_add_up_from_the_store(
    imagenet_samples: Path, tmp_path: Path, model: str
) -> None:
    """Randomly initialized: the identities do not depend on training."""
    images = 8 if REDUCED else 48
    store = tmp_path / "large.lens"
    ingest(
        imagenet_samples / "manifest.csv",
        store,
        model=model,
        heads="all",
        head_tokens="last:1",
        limit=images,
        batch_size=8,
        segment_rows=32,
    )
    _check(store, images)
