"""Fixtures that tests share: data from outside, scenes and a store of the embedded world."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from shared_data import cifar10, imagenet_samples, text_pools

# OpenMP threads wait for each other in loops: on shared cores one is faster than two.
# Set before torch is imported; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow example is no finding there; the test's own timeout is.
settings.register_profile("lensbase", deadline=None)
settings.load_profile("lensbase")

__all__ = ["cifar10", "imagenet_samples", "text_pools"]


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


@pytest.fixture(scope="session")
def neuron_store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store like `world_store` with all neurons, what they read, and the world's own pool."""
    from world_store import ingest_scenes

    from lensbase.ingest.pools import TextPool
    from lensbase.ingest.world.pool import text_pool

    path = tmp_path_factory.mktemp("neurons") / "s.lens"
    pool = TextPool("scenes", tuple(text_pool()))
    assert ingest_scenes(scenes, path, neurons="all", neuron_input=True, pool=pool).complete
    return path


@pytest.fixture(scope="session")
def evaluation_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 1,500 scenes of the embedded world, all neurons and its own pool: ground truth."""
    from world_store import ingest_scenes

    from lensbase.ingest.pools import TextPool
    from lensbase.ingest.world.dataset import write_scenes
    from lensbase.ingest.world.pool import text_pool

    folder = tmp_path_factory.mktemp("evaluation")
    write_scenes(folder, count=1500, seed=77)
    pool = TextPool("scenes", tuple(text_pool()))
    path = folder / "s.lens"
    large = {"batch_size": 256, "segment_rows": 512}
    assert ingest_scenes(
        folder, path, neurons="all", neuron_input=True, pool=pool, **large
    ).complete
    return path
