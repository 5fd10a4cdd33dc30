"""PSNR and SSIM against literal ones, LPIPS where it has weights, and strips of steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from PIL import Image
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from lensbase.ingest.rosetta import image_scores
from lensbase.ingest.rosetta.image_scores import lpips, psnr, ssim
from lensbase.ingest.rosetta.strip import save_strip, strip
from lensbase.schema.errors import WeightsNotFound
from lensbase.schema.zoo_errors import BadTarget

RNG = np.random.default_rng(0)
FIRST = RNG.integers(0, 256, (3, 20, 16, 3), dtype=np.uint8)
SECOND = np.clip(FIRST.astype(int) + RNG.integers(-30, 30, FIRST.shape), 0, 255).astype(np.uint8)


def literal_ssim(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """One channel: a Gaussian window of 11, sigma 1.5, around each place, mirrored at edges."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(weights, weights) / weights.sum() ** 2
    a, b = (np.pad(one, 5, mode="reflect") for one in (first, second))
    total = 0.0
    for row, column in np.ndindex(*first.shape):
        x, y = (one[row : row + 11, column : column + 11] for one in (a, b))
        mx, my = (window * x).sum(), (window * y).sum()
        vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
        together = (window * x * y).sum() - mx * my
        total += ((2 * mx * my + 1e-4) * (2 * together + 9e-4)) / (
            (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
        )
    return total / first.size


def test_psnr_is_the_formula() -> None:
    error = ((FIRST / 255.0 - SECOND / 255.0) ** 2).mean((1, 2, 3))
    assert np.abs(psnr(FIRST, SECOND) - 10 * np.log10(1 / error)).max() < 1e-4
    assert np.isinf(psnr(FIRST, FIRST)).all()
    kept = FIRST.copy()
    kept.setflags(write=False)
    assert (psnr(kept, SECOND) == psnr(FIRST, SECOND)).all()


def test_ssim_is_the_formula() -> None:
    expected = [
        np.mean([literal_ssim(a[..., c] / 255.0, b[..., c] / 255.0) for c in range(3)])
        for a, b in zip(FIRST, SECOND, strict=True)
    ]
    assert np.abs(ssim(FIRST, SECOND) - expected).max() < 1e-4
    assert ssim(FIRST, FIRST) == pytest.approx([1, 1, 1])


def test_bytes_and_floats_score_the_same_image_by_image() -> None:
    floats = [torch.tensor(one).permute(0, 3, 1, 2) / 255 for one in (FIRST, SECOND)]
    for score in (psnr, ssim):
        found = score(*floats)
        assert np.abs(found - score(FIRST, SECOND)).max() < 1e-5
        single = np.concatenate(
            [score(FIRST[i : i + 1], SECOND[i : i + 1]) for i in range(len(FIRST))]
        )
        assert np.abs(found - single).max() < 1e-5


@pytest.mark.parametrize("score", [psnr, ssim, lpips])
def test_images_that_cannot_be_compared_are_named(score: object) -> None:
    assert callable(score)
    with pytest.raises(BadTarget, match="of the same size"):
        score(FIRST, SECOND[:2])
    with pytest.raises(BadTarget, match="neither uint8"):
        score(FIRST[0], SECOND[0])
    with pytest.raises(BadTarget, match="from 0 to 1"):
        score(torch.full((1, 3, 16, 16), math.nan), torch.zeros(1, 3, 16, 16))
    with pytest.raises(BadTarget, match="from 0 to 1"):
        score(torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 255.0))


def test_images_below_the_window_have_no_ssim() -> None:
    with pytest.raises(BadTarget, match="11 x 11"):
        ssim(FIRST[:, :8], SECOND[:, :8])


def test_lpips_without_its_weights_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    # No request leaves this machine: a proxy that nobody listens at.
    monkeypatch.setenv("https_proxy", "127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(WeightsNotFound, match="loss='perceptual'"):
        image_scores.lpips_network()


def test_lpips_is_that_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawn weights in the place of downloaded ones: how images reach the network is what is tested.
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    drawn = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(drawn, tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    images, others = (np.repeat(np.repeat(one, 4, 1), 4, 2) for one in (FIRST, SECOND))
    tensors = [torch.tensor(one).permute(0, 3, 1, 2) / 255 for one in (images, others)]
    expected = learned_perceptual_image_patch_similarity(
        *tensors, net_type="squeeze", normalize=True, reduction="none"
    )
    assert np.abs(lpips(images, others, network="squeeze") - expected.numpy()).max() < 1e-6
    assert (lpips(images, images, network="squeeze") == 0).all()
    assert (expected > 0).all()


def test_a_strip_has_steps_across_and_pictures_down() -> None:
    frames = RNG.integers(0, 255, (4, 2, 5, 6, 3), dtype=np.uint8)
    drawn = np.asarray(strip(frames, gap=1))
    assert drawn.shape == (2 * 5 + 1, 4 * 6 + 3, 3)
    for step in range(4):
        for row in range(2):
            top, left = row * 6, step * 7
            assert (drawn[top : top + 5, left : left + 6] == frames[step, row]).all()
    thinned = np.asarray(strip(frames, most=2, gap=1))
    assert (thinned[:5, :6] == frames[0, 0]).all()
    assert (thinned[:5, 7:] == frames[3, 0]).all()


def test_a_gif_runs_through_the_steps(tmp_path: Path) -> None:
    frames = np.zeros((5, 1, 2, 8, 8, 3), np.uint8)
    frames += np.arange(5, dtype=np.uint8).reshape(-1, 1, 1, 1, 1, 1) * 50
    with Image.open(save_strip(frames, tmp_path / "steps.gif", milliseconds=40)) as gif:
        assert gif.n_frames == 5  # pyright: ignore[reportAttributeAccessIssue]
        assert gif.info["duration"] == 40
        for step in range(5):
            gif.seek(step)
            assert np.asarray(gif.convert("RGB"))[0, 0].tolist() == [50 * step] * 3
    with Image.open(save_strip(frames, tmp_path / "steps.png")) as png:
        assert png.size == (5 * 8 + 4 * 2, 2 * 8 + 2)
    with pytest.raises(BadTarget, match=r"\.gif"):
        save_strip(frames, tmp_path / "steps.mp4")
    with pytest.raises(BadTarget, match="keep_every"):
        strip(frames[:0])
