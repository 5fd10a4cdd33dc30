"""Fixtures that tests share: data from outside, scenes and a store of the embedded world."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings
from shared_data import cifar10, imagenet_samples, text_pools

# OpenMP threads wait for each other in loops: on shared cores one is faster than two.
# Set before torch is imported; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A slow example is no finding there; the test's own timeout is.
settings.register_profile("lensbase", deadline=None)
settings.load_profile("lensbase")

__all__ = ["cifar10", "imagenet_samples", "text_pools"]


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that all processes of a test run share: the first to ask for it makes it."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 150 scenes of the embedded world, with `manifest.csv`."""
    from lensbase.ingest.world.dataset import write_scenes

    return made_once(
        tmp_path_factory, "scenes", lambda folder: write_scenes(folder, count=150, seed=3)
    )


@pytest.fixture(scope="session")
def world_store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with run `r`: these scenes through the shipped CLIP. Copy it before changing it."""
    from world_store import ingest_scenes

    def make(folder: Path) -> None:
        assert ingest_scenes(scenes, folder / "s.lens").complete

    return made_once(tmp_path_factory, "store", make) / "s.lens"


@pytest.fixture(scope="session")
def neuron_store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store like `world_store` with all neurons, what they read, and the world's own pool."""
    from world_store import ingest_scenes

    from lensbase.ingest.pools import TextPool
    from lensbase.ingest.world.pool import text_pool

    def make(folder: Path) -> None:
        pool = TextPool("scenes", tuple(text_pool()))
        options = {"neurons": "all", "neuron_input": True, "pool": pool}
        assert ingest_scenes(scenes, folder / "s.lens", **options).complete

    return made_once(tmp_path_factory, "neurons", make) / "s.lens"


@pytest.fixture(scope="session")
def evaluation_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 1,500 scenes of the embedded world, all neurons and its own pool: ground truth."""
    from world_store import ingest_scenes

    from lensbase.ingest.pools import TextPool
    from lensbase.ingest.world.dataset import write_scenes
    from lensbase.ingest.world.pool import text_pool

    def make(folder: Path) -> None:
        write_scenes(folder, count=1500, seed=77)
        pool = TextPool("scenes", tuple(text_pool()))
        options = {"neurons": "all", "neuron_input": True, "pool": pool}
        large = {"batch_size": 256, "segment_rows": 512}
        assert ingest_scenes(folder, folder / "s.lens", **options, **large).complete

    return made_once(tmp_path_factory, "evaluation", make) / "s.lens"


@pytest.fixture(scope="session")
def world_zoo(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `neuron_store` with zoo `scenes`: its CLIP, the ResNet and the MAE on 300 more."""
    from lensbase.api.mining import mine_rosetta
    from lensbase.ingest.world.dataset import write_scenes

    def make(folder: Path) -> None:
        shutil.copytree(neuron_store, folder / "s.lens", symlinks=True)
        manifest = write_scenes(folder, count=300, seed=5)
        models = ["clip=world:clip", "resnet=world:resnet", "mae=world:mae"]
        mine_rosetta(
            manifest, folder / "s.lens", models=models, zoo="scenes", batch_size=50, examples=0
        )

    return made_once(tmp_path_factory, "zoo", make) / "s.lens"


@pytest.fixture(scope="session")
def shown_zoo(world_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `world_zoo` whose zoo keeps maps of matched units on 8 example pictures."""
    from lensbase.api.mining import mine_rosetta

    def make(folder: Path) -> None:
        shutil.copytree(world_zoo, folder / "s.lens", symlinks=True)
        models = ["clip=world:clip", "resnet=world:resnet", "mae=world:mae"]
        mine_rosetta(
            world_zoo.parent / "manifest.csv",
            folder / "s.lens",
            models=models,
            zoo="scenes",
            batch_size=50,
            examples=8,
        )

    return made_once(tmp_path_factory, "shown", make) / "s.lens"


@pytest.fixture(scope="session")
def page_store(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `neuron_store` for pages, which keep what they compute; with a pool of markup."""
    from lensbase.api.pools import add_pool

    def make(folder: Path) -> None:
        shutil.copytree(neuron_store, folder / "s.lens", symlinks=True)
        markup = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"]
        add_pool(folder / "s.lens", markup, name="markup")

    return made_once(tmp_path_factory, "pages", make) / "s.lens"
