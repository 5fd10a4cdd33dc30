"""Mining into a store: what is kept, a model that joins later, and what stops before any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from literal_mining import literal_correlations
from PIL import Image

from lensbase.api import open_store
from lensbase.api.mining import mine_rosetta
from lensbase.ingest.rosetta import pictures
from lensbase.ingest.rosetta.mining_options import MiningOptions
from lensbase.ingest.rosetta.pictures import as_pictures, square
from lensbase.ingest.rosetta.sources import load_member
from lensbase.ingest.rosetta.units import Batch
from lensbase.ingest.sources import open_source
from lensbase.schema import durable
from lensbase.schema.errors import BadName, BadQuestion, NoImages, SourceNotFound
from lensbase.schema.zoo_errors import BadMember, ZooMismatch

# Few modules of each: on different grids, and fast.
CLIP = "clip=world:clip#*.resblocks.[02].mlp.gelu"
MAE = "mae=world:mae"
RESNET = "resnet=world:resnet"
IMAGES = 60

Mine = Callable[..., Any]


@pytest.fixture(scope="module")
def mine(scenes: Path) -> Mine:
    """Mine the first scenes with given models."""

    def of(store: Path, *models: str, **options: Any) -> Any:
        settings: dict[str, Any] = {"limit": IMAGES, "batch_size": 16, "examples": 6}
        return mine_rosetta(scenes / "manifest.csv", store, models=models, **settings | options)

    return of


@pytest.fixture(scope="module")
def mined(mine: Mine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the zoo `zoo` of three models. Copy it before changing it."""
    path = tmp_path_factory.mktemp("job") / "z.lens"
    mine(path, CLIP, RESNET, MAE)
    return path


@pytest.fixture(scope="module")
def shown(scenes: Path) -> Batch:
    """The pictures that it was mined on."""
    paths = sorted((scenes / "images").iterdir())[:IMAGES]
    return Batch([square(Image.open(path).convert("RGB")) for path in paths])


def answers(store: Path, zoo: str = "zoo") -> list[list[dict[str, Any]]]:
    """All that the views say of a zoo, but for sizes and times."""
    with open_store(store) as opened:
        return [
            opened.sql(f"SELECT * FROM {view} WHERE zoo = ? ORDER BY ALL", [zoo]).rows()
            for view in ("rosetta_units", "rosetta_pairs", "rosetta_concepts")
        ]


def test_nearest_units_are_those_of_the_formulas(mined: Path, shown: Batch) -> None:
    clip, resnet = load_member(CLIP), load_member(RESNET)
    wanted = literal_correlations(clip.maps(shown), resnet.maps(shown))
    with open_store(mined) as store:
        kept = store.rosetta()._zoo.pair("clip", "resnet")  # pyright: ignore[reportPrivateUsage]
    own = np.take_along_axis(wanted, np.maximum(kept.index_first, 0).astype(np.int64), 1)
    alive = kept.index_first >= 0
    assert alive.mean() > 0.9
    assert np.abs(own - kept.correlation_first)[alive].max() < 1e-5
    best = np.nan_to_num(wanted, nan=-2).max(1)
    assert np.abs(best - kept.correlation_first[:, 0])[alive[:, 0]].max() < 1e-5


def test_a_model_that_joins_later_gives_the_same_rows(
    mine: Mine, mined: Path, tmp_path: Path
) -> None:
    path = tmp_path / "z.lens"
    mine(path, CLIP, RESNET)
    first = answers(path)
    kept = {file: file.stat().st_mtime_ns for file in (path / "rosetta/zoo/pairs").rglob("c*")}
    stages: list[str] = []
    mine(path, MAE, progress=lambda stage, done, total: stages.append(stage))
    assert answers(path) == answers(mined) != first
    assert {"reading", "mining", "examples"} == set(stages)
    assert all(file.stat().st_mtime_ns == was for file, was in kept.items())


