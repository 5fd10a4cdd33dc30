"""Shared data for the tests: real photographs and texts that are not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# OpenMP threads wait for each other in loops: on shared cores one is faster than two.
# Set before torch is imported; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow example is no finding there; the test's own timeout is.
settings.register_profile("lensbase", deadline=None)
settings.load_profile("lensbase")

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


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 150 scenes of the embedded world, with `manifest.csv`."""
    from lensbase.ingest.world.dataset import write_scenes

    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, count=150, seed=3)
    return folder


@pytest.fixture(scope="session")
def world_store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with run `r`: these scenes through the shipped CLIP. Copy it before changing it."""
    from world_store import ingest_scenes

    path = tmp_path_factory.mktemp("store") / "s.lens"
    assert ingest_scenes(scenes, path).complete
    return path
