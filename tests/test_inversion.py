"""Inversion guided by matched units: its loss, its gradient, what it recovers and refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from disk_zoo import PAIRS, SIDE, Disks, Moments, Reader, statistics
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from lensbase.ingest.rosetta.activation_loss import ActivationLoss, Guide, choose_units
from lensbase.ingest.rosetta.image_scores import psnr
from lensbase.ingest.rosetta.inversion import Inversion, Pairs, invert, visualize
from lensbase.ingest.rosetta.units import UnitModule
from lensbase.schema.zoo_errors import BadLatent, BadOptimization, BadPairs, BadTarget

DISKS, READER = Disks(), Reader()
STATISTICS = statistics()
ALL = Pairs(READER, *PAIRS)  # pyright: ignore[reportArgumentType]
LITTLE: dict[str, Any] = {"pairs": ALL, "statistics": STATISTICS, "steps": 8}


class Hooked:
    """The modules of a model; nothing else of it is needed for the loss."""

    def __init__(self, name: str, modules: list[tuple[int, tuple[int, int]]]) -> None:
        self.name = name
        self.modules = tuple(
            UnitModule(f"m{number}", channels, grid)
            for number, (channels, grid) in enumerate(modules)
        )
        self.units = sum(module.channels for module in self.modules)

    def random(self, rng: np.random.Generator, images: int) -> dict[str, Tensor]:
        return {
            one.name: torch.tensor(rng.gamma(1.0, size=(images, one.channels, *one.grid)))
            for one in self.modules
        }


def literal_similarity(
    ours: Tensor, theirs: Tensor, means: tuple[float, float], variances: tuple[float, float]
) -> float:
    """One pair of T4.6 in one image, place by place, as a mean over places."""
    size = tuple(max(sides) for sides in zip(ours.shape, theirs.shape, strict=True))
    first, second = (
        F.interpolate(one[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        for one in (ours, theirs)
    )
    total = 0.0
    for row in range(size[0]):
        for column in range(size[1]):
            a, b = float(first[row, column]), float(second[row, column])
            total += (a - means[0]) * (b - means[1]) / math.sqrt(variances[0] * variances[1])
    return total / (size[0] * size[1])


def unit_map(model: Hooked, maps: dict[str, Tensor], unit: int, image: int) -> Tensor:
    for module in model.modules:
        if unit < module.channels:
            return maps[module.name][image, unit]
        unit -= module.channels
    raise AssertionError


GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 5))
MODULES = st.lists(st.tuples(st.integers(1, 4), GRIDS), min_size=1, max_size=3)


@hypothesis_settings(max_examples=40)
@given(ours=MODULES, theirs=MODULES, others=MODULES, seed=st.integers(0, 2**32 - 1))
def test_the_loss_is_the_literal_mean_over_pairs(
    ours: list[Any], theirs: list[Any], others: list[Any], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    generator, images = Hooked("g", ours), 2
    maps = generator.random(rng, images)
    mean, variance = rng.gamma(1.0, size=generator.units), rng.uniform(0.2, 3, generator.units)
    guides: list[Guide] = []
    expected: list[list[float]] = []
    for model in (Hooked("a", theirs), Hooked("b", others)):
        count = rng.integers(1, 9)
        first = rng.integers(generator.units, size=count)
        second = rng.integers(model.units, size=count)
        wanted = model.random(rng, images)
        their_mean, their_variance = rng.normal(size=model.units), rng.uniform(0.2, 3, model.units)
        guides.append(
            Guide(
                choose_units(generator, first, mean=mean, variance=variance),  # pyright: ignore[reportArgumentType]
                choose_units(model, second, mean=their_mean, variance=their_variance),  # pyright: ignore[reportArgumentType]
                wanted,
            )
        )
        expected += [
            [
                literal_similarity(
                    unit_map(generator, maps, j, image),
                    unit_map(model, wanted, k, image),
                    (float(mean[j]), float(their_mean[k])),
                    (float(variance[j]), float(their_variance[k])),
                )
                for image in range(images)
            ]
            for j, k in zip(first, second, strict=True)
        ]
    loss = ActivationLoss(guides)
    literal = np.array(expected).T
    assert np.abs(loss.by_pair(maps).numpy() - literal).max() < 1e-6
    assert np.abs(loss(maps).numpy() - literal.mean(1)).max() < 1e-6


def test_the_loss_has_the_gradient_of_finite_differences() -> None:
    sides = [
        choose_units(member, units, mean=moments.mean, variance=moments.variance)
        for member, units, moments in zip((DISKS, READER), PAIRS, STATISTICS.values(), strict=True)
    ]
    target = DISKS.generate(DISKS.sample(2, 5)).double()
    loss = ActivationLoss([Guide(sides[0], sides[1], READER.maps_of(target))])

    def of(z: Tensor) -> Tensor:
        return loss(DISKS.generate_with_maps(z, loss.modules)[1])

    z = DISKS.sample(2, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(of, (z,))


def test_guidance_alone_finds_the_picture() -> None:
    wanted = DISKS.sample(6, 11)
    target = DISKS.generate(wanted)
    found = invert(DISKS, target, pairs=ALL, statistics=STATISTICS, alpha=0.05, starts=2, steps=150)
    assert found.images.shape == (6, 2, SIDE, SIDE, 3)
    assert (found.losses[-1] < found.losses[0]).all()
    # The first step's rate is zero.
    assert (found.losses[1] == found.losses[0]).all()
    centers = 11 * np.tanh(0.8 * found.latent[:, 3:]) - 11 * np.tanh(0.8 * wanted[:, 3:].numpy())
    assert np.abs(centers).max() < 5, f"disks are {np.abs(centers).max():.1f} pixels away"


@pytest.mark.parametrize("seed", [1, 2])
def test_guidance_recovers_pictures_that_pixels_alone_do_not(seed: int) -> None:
    # A small disk away from its place has no pixel in common with it, so no way there.
    target = DISKS.generate(DISKS.sample(16, 12))
    settings: dict[str, Any] = {"loss": "pixel", "alpha": 1e-5, "steps": 200}
    settings["start"] = DISKS.sample(16, seed)
    alone = invert(DISKS, target, beta=0.0, **settings)
    guided = invert(DISKS, target, pairs=ALL, statistics=STATISTICS, beta=0.003, **settings)
    without, with_pairs = (psnr(found.image, found.targets) for found in (alone, guided))
    assert (with_pairs > 35).sum() >= 14, with_pairs
    assert (without > 35).sum() <= 4, without
    assert with_pairs.mean() > without.mean() + 6


def test_a_foreign_picture_keeps_its_layout() -> None:
    picture = np.full((90, 120, 3), 30, np.uint8)
    picture[50:80, 75:100] = (250, 40, 40)  # of the central square: right and down
    settings: dict[str, Any] = LITTLE | {"alpha": 0.05, "starts": 4, "steps": 120}
    found = invert(DISKS, Image.fromarray(picture), **settings)
    x, y = 16 + 11 * np.tanh(0.8 * found.latent[0, 3:])
    assert abs(x - 72.5 * SIDE / 90) < 4
    assert abs(y - 65 * SIDE / 90) < 4
    assert found.latent[0, 0] > max(found.latent[0, 1:3])  # red


def test_one_pair_is_seen_from_several_starts() -> None:
    target = DISKS.generate(DISKS.sample(1, 8))
    red = Pairs(READER, [3], [0])
    found = visualize(DISKS, target, pair=red, statistics=STATISTICS, steps=60, alpha=0)
    assert found.images.shape[:2] == (1, 4)
    assert found.similarity.shape == (1, 4, 1)
    before = visualize(DISKS, target, pair=red, statistics=STATISTICS, steps=1)
    assert (found.similarity > before.similarity).all()
    # What the pair does not stand for, green and blue, stays as diverse as the starts.
    assert (found.latents[0, :, 1:3] == DISKS.sample(4, 0)[:, 1:3].numpy()).all()


def test_rows_do_not_pull_at_each_other_and_a_seed_says_all() -> None:
    target = DISKS.generate(DISKS.sample(3, 4))
    settings: dict[str, Any] = LITTLE | {"starts": 2, "loss": "perceptual", "start": 7}
    whole = invert(DISKS, target, **settings)
    again = invert(DISKS, target, **settings)
    parts = invert(DISKS, target, batch_size=2, **settings)
    single = invert(DISKS, target[1:2], **settings)
    assert (whole.latents == again.latents).all()
    assert (whole.images == again.images).all()
    assert np.abs(whole.latents - parts.latents).max() < 1e-5
    assert np.abs(whole.latents[1:2] - single.latents).max() < 1e-5
    settings["start"] = 8
    other = invert(DISKS, target, **settings)
    assert np.abs(whole.latents - other.latents).max() > 0.1


def literal_adam(z: Tensor, target: Tensor, steps: int, alpha: float) -> list[float]:
    """T4.7 with a pixel loss and no guidance, by hand: the loss before each step."""
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    losses: list[float] = []
    for step in range(steps):
        z = z.detach().requires_grad_()
        loss = ((DISKS.generate(z) - target) ** 2).mean() + alpha * (z**2).mean()
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, z)
        time = step / steps
        rate = 0.1 * min(1, time / 0.05) * (1 - math.cos(math.pi * min(1, (1 - time) / 0.25))) / 2
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        z = z.detach() - rate * first / (1 - 0.9 ** (step + 1)) / corrected
    return losses


def test_every_step_is_one_of_adam_at_the_rate_of_the_schedule() -> None:
    pixels = torch.round(DISKS.generate(DISKS.sample(1, 1)) * 255) / 255
    start = DISKS.sample(1, 2)
    found = invert(DISKS, pixels, start=start, loss="pixel", beta=0, alpha=0.3, steps=40)
    expected = literal_adam(start, pixels, 40, 0.3)
    assert np.abs(found.losses[:-1, 0, 0] - expected).max() < 1e-6


def test_frames_and_progress() -> None:
    told: list[tuple[int, int]] = []
    target = DISKS.generate(DISKS.sample(3, 4))
    found = invert(
        DISKS,
        target,
        keep_every=3,
        batch_size=2,
        progress=lambda done, of: told.append((done, of)),
        **LITTLE,
    )
    assert found.frame_steps.tolist() == [0, 3, 6, 8]
    assert found.frames.shape == (4, 3, 1, SIDE, SIDE, 3)
    assert (found.frames[-1] == found.images).all()
    assert told == [(step, 16) for step in range(1, 17)]
    assert found.losses.shape == (9, 3, 1)
    assert len(invert(DISKS, target, **LITTLE).frames) == 0


def test_losses_by_name_and_by_function_say_the_same() -> None:
    target = DISKS.generate(DISKS.sample(2, 4))

    def squared(images: Tensor, targets: Tensor) -> Tensor:
        return ((images - targets) ** 2).mean((1, 2, 3))

    named = invert(DISKS, target, loss="pixel", **LITTLE)
    given_ = invert(DISKS, target, loss=squared, **LITTLE)
    assert (named.latents == given_.latents).all()
    absolute = invert(DISKS, target, loss="l1", regularizer="l1", **LITTLE)
    assert np.isfinite(absolute.losses).all()


def test_targets_as_pictures_bytes_and_floats_are_the_same() -> None:
    pixels = (DISKS.generate(DISKS.sample(2, 4)) * 255).round() / 255
    levels = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(one) for one in levels]
    results = [invert(DISKS, one, **LITTLE) for one in (pixels, levels, pictures)]
    assert all(isinstance(one, Inversion) for one in results)
    for one in results[1:]:
        assert (one.latents == results[0].latents).all()
        assert (one.targets == levels).all()


DEAD = Pairs(READER, [0], [4])
NAN = torch.full((5,), math.nan)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"pairs": ()}, BadPairs, "no pairs"),
        ({"pairs": Pairs(READER, [], [])}, BadPairs, "no units"),
        ({"pairs": Pairs(READER, [0, 1], [0])}, BadPairs, "2 units"),
        ({"pairs": Pairs(READER, [7], [0])}, BadPairs, "units 0 to 6, and no unit 7"),
        ({"pairs": Pairs(READER, [-1], [0])}, BadPairs, "no unit -1"),
        ({"pairs": DEAD}, BadPairs, "unit 4 of 'reader' was dead"),
        ({"statistics": {}}, BadPairs, "no statistics of 'disks'"),
        (
            {"statistics": STATISTICS | {"reader": Moments(np.zeros(2), np.ones(2))}},
            BadPairs,
            "5 units need",
        ),
        ({"target": np.zeros((2, SIDE, SIDE + 1, 3), np.uint8)}, BadTarget, "neither uint8"),
        ({"target": np.zeros((SIDE, SIDE), np.uint8)}, BadTarget, "neither uint8"),
        ({"target": torch.full((1, 3, SIDE, SIDE), 2.0)}, BadTarget, "from 0 to 1"),
        ({"target": torch.full((1, 3, SIDE, SIDE), math.nan)}, BadTarget, "from 0 to 1"),
        ({"target": []}, BadTarget, "no pictures"),
        ({"target": ["disk.png"]}, BadTarget, "no pictures"),
        ({"alpha": -0.1}, BadOptimization, "alpha=-0.1"),
        ({"beta": math.inf}, BadOptimization, "beta=inf"),
        ({"beta": 0}, BadOptimization, "nothing to match"),
        ({"steps": 0}, BadOptimization, "steps=0"),
        ({"rate": 0.0}, BadOptimization, r"rate=0\.0"),
        ({"regularizer": "l3"}, BadOptimization, "neither 'l2' nor 'l1'"),
        ({"keep_every": 0}, BadOptimization, "keep_every=0"),
        ({"batch_size": 0}, BadOptimization, "batch_size=0"),
        ({"loss": "pixels"}, BadOptimization, "no loss 'pixels'"),
        ({"loss": "perceptual", "pairs": (), "beta": 0}, BadOptimization, "none is given"),
        ({"loss": lambda a, b: (a - b).mean()}, BadOptimization, "a number an image"),
        ({"start": NAN}, BadLatent, "no numbers"),
        ({"start": torch.zeros(4)}, BadLatent, "of shape"),
        ({"starts": 0}, BadLatent, "starts=0"),
        ({"starts": 2.5}, BadLatent, "starts=2.5"),
        ({"batch_size": 2.5}, BadOptimization, "batch_size=2.5"),
    ],
)
def test_bad_input_is_named_before_the_first_step(
    settings: dict[str, Any], error: type[Exception], says: str
) -> None:
    told: list[int] = []
    given_: dict[str, Any] = {
        "target": DISKS.generate(DISKS.sample(1, 1)),
        "progress": lambda done, of: told.append(done),
        **LITTLE,
        **settings,
    }
    with pytest.raises(error, match=says):
        invert(DISKS, given_.pop("target"), **given_)
    assert not told


def test_a_loss_that_is_no_number_stops_the_optimization() -> None:
    target = DISKS.generate(DISKS.sample(1, 1))
    with pytest.raises(BadOptimization, match="no number at step"):
        invert(DISKS, target, loss=lambda a, b: (a - b).sum((1, 2, 3)) / 0, **LITTLE)
    with pytest.raises(BadPairs, match="7 are given"):
        visualize(DISKS, target, pair=ALL, statistics=STATISTICS)