def test_mined_again_nothing_is_computed(mine: Mine, mined: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.lens"
    shutil.copytree(mined, path, symlinks=True)
    stages: set[str] = set()
    mine(path, progress=lambda stage, done, total: stages.add(stage))
    assert "mining" not in stages
    assert answers(path) == answers(mined)


def test_stopped_before_publishing_it_goes_on(mine: Mine, mined: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.lens"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "examples":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine(path, CLIP, RESNET, MAE, progress=stop)
    with open_store(path) as store:
        assert not store.zoos.rows()
    stages: set[str] = set()
    mine(path, CLIP, RESNET, MAE, progress=lambda stage, done, total: stages.add(stage))
    assert "mining" not in stages
    assert answers(path) == answers(mined)


def test_the_batch_size_changes_nothing(mine: Mine, mined: Path, tmp_path: Path) -> None:
    mine(tmp_path / "z.lens", CLIP, RESNET, MAE, batch_size=7)
    units, pairs, _ = answers(tmp_path / "z.lens")
    wanted_units, wanted_pairs, _ = answers(mined)
    for row, wanted in zip(units, wanted_units, strict=True):
        assert row["mean"] == pytest.approx(wanted["mean"], rel=1e-5, abs=1e-6)
    found = {(row["unit_a"], row["unit_b"]): row["correlation"] for row in pairs}
    shared = [row for row in wanted_pairs if (row["unit_a"], row["unit_b"]) in found]
    # Where two units are as near as each other, either may be among the nearest.
    assert len(shared) > 0.999 * len(wanted_pairs)
    for row in shared:
        assert abs(found[row["unit_a"], row["unit_b"]] - row["correlation"]) < 1e-5


def test_examples_are_normalized_maps_of_the_pictures_shown(mined: Path, shown: Batch) -> None:
    member = load_member(RESNET)
    maps = torch.cat([one.flatten(2).transpose(0, 1) for one in member.maps(shown)[:1]])
    with open_store(mined) as store:
        zoo = store.rosetta()._zoo  # pyright: ignore[reportPrivateUsage]
        kept, statistics = zoo.member("resnet"), zoo.statistics(zoo.member("resnet"))
        every = np.stack([np.asarray(picture) for picture in shown.pictures])
        places = [int((every == one).all((1, 2, 3)).argmax()) for one in zoo.pictures]
        assert len(set(places)) == 6
        channels = member.modules[0].channels
        checked = 0
        for unit in range(channels):
            found = zoo.maps(kept, unit)
            if found is None:
                continue
            wanted = maps[unit, places].numpy() - statistics.mean[unit]
            wanted = wanted / np.sqrt(statistics.variance[unit])
            np.testing.assert_allclose(found.reshape(6, -1), wanted, rtol=2e-3, atol=2e-3)
            checked += 1
    assert checked


def test_held_out_on_the_same_pictures_is_what_was_mined(mined: Path, scenes: Path) -> None:
    with open_store(mined) as store:
        found = store.rosetta().held_out(scenes / "manifest.csv", limit=IMAGES, batch_size=16)
    assert len(found) == 3
    for row in found.rows():
        assert row["largest_change"] < 1e-5
        assert row["within_005"] == 1
        assert row["shuffled"] < row["mined"] / 2


def test_held_out_on_other_pictures_is_the_literal_correlation(mined: Path, scenes: Path) -> None:
    with open_store(mined) as store:
        zoo = store.rosetta()
        (row,) = zoo.held_out(
            scenes / "manifest.csv", ["clip", "resnet"], where="path >= 'images/00100'"
        ).rows()
        buddies = zoo._zoo.buddies("clip", "resnet", k=5)  # pyright: ignore[reportPrivateUsage]
    paths = sorted((scenes / "images").iterdir())[100:]
    others = Batch([Image.open(path).convert("RGB") for path in paths])
    every = literal_correlations(load_member(CLIP).maps(others), load_member(RESNET).maps(others))
    held = every[buddies.first, buddies.second]
    assert row["held_out"] == pytest.approx(float(np.nanmean(held)), abs=1e-5)
    change = np.abs(held - buddies.correlation)
    assert row["largest_change"] == pytest.approx(float(np.nanmax(change)), abs=1e-5)


def test_images_that_cannot_be_read_are_left_out(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "_SUBMITTED", 3)
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((scenes / "images").iterdir())[:8]:
        shutil.copy(path, folder)
    (folder / "broken.png").write_bytes(b"no picture")
    said: list[str] = []
    found = mine_rosetta(
        folder, tmp_path / "z.lens", models=[CLIP, RESNET], notice=said.append, examples=0
    )
    why = "not an image: begins with b'no picture'"
    assert said == [f"1 image cannot be read and is left out: broken.png ({why})"]
    assert "8 pictures" in str(found.info())
    for number in range(4):
        (folder / f"broken{number}.png").write_bytes(b"no picture")
    left_out = pictures.readable_pictures(open_source(folder), batch_size=8).left_out() or ""
    assert left_out.startswith("5 images cannot be read and are left out: broken.png (not an image")
    assert left_out.count("; ") == 3
    assert left_out.endswith("; and 2 more")


def test_pictures_are_central_squares(tmp_path: Path) -> None:
    wide = Image.fromarray(np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3))
    np.testing.assert_array_equal(np.asarray(square(wide)), np.asarray(wide)[:, 2:8])
    levels = torch.rand(2, 3, 4, 4)
    (first, _) = as_pictures(levels)
    wanted = (levels[0].permute(1, 2, 0) * 255).round().numpy()
    np.testing.assert_array_equal(np.asarray(first), wanted)


def test_bad_input_is_named_before_any_work(mine: Mine, mined: Path, tmp_path: Path) -> None:
    def never(stage: str, done: int, total: int) -> None:
        assert stage == "reading"

    wrong: list[tuple[type[Exception], str, tuple[str, ...], dict[str, Any]]] = [
        (BadMember, "is alone", (CLIP,), {}),
        (BadMember, "none of the zoo's models", (CLIP, MAE), {"anchor": "resnet"}),
        (BadMember, "clip", (CLIP, CLIP), {}),
        (BadMember, "a zoo needs models", (), {}),
        (BadName, "A Zoo", (CLIP, MAE), {"zoo": "A Zoo"}),
        (BadQuestion, "generator's", (CLIP, MAE), {"samples": 10}),
        (BadQuestion, "two or more", (CLIP, MAE), {"samples": 1}),
        (BadQuestion, "--neighbors", (CLIP, MAE), {"neighbors": 0}),
        (BadQuestion, "is a generator", (CLIP, "g=world:generator"), {}),
    ]
    for error, text, models, options in wrong:
        with pytest.raises(error, match=text):
            mine(tmp_path / "new.lens", *models, progress=never, **options)
    with pytest.raises(SourceNotFound):
        mine_rosetta(tmp_path / "nowhere", tmp_path / "new.lens", models=[CLIP, MAE])
    with pytest.raises(BadQuestion, match="no pictures"):
        mine_rosetta(None, tmp_path / "new.lens", models=[CLIP, MAE])
    two = ["g=world:generator", "h=world:generator", CLIP]
    with pytest.raises(BadMember, match="two generators"):
        mine_rosetta(None, tmp_path / "new.lens", models=two)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"")
    with pytest.raises(NoImages, match="none of the 1 images"):
        mine_rosetta(tmp_path / "bad", tmp_path / "new.lens", models=[CLIP, MAE])
    changed = tmp_path / "changed.lens"
    shutil.copytree(mined, changed, symlinks=True)
    for options, differs in (
        ({"limit": 50}, "number, names, content"),
        ({"neighbors": 3}, "neigh"),
    ):
        with pytest.raises(ZooMismatch, match=f"differ in {differs}.*rosetta drop"):
            mine(changed, MAE, progress=never, **options)
    with pytest.raises(ZooMismatch, match=r"model mae of zoo 'zoo' is published.*rosetta drop"):
        mine(changed, f"{MAE}#blocks.0.mlp.act", progress=never)
    assert answers(changed) == answers(mined)


