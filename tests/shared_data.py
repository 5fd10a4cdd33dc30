"""Real photographs and texts that are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _shared(name: str) -> Path:
    folder = Path(os.environ.get("LENSBASE_DATA", ROOT.parent / "shared" / "data"))
    path = folder / name
    if not path.exists():
        pytest.skip(f"no {name} under {folder}: set LENSBASE_DATA to the folder that holds it")
    return path


@pytest.fixture(scope="session")
def imagenet_samples() -> Path:
    """A folder of 1,000 ImageNet photographs, one a class, with `manifest.csv`."""
    return _shared("imagenet-samples")


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """CIFAR-10's test set as one Parquet file: path, label, image (JPEG bytes)."""
    return _shared("cifar10-test.parquet")


@pytest.fixture(scope="session")
def text_pools() -> Path:
    """A folder of text pools, one text a line."""
    return _shared("text-pools")
