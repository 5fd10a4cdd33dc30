"""Masks take the same resizing and cropping as the images that the model sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from world_store import ingest_scenes

from lensbase.api import open_store
from lensbase.api.masks import CropMasks
from lensbase.queries.crops import Step, crop_places, crop_steps, cropped

MODES = ("shortest", "longest", "squash")
SIZES = ((224, 224), (64, 64), (96, 64), (50, 80))


def transform_of(mode: Any, size: tuple[int, int]) -> Any:
    from open_clip.transform import image_transform

    return image_transform(size, is_train=False, resize_mode=mode, interpolation="bicubic")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_a_mask_lines_up_with_the_crop(mode: str, size: tuple[int, int]) -> None:
    transform = transform_of(mode, size)
    steps = crop_steps({"size": list(size), "resize_mode": mode})
    assert steps == crop_steps({"size": list(size), "transform": repr(transform)})
    assert steps is not None
    for height, width in ((333, 517), (401, 203), (47, 61), (64, 64)):
        y, x = np.mgrid[:height, :width]
        shape = ((y / height - 0.4) / 0.25) ** 2 + ((x / width - 0.55) / 0.3) ** 2 < 1
        photo = Image.fromarray(shape.astype(np.uint8) * np.uint8(255)).convert("RGB")
        seen = transform(photo)[0].numpy()
        middle = (seen.max() + seen.min()) / 2
        mask = cropped(shape, steps)
        assert mask.shape == size
        overlap = (mask & (seen > middle)).sum() / (mask | (seen > middle)).sum()
        assert overlap > 0.95, f"{mode} {height} x {width} to {size}: IoU {overlap:.3f}"


@given(
    st.tuples(st.integers(8, 300), st.integers(8, 300)),
    st.sampled_from(MODES),
    st.sampled_from(SIZES),
)
def test_every_pixel_of_the_crop_has_its_place(
    size: tuple[int, int], mode: str, target: tuple[int, int]
) -> None:
    steps = crop_steps({"size": list(target), "resize_mode": mode})
    assert steps is not None
    for places, side, wanted in zip(crop_places(steps, size), size, target, strict=True):
        assert len(places) == wanted
        inside = places[places >= 0]
        assert (np.diff(inside) >= 0).all()
        assert inside.max() < side
        assert mode == "longest" or len(inside) == wanted


def test_what_moves_pixels_in_ways_unknown_is_not_guessed() -> None:
    from torchvision import transforms

    end = [transforms.CenterCrop(64), transforms.ToTensor()]
    known = transforms.Compose([transforms.Resize((70, 80)), *end])
    assert crop_steps({"size": [64, 64], "transform": repr(known)}) == (
        Step("squash", (70, 80)),
        Step("center", (64, 64)),
    )
    for odd in (transforms.RandomCrop(64), transforms.Lambda(np.asarray), transforms.Pad(3)):
        described = repr(transforms.Compose([odd, *end]))
        assert crop_steps({"size": [64, 64], "transform": described}) is None
    assert crop_steps({"size": [64, 64], "transform": "<function mine>"}) is None
    assert crop_steps({}) is None


def test_masks_of_odd_images_lie_over_what_the_model_saw(tmp_path: Path) -> None:
    """From files through an ingest to the thumbnail that shows what the model saw."""
    random = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    masks: dict[str, np.ndarray] = {}
    for number, (height, width) in enumerate(((61, 97), (150, 83), (40, 40), (64, 300))):
        y, x = np.mgrid[:height, :width]
        mask = np.hypot(y - 0.4 * height, x - 0.45 * width) < 0.3 * min(height, width)
        pixels = np.where(mask, 220, 60)[..., None] + random.integers(-20, 20, (height, width, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / f"{number}.png")
        masks[f"images/{number}.png"] = mask
    (tmp_path / "manifest.csv").write_text("\n".join(["path", *masks]) + "\n")
    ingest_scenes(tmp_path, tmp_path / "s.lens", heads="none", head_tokens=None)
    with open_store(tmp_path / "s.lens") as store:
        run = store.run()
        keys = run.images["key"].tolist()
        placed = CropMasks(masks, keys, run._run.row)
        for place, key in enumerate(keys):
            seen = np.asarray(run.thumbnail(key).convert("L")) > 140
            original = (masks[key].shape[0], masks[key].shape[1])
            mask = placed.read(place, original)
            overlap = (mask & seen).sum() / (mask | seen).sum()
            assert overlap > 0.95, f"{key} of {original}: IoU {overlap:.3f}"
        scores = run.evaluate_segmentation(masks, classes=["circle"], target="predicted")
        assert scores.pixel_accuracy == 1 - np.mean(
            [placed.read(i, masks[key].shape).mean() for i, key in enumerate(keys)]  # type: ignore[arg-type]
        ), "a single class less its own mean has no heat: all is background"
