"""Networks that others trained and published, read through `checkpoint:`.

Their published top-1 (91.73, 92.63, 93.10 and 93.39 %) is not reached here: it is of the data set's
lossless pictures, and these are JPEG files of quality 75 with halved color, at 32 pixels a side.
That the compression is what is missing is likely, not proven: on 2,000 pictures one more such
compression, over shifted blocks, takes 6.6 points from resnet20 and 7.9 from resnet56. The bounds
on accuracy were set below what was measured (81.03, 82.56, 82.67 and 83.20 %), so they guard
against changes and prove nothing more. Maps and logits are held to a literal computation, which
takes architecture and normalization from the files' description as the member does.
"""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from shared_data import _shared
from torch import Tensor
from torch.nn import functional as F

from lensbase.api.mining import mine_rosetta
from lensbase.ingest.rosetta.members import HookedModel
from lensbase.ingest.rosetta.sources import load_member

PUBLISHED = {"resnet20": 91.73, "resnet32": 92.63, "resnet44": 93.10, "resnet56": 93.39}
BLOCKS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def weights() -> Path:
    return _shared("cifar-resnets")


def member_of(weights: Path, name: str) -> HookedModel:
    member = load_member(f"{name}=checkpoint:cifar_resnet:{name}@{weights / name}.safetensors")
    assert isinstance(member, HookedModel)
    return member


def test_set(cifar10: Path, *, every: int) -> tuple[list[Image.Image], np.ndarray]:
    """Every so many pictures, and the numbers of their classes in alphabetical order."""
    table = pq.read_table(cifar10)
    labels = table["label"].to_pylist()
    classes = sorted(set(labels))
    rows = range(0, len(labels), every)
    files = table["image"].take(list(rows)).to_pylist()
    pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
    return pictures, np.array([classes.index(labels[row]) for row in rows])


test_set.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def accuracy(member: HookedModel, pictures: list[Image.Image], truth: np.ndarray) -> float:
    """Top-1 in percent, of pictures read as a zoo's member reads them."""
    found: list[np.ndarray] = []
    for start in range(0, len(pictures), 250):
        pixels = member.pixels(pictures[start : start + 250])
        with torch.no_grad():
            found.append(member.logits(pixels).argmax(1).numpy())
    return float(100 * (np.concatenate(found) == truth).mean())


def literal(state: dict[str, Tensor], pixels: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Logits and the last block's output in float64, by the paper's formulas."""
    w = {key: value.double() for key, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        scale = w[f"{name}.weight"] / (variance + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + w[f"{name}.bias"][:, None, None]

    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    x = F.conv2d((pixels.double() - mean) / std, w["conv1.weight"], padding=1)
    x = norm(x, "bn1").clamp(min=0)
    for stage in (1, 2, 3):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = norm(y, f"{at}.bn1").clamp(min=0)
            y = norm(F.conv2d(y, w[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if stride == 2:
                x = x[:, :, ::2, ::2]
                none = torch.zeros_like(x[:, : x.shape[1] // 2])
                x = torch.cat([none, x, none], dim=1)
            x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"], x


@pytest.mark.parametrize("name", PUBLISHED)
def test_maps_and_logits_are_what_the_weights_say(weights: Path, cifar10: Path, name: str) -> None:
    from lensbase.ingest.rosetta.units import Batch

    pictures, _ = test_set(cifar10, every=2_500)
    member = member_of(weights, name)
    raw = np.stack([np.asarray(picture) for picture in pictures])
    pixels = torch.from_numpy(raw).permute(0, 3, 1, 2) / 255
    logits, last = literal(load_file(weights / f"{name}.safetensors"), pixels, BLOCKS[name])
    with torch.no_grad():
        mine = member.logits(member.pixels(pictures))
    assert float((mine - logits).abs().max()) < 1e-4
    assert member.modules[-1].name == f"layer3.{BLOCKS[name] - 1}.relu2"
    assert float((member.maps(Batch(pictures))[-1] - last).abs().max()) < 1e-4


def test_resnet20_reads_pictures_as_it_was_trained_to(weights: Path, cifar10: Path) -> None:
    # 2,000 pictures: a standard error of 0.9 points.
    pictures, truth = test_set(cifar10, every=5)
    member = member_of(weights, "resnet20")
    found = accuracy(member, pictures, truth)
    assert 79 < found < PUBLISHED["resnet20"]
    swapped = [Image.merge("RGB", picture.split()[::-1]) for picture in pictures]
    assert accuracy(member, swapped, truth) < found - 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"),
    [("resnet20", 79.5), ("resnet32", 80.5), ("resnet44", 81.5), ("resnet56", 82.5)],
)
def test_networks_on_compressed_pictures(
    weights: Path, cifar10: Path, name: str, least: float
) -> None:
    pictures, truth = test_set(cifar10, every=1)
    found = accuracy(member_of(weights, name), pictures, truth)
    print(f"{name}: {found:.2f} %, {PUBLISHED[name]} % of lossless pictures")  # noqa: T201
    assert least < found < PUBLISHED[name]


def test_every_relu_of_a_cifar_network_is_hooked(weights: Path) -> None:
    member = member_of(weights, "resnet20")
    assert len(member.modules) == 19
    assert member.units == 7 * 16 + 6 * 32 + 6 * 64
    assert [member.modules[i].grid for i in (0, 7, 13)] == [(32, 32), (16, 16), (8, 8)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_matches_of_cifar_networks_hold_on_other_pictures(
    weights: Path, cifar10: Path, tmp_path: Path
) -> None:
    """The pictures lie sorted by class: both fifths are of all ten."""
    names = ("resnet56", "resnet20", "resnet44")
    models = [f"{one}=checkpoint:cifar_resnet:{one}@{weights / one}.safetensors" for one in names]
    shown: dict[str, Any] = {"batch_size": 100}
    zoo = mine_rosetta(
        cifar10, tmp_path / "z.lens", models=models, where="hash(path) % 5 = 1", examples=0, **shown
    )
    rows = zoo.held_out(cifar10, where="hash(path) % 5 = 0", **shown).rows()
    print(zoo.statistics(), *rows, sep="\n")  # noqa: T201
    for row in rows:
        assert row["matches"] > 1000, row
        assert abs(row["held_out"] - row["mined"]) < 0.005, row
        assert row["median_change"] < 0.01, row
        assert row["within_005"] > 0.999, row
        assert abs(row["shuffled"]) < 0.1 * row["held_out"], row
    assert {(row["model_a"], row["model_b"]) for row in rows} == set(combinations(names, 2))
