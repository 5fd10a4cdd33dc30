"""A zoo that is mined again: what is there stays, and what cannot be mined leaves nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import invoke
from mined_members import TinyNetwork, numbered_pictures
from torch import Tensor

from lensbase.api import open_store
from lensbase.api.maintenance import drop_zoo
from lensbase.api.mining import mine_rosetta
from lensbase.ingest.rosetta.units import Batch
from lensbase.schema.catalog import publishing
from lensbase.schema.errors import MemoryTooSmall, NotAStore
from lensbase.schema.layout import Layout
from lensbase.schema.rosetta_tables import RosettaRun
from lensbase.schema.zoo_errors import BadMember, ForwardFailed, UnknownZoo, ZooMismatch

IMAGES = 12
LAYERS = [(5, (8, 8)), (4, (4, 4))]

BROKEN = """
from torch import nn

class Broken(nn.Module):
    input_size, mean, std = 16, (0.5,) * 3, (0.5,) * 3

    def forward(self, pixels):
        return pixels.no_such_thing()

def boom():
    raise RuntimeError("my own bug\\nand more of it")

def inside():
    return nn.Linear("wide", 3)
"""


class Silent(TinyNetwork):
    """A member that must not run."""

    def maps(self, batch: Batch) -> list[Tensor]:
        raise AssertionError(self.name)


class Late(TinyNetwork):
    """A member that fails on the pictures of the second batch."""

    def maps(self, batch: Batch) -> list[Tensor]:
        raise KeyboardInterrupt


def members(kind: type[TinyNetwork] = TinyNetwork, names: str = "ab") -> list[TinyNetwork]:
    return [kind(name, LAYERS, 1 + ord(name)) for name in names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("again")
    for number, picture in enumerate(numbered_pictures(IMAGES)):
        picture.save(made / f"{number:02}.png")
    return made


@pytest.fixture(scope="module")
def mined(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("again-store") / "z.lens"
    mine(folder, path, members())
    return path


@pytest.fixture
def store(mined: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mined, tmp_path / "z.lens", symlinks=True))


def mine(images: Path, store: Path, models: Sequence[Any], **options: Any) -> list[str]:
    said: list[str] = []
    settings: dict[str, Any] = {"examples": 4, "progress": False, "notice": said.append} | options
    mine_rosetta(images, store, models=models, **settings)
    return said


def current(store: Path) -> bytes:
    return Layout(store).current.read_bytes()


def label(store: Path) -> int | None:
    with open_store(store) as opened:
        (row,) = opened.sql("SELECT label FROM rosetta_run").rows()
    return row["label"]


def test_a_finished_mining_again_publishes_nothing_and_runs_no_model(
    folder: Path, store: Path
) -> None:
    before = current(store)
    # In other batches, or with more memory, there is nothing to do either.
    for options in ({}, {"batch_size": 5, "memory": 10**6}):
        said = mine(folder, store, members(Silent), **options)
        assert said == ["zoo 'zoo' has all of this already: nothing was mined"]
    assert current(store) == before


def test_examples_are_made_where_there_are_none_and_kept_where_they_fit(
    folder: Path, store: Path, tmp_path: Path
) -> None:
    kept = label(store)
    # Pictures that were moved are the same ones, under another address.
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    mine(moved, store, members(Silent))
    assert label(store) == kept
    with open_store(store) as opened:
        assert str(moved) in str(opened.rosetta().info())
    mine(moved, store, members(Silent), examples=0)
    assert label(store) is None
    before = current(store)
    mine(moved, store, members(Silent), examples=0)
    assert current(store) == before
    mine(moved, store, members(), examples=3)
    with open_store(store) as opened:
        assert len(opened.rosetta()._zoo.pictures) == 3  # pyright: ignore[reportPrivateUsage]


def test_lost_examples_are_made_again(folder: Path, store: Path) -> None:
    layout = Layout(store)
    layout.zoo_examples("zoo", label(store) or 0).with_suffix(".json").unlink()
    mine(folder, store, members())
    with open_store(store) as opened:
        assert len(opened.rosetta()._zoo.pictures) == 4  # pyright: ignore[reportPrivateUsage]


def test_what_cannot_be_mined_leaves_no_store(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.lens"
    with pytest.raises(BadMember, match="is alone"):
        mine(folder, path, members(names="a"))
    with pytest.raises(MemoryTooSmall):
        mine(folder, path, members(), memory=1)
    done = invoke("rosetta", "mine", path, folder, "--model", "a=world:reznet", "--model", "b=x")
    assert done.exit_code == 2
    done = invoke("rosetta", "mine", path, folder, "--model", "a=world:reznet")
    assert done.exit_code == 2
    assert "no model 'reznet'; nearest: resnet." in done.stderr
    assert not path.exists()
    (tmp_path / "mine.txt").write_text("somebody's")
    with pytest.raises(NotAStore):
        mine(folder, tmp_path, members(Silent))
    assert {file.name for file in tmp_path.iterdir()} == {"mine.txt"}


def test_a_zoo_from_before_contents_were_hashed_is_not_joined(folder: Path, store: Path) -> None:
    with publishing(Layout(store)) as draft:
        row = draft.session.query(RosettaRun).one()
        settings = json.loads(row.settings)
        del settings["pictures"]["sha256"]
        row.settings = json.dumps(settings)
    before = current(store)
    with pytest.raises(ZooMismatch, match=r"did not keep what its pictures hold.*rosetta drop"):
        mine(folder, store, members(Silent, "abc"))
    assert current(store) == before


def test_a_mining_that_was_never_published_can_be_dropped(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "z.lens"
    with pytest.raises(KeyboardInterrupt):
        mine(folder, path, [*members(), Late("c", LAYERS, 9)])
    kept = Layout(path).zoo("zoo")
    assert kept.exists()
    before = current(path)
    done = invoke("rosetta", "drop", path, "zoo")
    assert done.exit_code == 0, done.output
    assert "was never finished" in done.stdout
    assert not kept.exists()
    assert current(path) == before
    with pytest.raises(UnknownZoo):
        drop_zoo(path, "zoo")
    mine(folder, path, members())
    done = invoke("rosetta", "drop", path, "zoo")
    assert "brings it back" in done.stdout


def test_errors_of_a_users_own_code_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "tiny_zoo.py"
    source.write_text(BROKEN)
    (tmp_path / "no_python.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    lines = BROKEN.splitlines()
    wrong = {
        "tiny_zoo:boom": "raised RuntimeError: my own bug (tiny_zoo.py, line {raise RuntimeError})",
        "tiny_zoo:inside": "raised TypeError: {}(tiny_zoo.py, line {nn.Linear})",
        "tiny_zoo:Broken": "raised AttributeError: {}(tiny_zoo.py, line {no_such_thing})",
        "no_python:f": "raised SyntaxError: {}(no_python.py, line 1)",
    }
    for callable_, said in wrong.items():
        path = tmp_path / "z.lens"
        given = ("--model", f"t=checkpoint:{callable_}", "--model", "mae=world:mae")
        done = invoke("rosetta", "mine", path, folder, *given)
        assert done.exit_code == 2, done.output
        assert len(done.stderr.splitlines()) == 1
        for part in said.split("{}"):
            for number, line in enumerate(lines, start=1):
                for mark in ("raise RuntimeError", "nn.Linear", "no_such_thing"):
                    if mark in line:
                        part = part.replace(f"{{{mark}}}", str(number))
            assert part in done.stderr
        assert not path.exists()


def test_a_forward_pass_that_fails_on_the_way_is_named() -> None:
    from lensbase.ingest.rosetta.members import model_member

    class Fickle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = torch.nn.ReLU()

        def forward(self, pixels: Tensor) -> Tensor:
            if len(pixels) == 3:
                msg = "not three"
                raise ValueError(msg)
            return self.relu(pixels)

    member = model_member(Fickle(), name="fickle", input_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ForwardFailed, match=r"3 pictures raised ValueError: not three \(test_ros"):
        member.maps(Batch(numbered_pictures(3)))
