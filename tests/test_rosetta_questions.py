"""What can be asked of a zoo in other words, and what is said where it cannot be answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import invoke
from PIL import Image
from synthetic_zoo import CLIP, CLIP_MODULE, GAN, IMAGES, RESNET, write_zoo

from lensbase.api import Store, open_store
from lensbase.ingest.images import opened
from lensbase.ingest.rosetta.optimization import Terms
from lensbase.ingest.rosetta.schedule import Schedule
from lensbase.schema.errors import ImageFileMissing
from lensbase.schema.zoo_errors import BadOptimization, UnknownMember, UnknownUnit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    layout = write_zoo(tmp_path_factory.mktemp("questions") / "z.lens", (GAN, RESNET, CLIP))
    with open_store(layout.root) as made:
        yield made


def test_a_clips_unit_may_be_named_as_its_neuron(store: Store) -> None:
    zoo = store.rosetta()
    address = f"clip:{CLIP_MODULE}/3"
    view = zoo.unit("clip:L5.N3")
    assert view.component == "L5.N3"
    assert view.address == address
    printed = [invoke("rosetta", "partners", store.path, one) for one in ("clip:L5.N3", address)]
    assert printed[0].exit_code == 0
    assert printed[0].stdout == printed[1].stdout
    for wrong in ("clip:L4.N3", "clip:L5.N20", "resnet:L5.N3"):
        with pytest.raises(UnknownUnit, match="is no unit of"):
            zoo.unit(wrong)
    with pytest.raises(UnknownMember, match="nearest is clip"):
        zoo.unit("clop:L5.N3")


def test_models_that_are_no_names_are_named(store: Store) -> None:
    zoo: Any = store.rosetta()
    for ask in (zoo.matches, zoo.concepts, zoo.units_of, zoo.dictionary):
        for wrong in (3, [3], [["clip"]]):
            with pytest.raises(UnknownMember, match=r"names no models: give one of gan, resnet"):
                ask(models=wrong)
    assert len(zoo.units_of([])) == len(zoo.units)


def test_few_pictures_are_said_to_be_few(store: Store) -> None:
    zoo = store.rosetta()
    for found in (zoo.matches(), zoo.concepts(), zoo.statistics()):
        assert found.note is not None
        assert f"of {IMAGES} pictures alone, many correlate by chance" in found.note
        assert "held_out()" in found.note


def test_many_pictures_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthetic_zoo.IMAGES", 200)
    with open_store(write_zoo(tmp_path / "z.lens", (GAN, CLIP)).root) as made:
        assert "chance" not in str(made.rosetta().statistics())


def test_the_list_is_for_people_and_json_keeps_all(store: Store) -> None:
    printed = invoke("rosetta", "list", store.path).stdout
    assert "{" not in printed
    assert "KiB" in printed or "MiB" in printed
    assert '"seed"' in invoke("rosetta", "list", store.path, "--json").stdout.replace("\\", "")


@pytest.mark.parametrize("wrong", ["x", None, True, [1], float("nan"), -1])
def test_numbers_that_no_optimization_can_run_with(wrong: Any) -> None:
    settings: Any = {
        "schedule": Schedule(),
        "alpha": 0.1,
        "beta": 1.0,
        "regularizer": "l2",
        "keep_every": None,
    }
    for name in ("alpha", "beta"):
        with pytest.raises(BadOptimization, match=f"{name}="):
            Terms(**settings | {name: wrong})
    if wrong is not None:
        with pytest.raises(BadOptimization, match="keep_every="):
            Terms(**settings | {"keep_every": wrong if wrong is not True else False})
    for name in ("rate", "up", "steps"):
        with pytest.raises(BadOptimization, match=f"{name}="):
            Schedule(**{name: wrong})  # type: ignore[arg-type]


def test_values_that_are_no_image_are_described_not_printed() -> None:
    for wrong in (torch.zeros(3, 640, 640), np.zeros((3, 640, 640)), ["x" * 999]):
        with pytest.raises(ImageFileMissing, match="give an image file") as said:
            opened(wrong)
        assert len(str(said.value)) < 200
        assert type(wrong).__name__ in str(said.value)
    with pytest.raises(ImageFileMissing, match=r"a Tensor of shape \(3, 640, 640\) is no image"):
        opened(torch.zeros(3, 640, 640))
    assert opened(Image.new("L", (3, 3))).mode == "RGB"
