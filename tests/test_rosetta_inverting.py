"""Inversion and editing from a zoo in a store, with a generator and a model of disks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from disk_zoo import SIDE, Disks
from PIL import Image
from torch import Tensor, nn

from lensbase.api.inverted import Inverted
from lensbase.api.mining import mine_rosetta
from lensbase.api.rosetta import RosettaView
from lensbase.ingest.rosetta import image_scores
from lensbase.ingest.rosetta.generators import generator_member
from lensbase.ingest.rosetta.inversion import Pairs, invert
from lensbase.ingest.rosetta.members import model_member
from lensbase.schema.errors import BadQuestion, CheckpointMismatch
from lensbase.schema.zoo_errors import (
    BadLatent,
    BadTarget,
    NoGenerator,
    NoMatches,
    UnknownEdit,
    UnknownMember,
    UnknownUnit,
)


class Draw(nn.Module):
    """The disks' generator as a module: two hooked modules and a picture."""

    latent_size, output_range = 5, (0, 1)

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.ReLU(), nn.ReLU()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        images, maps = Disks().generate_with_maps(z, ["early", "late"])
        self.early(maps["early"])
        self.late(maps["late"])
        return images * self.gain


class Read(nn.Module):
    """Colors, blurred, on a grid of 16: one hooked module."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.pool, self.relu = nn.AvgPool2d(7, 2, padding=3), nn.ReLU()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.relu(self.pool(pixels) * self.gain).mean((2, 3))


def reader(gain: float = 1.0, name: str = "reader", **settings: Any) -> Any:
    inputs: dict[str, Any] = {"input_size": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3} | settings
    return model_member(Read(gain), name=name, **inputs)


MEMBERS: dict[str, Any] = {"disks": generator_member(Draw(), name="disks"), "reader": reader()}
WITH: dict[str, Any] = {"members": MEMBERS, "progress": False, "device": "cpu"}


def mined(folder: Path, models: list[Any], images: Any = None, **options: Any) -> RosettaView:
    return mine_rosetta(images, folder / "disks.lens", models=models, device="cpu", **options)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Any:
    models = list(MEMBERS.values())
    return mined(tmp_path_factory.mktemp("zoo"), models, samples=120, examples=4)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.full((60, 60, 3), 13, np.uint8)
    pixels[36:50, 10:24] = (230, 40, 40)  # red, left and low
    return Image.fromarray(pixels)


def test_an_image_is_inverted_by_the_matches_in_the_store(zoo: Any, picture: Image.Image) -> None:
    settings: dict[str, Any] = {"steps": 120, "alpha": 0.05, "starts": 2, "keep_every": 40}
    found = zoo.invert(picture, **settings, **WITH)
    assert isinstance(found, Inverted)
    x, y = SIDE / 2 + 11 * np.tanh(0.8 * found.latent[0, 3:])
    assert abs(x - 17 * SIDE / 60) < 4
    assert abs(y - 43 * SIDE / 60) < 4
    assert found.latent[0, 0] > max(found.latent[0, 1:3])
    # The same by hand, from the store's rows.
    assert all(ours.startswith("disks:") for ours, _ in found.pairs)
    buddies = zoo._zoo.buddies("disks", "reader", k=5)
    assert found.similarity.shape == (1, 2, len(buddies)) == (1, 2, len(found.pairs))
    pairs = Pairs(MEMBERS["reader"], buddies.first, buddies.second)
    statistics = {name: zoo._zoo.statistics(zoo._zoo.members[name]) for name in MEMBERS}
    direct = invert(MEMBERS["disks"], picture, pairs=pairs, statistics=statistics, **settings)
    assert (direct.latents == found.latents).all()
    assert found.scores()["psnr"].shape == (1,)


def test_what_is_shown_and_written(zoo: Any, picture: Image.Image, tmp_path: Path) -> None:
    found = zoo.invert([picture, picture], steps=4, starts=2, keep_every=2, **WITH)
    assert len(found) == 2
    assert found.image.size == (SIDE, SIDE)
    assert [len(row) for row in found.starts] == [2, 2]
    assert found.picture().size == (3 * SIDE + 4, 2 * SIDE + 2)
    assert found.strip().size == (3 * SIDE + 4, 4 * SIDE + 6)
    assert "2 pictures from 2 starts each, guided by" in repr(found)
    assert found._repr_html_().count("data:image/png") == 1
    assert Image.open(io.BytesIO(found.png())).width > 4 * SIDE
    assert len(found.plot().axes) == 8
    for name in ("found.png", "found.gif", "found.npz"):
        assert found.save(tmp_path / name).exists()
    with np.load(tmp_path / "found.npz") as kept:
        assert (kept["latents"] == found.latents).all()
    with pytest.raises(BadQuestion, match="no format"):
        found.save(tmp_path / "found.txt")


def test_a_file_an_example_and_pixels_are_images(
    zoo: Any, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "disk.png")
    results = [
        zoo.invert(given, steps=3, **WITH)
        for given in (picture, tmp_path / "disk.png", np.asarray(picture)[None])
    ]
    assert all((one.latents == results[0].latents).all() for one in results)
    example = zoo.invert(1, steps=3, **WITH)
    assert (np.asarray(example.targets[0]) == np.asarray(zoo._zoo.pictures[1])).all()


def test_a_loss_alone_needs_no_matches_and_no_model(zoo: Any, picture: Image.Image) -> None:
    alone: dict[str, Any] = {"loss": "pixel", "beta": 0, "steps": 3, "min_correlation": 0.99999}
    generator = {"members": {"disks": MEMBERS["disks"]}, "progress": False, "device": "cpu"}
    found = zoo.invert(picture, **alone, **generator)
    assert not found.pairs
    assert found.similarity.shape == (1, 1, 0)
    direct = invert(MEMBERS["disks"], picture, loss="pixel", beta=0, steps=3)
    assert (direct.latents == found.latents).all()
    # The maps that a perceptual loss compares are still those of a model.
    seen = zoo.invert(picture, **alone | {"loss": "perceptual"}, **WITH)
    named = zoo.invert(picture, **alone | {"loss": "perceptual", "reader": "reader"}, **WITH)
    assert (seen.latents == named.latents).all()
    with pytest.raises(UnknownMember, match="raeder"):
        zoo.invert(picture, "raeder", **alone, **generator)


def test_pixels_of_torch_are_an_image(zoo: Any, picture: Image.Image) -> None:
    sized = picture.resize((SIDE, SIDE))
    floats = torch.from_numpy(np.array(sized)).permute(2, 0, 1)[None] / 255
    found = zoo.invert(floats, steps=2, **WITH)
    assert (found.latents == zoo.invert(np.asarray(sized), steps=2, **WITH).latents).all()
    with pytest.raises(BadTarget, match=r"shape \(3, 32, 32\) and type torch.float32"):
        zoo.invert(floats[0], steps=2, **WITH)


def test_one_unit_is_seen_from_either_side(zoo: Any, picture: Image.Image) -> None:
    theirs = zoo.visualize("reader:relu/0", picture, steps=60, alpha=0.01, **WITH)
    (pair,) = theirs.pairs
    assert pair[0] in ("disks:early/0", "disks:late/0")
    assert len(theirs.starts[0]) == 4
    again = zoo.visualize(pair[0], picture, partner=pair[1], steps=60, alpha=0.01, **WITH)
    assert (again.latents == theirs.latents).all()
    red = theirs.latents[0, :, 0]
    assert (red > theirs.latents[0, :, 1:3].max(1)).all()


def test_a_latent_is_edited(zoo: Any) -> None:
    latent = np.array([2.0, -2.0, 0.0, -0.3, 0.0], np.float32)
    settings = {"steps": 120, "alpha": 0.02}
    found = zoo.edit(latent, "shift", right=0.25, settings=settings, **WITH)
    moved = 11 * (np.tanh(0.8 * found.latent[0, 3]) - np.tanh(-0.24))
    assert abs(moved - SIDE / 4) < 3
    red = ["disks:early/0", "disks:late/0"]
    paler = zoo.edit(latent, "lower", only=red, settings=settings, **WITH)
    assert paler.latent[0, 0] < 1
    assert {pair[0] for pair in paler.pairs} <= set(red)
    seeded = zoo.edit(7, "zoom", settings={"steps": 1}, **WITH)
    assert (seeded.latent == MEMBERS["disks"].sample(1, 7).numpy()).all()


def test_bad_questions_are_named(zoo: Any, picture: Image.Image) -> None:
    with pytest.raises(UnknownMember, match="no model 'raeder'"):
        zoo.invert(picture, "raeder", **WITH)
    with pytest.raises(NoMatches, match="min_correlation"):
        zoo.invert(picture, min_correlation=0.99999, **WITH)
    with pytest.raises(NoMatches, match="not matched"):
        zoo.invert(picture, "disks", **WITH)
    with pytest.raises(UnknownEdit, match="zoom"):
        zoo.edit(1, "rotate", **WITH)
    with pytest.raises(UnknownUnit):
        zoo.edit(1, "lower", only=["disks:early/9"], **WITH)
    with pytest.raises(BadQuestion, match="name units of disks"):
        zoo.edit(1, "lower", only=["reader:relu/0"], **WITH)
    with pytest.raises(BadQuestion, match="one must be"):
        zoo.visualize("reader:relu/0", picture, partner="reader:relu/1", **WITH)
    with pytest.raises(BadQuestion, match="from -1 to 1"):
        zoo.invert(picture, min_correlation="half", **WITH)
    with pytest.raises(NoMatches, match="not matched"):
        zoo.invert(picture, loss="perceptual", reader="disks", **WITH)
    with pytest.raises(BadLatent, match="'x' is no latent"):
        zoo.edit("x", "zoom", **WITH)


def test_a_model_other_than_the_mined_one_is_refused(zoo: Any, picture: Image.Image) -> None:
    for other, said in (
        (reader(2.0), "other weights"),
        (reader(mean=(0.5,) * 3), "shown pictures otherwise"),
        (reader(pattern="pool"), "other hooked modules"),
    ):
        others: dict[str, Any] = WITH | {"members": MEMBERS | {"reader": other}}
        with pytest.raises(CheckpointMismatch, match=said):
            zoo.invert(picture, **others)


def test_scores_are_those_of_table_4_1(
    zoo: Any, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lpips(images: Any, others: Any, *, network: str) -> Any:
        assert network == "vgg"
        return np.abs(images.astype(float) - others).mean((1, 2, 3))

    monkeypatch.setattr(image_scores, "lpips", lpips)
    found = zoo.invert([picture, picture], steps=2, starts=2, **WITH)
    assert found.scores().keys() == {"psnr", "ssim"}
    scores = found.scores(lpips="vgg")
    made = np.stack([np.asarray(one, float) for one in found.images])
    wanted = np.stack([np.asarray(one, float) for one in found.targets])
    np.testing.assert_allclose(scores["lpips"], np.abs(made - wanted).mean((1, 2, 3)))
    error = ((made - wanted) ** 2).mean((1, 2, 3)) / 255**2
    np.testing.assert_allclose(scores["psnr"], -10 * np.log10(error), rtol=1e-5)


def test_a_zoo_without_a_generator_says_so(tmp_path: Path, picture: Image.Image) -> None:
    (tmp_path / "images").mkdir()
    for number, angle in enumerate((0, 90, 180, 270)):
        picture.rotate(angle).save(tmp_path / "images" / f"{number}.png")
    models = [reader(), reader(0.5, name="other")]
    zoo = mined(tmp_path, models, images=tmp_path / "images", examples=2)
    with pytest.raises(NoGenerator, match="no generator"):
        zoo.invert(picture, progress=False)