def test_other_pictures_of_the_same_names_are_other_pictures(scenes: Path, tmp_path: Path) -> None:
    def show(first: int) -> Path:
        for place, path in enumerate(sorted((scenes / "images").iterdir())[first : first + 8]):
            shutil.copy(path, folder / f"{place}.png")
        return folder

    folder = tmp_path / "images"
    folder.mkdir()
    store = tmp_path / "z.lens"
    mine_rosetta(show(0), store, models=[MAE, RESNET], examples=0)
    with pytest.raises(ZooMismatch, match="differ in content"):
        mine_rosetta(show(8), store, models=[CLIP], examples=0)
    moved = show(0).rename(tmp_path / "moved")
    mine_rosetta(moved, store, models=[CLIP], examples=0)


def test_other_samples_of_the_generator_are_other_pictures(tmp_path: Path) -> None:
    def mine(*models: str, **options: Any) -> None:
        mine_rosetta(None, tmp_path / "z.lens", models=models, samples=8, examples=0, **options)

    def never(stage: str, done: int, total: int) -> None:
        raise AssertionError(stage)

    mine("g=world:generator#stages.0.relu1", RESNET, seed=1)
    with pytest.raises(ZooMismatch, match="differ in seed"):
        mine(MAE, seed=2, progress=never)
    with (
        open_store(tmp_path / "z.lens") as store,
        pytest.raises(BadQuestion, match="another seed than 1"),
    ):
        store.rosetta().held_out(samples=8)


def test_what_a_stopped_mining_left_of_other_pictures_is_not_published(
    mine: Mine, mined: Path, tmp_path: Path
) -> None:
    path = tmp_path / "z.lens"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "examples":
            raise KeyboardInterrupt

    # The other way around, and with another anchor: its pairs would stand beside the later ones.
    with pytest.raises(KeyboardInterrupt):
        mine(path, MAE, RESNET, CLIP, limit=20, progress=stop)
    half = path / "rosetta/zoo/pairs" / f"clip~resnet.1{durable.PARTIAL}"
    half.mkdir()
    mine(path, CLIP, RESNET, MAE)
    assert answers(path) == answers(mined)
    assert not half.exists()


def test_options_say_what_is_wrong_with_them() -> None:
    for name in ("neighbors", "memory", "batch_size", "examples", "seed", "samples", "limit"):
        for value in (-1, 1.5, True, "many"):
            with pytest.raises(BadQuestion, match=name):
                MiningOptions(**{name: value})  # type: ignore[arg-type]
