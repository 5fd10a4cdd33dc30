"""Zero-shot segmentation: ground truth in scenes, the protocol by loops, masks and bad input."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fabricated_store import fabricate, lean
from literal_segmentation import literal_precision, literal_upsample
from PIL import Image
from world_store import ingest_scenes

from lensbase.api import Store, open_store, segmentation_scores
from lensbase.api.maintenance import add_columns
from lensbase.api.run import RunView
from lensbase.ingest.world.masks import SEVERAL, pick_objects, write_masks
from lensbase.ingest.world.render import render
from lensbase.ingest.world.scenes import sample_scenes
from lensbase.queries.segmentation import average_precision, heat
from lensbase.schema.errors import (
    BadClasses,
    BadMask,
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    MaskMissing,
    TokensNotStored,
    UnknownColumn,
    UnknownLabel,
)

SCENES = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of two to four objects of which a text picks one, and masks of that one."""
    folder = tmp_path_factory.mktemp("several")
    write_masks(folder, count=SCENES, seed=5)
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Store]:
    ingest_scenes(folder, folder / "s.lens", heads="none", head_tokens="last:1")
    with open_store(folder / "s.lens") as store:
        yield store


@pytest.fixture(scope="module")
def clip(store: Store) -> RunView:
    return store.run()


@pytest.fixture(scope="module")
def masks(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"images/{path.name}": np.asarray(Image.open(path))
        for path in sorted((folder / "masks").glob("*.png"))
    }


# Ground truth


def test_token_heatmaps_beat_raw_attention_where_a_text_picks_one_object(
    clip: RunView, folder: Path, masks: dict[str, np.ndarray]
) -> None:
    found = clip.evaluate_segmentation(folder / "masks", templates="{}")
    # What the class token attends to in the last layer, mean over heads: kept with head-tokens.
    weight = clip._run.arrays["head_token_weight"].read(clip._run.images.select().rows)
    attention = heat(weight[:, 0, :, 1:].astype(np.float64).mean(1).reshape(-1, 8, 8), (64, 64))
    truth = [masks[key] > 0 for key in clip.images["key"]]
    pairs = list(zip(attention, truth, strict=True))
    alone = np.mean([average_precision(h, t, classes="foreground") for h, t in pairs])
    both = np.mean([average_precision(h, t) for h, t in pairs])
    # One object in several covers 4 % of a scene, so the published mAP, which ranks background
    # pixels too, is near 1 for any map: it must be better too, the foreground's tells how much.
    message = (
        f"mAP of the foreground {found.foreground_map:.3f} against raw attention's {alone:.3f}; "
        f"of both classes {found.map:.3f} against {both:.3f}"
    )
    assert found.foreground_map - alone >= 0.2, message
    assert found.map > both, message


def test_masks_are_of_the_one_object_that_the_text_picks() -> None:
    rng = np.random.default_rng(0)
    scenes = sample_scenes(rng, 300, SEVERAL)
    drawing = render(scenes)
    picked = pick_objects(scenes, drawing, rng)
    assert (picked >= 0).sum() > 200
    for scene, slot in enumerate(picked):
        others = [
            (scenes.color[scene, one], scenes.shape[scene, one])
            for one in range(scenes.count[scene])
            if one != slot
        ]
        if slot >= 0:
            assert slot < scenes.count[scene]
            assert (scenes.color[scene, slot], scenes.shape[scene, slot]) not in others
            assert (drawing.masks[scene] == slot + 1).sum() > 9


def test_written_masks_repeat_and_fit_their_images(folder: Path, tmp_path: Path) -> None:
    write_masks(tmp_path, count=3, seed=5)
    for name in ("images/00002.png", "masks/00001.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == SCENES
    assert {int(row["objects"]) for row in rows} == {2, 3, 4}
    for row in rows[:20]:
        mask = np.asarray(Image.open(folder / "masks" / Path(row["path"]).name))
        assert mask.shape == (64, 64)
        assert set(np.unique(mask)) == {0, 255}


# The protocol, by loops in float64


def test_the_protocol_is_the_published_one(clip: RunView, masks: dict[str, np.ndarray]) -> None:
    run, count = clip._run, 10
    made = clip.classifier(["a red circle", "a blue square", "a green star"], templates="{}")
    ids = clip.images["image_id"][:count]
    found = clip.evaluate_segmentation(masks, classes=made, target="predicted", images=ids)
    weights = made.weights.astype(np.float64)
    right = labelled = 0
    shared, either = [0, 0], [0, 0]
    precisions: list[float] = []
    for place, row in enumerate(run.images.select(ids).rows):
        representation = run.arrays["representation"].read(int(row))[0].astype(np.float64)
        token = run.arrays["token"].read(int(row))[0].astype(np.float64)
        chosen = int(np.argmax([representation @ w for w in weights]))
        scores = [t @ weights[chosen] - sum(t @ w for w in weights) / 3 for t in token]
        map_ = np.maximum(literal_upsample(np.reshape(scores, (8, 8)), 64), 0)
        map_ = (map_ - map_.min()) / (map_.max() - map_.min())
        mask = masks[found.images["key"][place]] > 0
        assert found.images["class"][place] == made.classes[chosen]
        for predicted, true in zip((map_ > map_.mean()).ravel(), mask.ravel(), strict=True):
            labelled += 1
            right += predicted == true
            for kind in (0, 1):
                shared[kind] += predicted == kind and true == kind
                either[kind] += predicted == kind or true == kind
        positive = [*(~mask).ravel().tolist(), *mask.ravel().tolist()]
        ranked = [*(1 - map_).ravel().tolist(), *map_.ravel().tolist()]
        precisions.append(literal_precision(positive, ranked))
        precision = found.images["average_precision"][place]
        assert precision == pytest.approx(precisions[-1], abs=1e-5)
        alone = literal_precision(mask.ravel().tolist(), map_.ravel().tolist())
        assert found.images["foreground_precision"][place] == pytest.approx(alone, abs=1e-5)
    iou = [shared[0] / either[0], shared[1] / either[1]]
    # float32 maps move a pixel in a few thousand over its map's mean
    assert found.pixel_accuracy == pytest.approx(right / labelled, abs=1e-3)
    assert found.iou == pytest.approx(iou, abs=1e-3)
    assert found.miou == pytest.approx((iou[0] + iou[1]) / 2, abs=1e-3)
    assert found.map == pytest.approx(np.mean(precisions), abs=1e-5)


def test_images_without_a_label_are_passed_over(
    folder: Path, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Two of twelve lose their label: the scores are those of the other ten."""
    copytree(folder / "s.lens", tmp_path / "s.lens", symlinks=True)
    keys = list(masks)
    add_columns(tmp_path / "s.lens", pa.table({"key": [keys[1], keys[4]], "label": [None, None]}))
    with open_store(tmp_path / "s.lens") as store:
        clip, ids = store.run(), list(range(12))
        ten = [one for one in ids if one not in (1, 4)]
        ask: dict[str, Any] = {"templates": "{}", "classes": sorted(set(clip.images["label"][ten]))}
        wanted = clip.evaluate_segmentation(masks, images=ten, **ask)
        labeled = {key: masks[key] for key in keys if key not in (keys[1], keys[4])}
        for given in (masks, labeled, np.array([masks[key] for key in keys[:12]])):
            found = clip.evaluate_segmentation(given, images=ids, **ask)
            assert found.images.rows() == wanted.images.rows()
            assert found.note == "2 images without a value in column 'label' were passed over"
            assert found.note in repr(found)
        assert wanted.note is None


def test_a_threshold_may_be_a_number(clip: RunView, folder: Path) -> None:
    strict = clip.evaluate_segmentation(folder / "masks", templates="{}", threshold=0.5)
    loose = clip.evaluate_segmentation(folder / "masks", templates="{}", threshold=0.0)
    mean = clip.evaluate_segmentation(folder / "masks", templates="{}", threshold="mean")
    default = clip.evaluate_segmentation(folder / "masks", templates="{}", threshold=None)
    assert default.pixel_accuracy == mean.pixel_accuracy
    assert strict.map == loose.map == mean.map
    assert strict.pixel_accuracy > loose.pixel_accuracy
    for wrong in (-0.1, 1.5, "median", True, float("nan")):
        with pytest.raises(BadQuestion, match="from 0 to 1"):
            clip.evaluate_segmentation(folder / "masks", threshold=wrong)  # type: ignore[arg-type]


# Masks from everywhere


def test_masks_may_be_a_folder_an_array_a_mapping_or_a_function(
    clip: RunView, folder: Path, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    ids = clip.images["image_id"][:12]
    keys = clip.images["key"][:12].tolist()
    beside = tmp_path / "beside" / "images"
    beside.mkdir(parents=True)
    for key in keys:
        name = Path(key).stem
        Image.fromarray(masks[key]).save(beside / f"{name}_mask.png")
        Image.new("RGB", (64, 64)).save(beside / f"{name}.png")  # the image itself, no mask
    forms = (
        folder / "masks",
        str(beside.parent),
        np.array([masks[key] for key in keys]),
        masks,
        lambda key: masks[key] > 0,
    )
    found = [clip.evaluate_segmentation(form, templates="{}", images=ids) for form in forms]
    for other in found[1:]:
        assert other.images.rows() == found[0].images.rows()


def test_void_pixels_count_for_nothing(clip: RunView, masks: dict[str, np.ndarray]) -> None:
    ids = clip.images["image_id"][:6]
    void = {key: np.where(np.arange(64) < 32, 7, mask) for key, mask in masks.items()}
    found = clip.evaluate_segmentation(void, ignore=7, templates="{}", images=ids)
    whole = clip.evaluate_segmentation(masks, templates="{}", images=ids)
    for place, key in enumerate(found.images["key"]):
        view = clip.image(key)
        classes = clip.classifier(sorted(set(whole.images["class"])), templates="{}")
        shown = view.segment(found.images["class"][place], debias=classes)
        right = (shown.mask == (masks[key] > 0))[:, 32:].mean()
        assert found.images["pixel_accuracy"][place] == pytest.approx(right, abs=2e-3)


def test_blocks_change_nothing(
    clip: RunView, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = clip.evaluate_segmentation(folder / "masks", where="image_id < 40")
    monkeypatch.setattr(segmentation_scores, "_BLOCK_BYTES", 7 * (8 * 64 * 64 + 40 * 64 * 64))
    parts = clip.evaluate_segmentation(folder / "masks", where="image_id < 40")
    assert whole.images.rows() == parts.images.rows()
    assert (whole.map, whole.miou) == (parts.map, parts.miou)
    assert len(parts.images) == 40


def test_predicted_classes_are_those_of_the_classifier(clip: RunView, folder: Path) -> None:
    classes = ["a red circle", "a blue square", "a green cross"]
    made = clip.classifier(classes, templates="{}")
    found = clip.evaluate_segmentation(folder / "masks", classes=made, target="predicted")
    scores = np.asarray(clip.representation()) @ made.weights.T
    assert found.images["class"].tolist() == [classes[one] for one in scores.argmax(1)]
    same = clip.evaluate_segmentation(
        folder / "masks", classes=classes, templates="{}", target="predicted"
    )
    assert same.images.rows() == found.images.rows()
    text = str(found)
    assert f"{found.map:.4f}" in text
    assert "150 images" in text


# What goes wrong is said


def test_missing_and_wrong_masks_are_named(
    clip: RunView, folder: Path, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    few = dict(list(masks.items())[2:])
    with pytest.raises(MaskMissing, match=r"'images/00000.png' \(nor of 1 others\)"):
        clip.evaluate_segmentation(few)
    with pytest.raises(MaskMissing, match=r"holds none of images/00000_mask.png"):
        clip.evaluate_segmentation(tmp_path)
    with pytest.raises(MaskMissing, match="no folder"):
        clip.evaluate_segmentation(tmp_path / "nowhere")
    with pytest.raises(BadMask, match=r"\[150, height, width\]"):
        clip.evaluate_segmentation(np.zeros((3, 64, 64)))
    with pytest.raises(BadMask, match="image's or the crop's: 64 x 64"):
        clip.evaluate_segmentation(np.zeros((SCENES, 32, 64)))
    with pytest.raises(BadMask, match="64 x 64 x 3"):
        clip.evaluate_segmentation(lambda _: np.zeros((64, 64, 3)))
    with pytest.raises(BadMask, match="image of colors"):
        clip.evaluate_segmentation(folder / "images")
    (tmp_path / "00000.png").write_bytes(b"no image")
    with pytest.raises(BadMask, match="cannot be read"):
        clip.evaluate_segmentation(tmp_path, images=[0])


def test_questions_that_make_no_sense_are_refused(clip: RunView, folder: Path) -> None:
    masks = folder / "masks"
    with pytest.raises(BadQuestion, match="'label' and 'predicted'"):
        clip.evaluate_segmentation(masks, target="best")  # type: ignore[arg-type]
    with pytest.raises(UnknownColumn, match="objects"):
        clip.evaluate_segmentation(masks, label="nope")
    with pytest.raises(UnknownLabel, match="none of the classifier's classes: 'circle'"):
        clip.evaluate_segmentation(masks, classes=["circle"])
    with pytest.raises(BadSelection):
        clip.evaluate_segmentation(masks, where="objects > 9")
    for classes in (None, ["circle"]):
        with pytest.raises(BadSelection, match="none of the 150 images has a value in column"):
            clip.evaluate_segmentation(masks, label="subgroup", classes=classes)
    with pytest.raises(BadClasses):
        clip.evaluate_segmentation(masks, label="subgroup", target="predicted")
    made = clip.classifier(["circle", "square"])
    with pytest.raises(BadQuestion, match="not both"):
        clip.evaluate_segmentation(masks, classes=made, templates="{}", target="predicted")


def test_another_models_classifier_and_a_run_without_tokens_are_refused(
    clip: RunView, tmp_path: Path
) -> None:
    made = clip.classifier(["circle", "square"])
    fabricate(tmp_path / "x.lens")
    fabricate(tmp_path / "lean.lens", shape=lean())
    with open_store(tmp_path / "x.lens") as store, pytest.raises(ClassifierMismatch):
        store.run().evaluate_segmentation({}, classes=made, target="predicted")
    with open_store(tmp_path / "lean.lens") as store, pytest.raises(TokensNotStored):
        store.run().evaluate_segmentation({})


def test_a_preprocessing_of_ones_own_takes_masks_of_the_crops(tmp_path: Path) -> None:
    fabricate(tmp_path / "x.lens")  # whose model says nothing of how it crops
    with open_store(tmp_path / "x.lens") as store:
        run, classes = store.run(), ["sand", "water"]
        ask: dict[str, Any] = {"classes": classes, "templates": "{}", "target": "predicted"}
        run.evaluate_segmentation(lambda _: np.ones((16, 16)), **ask)
        with pytest.raises(BadMask, match=r"masks of the crops, 16 x 16"):
            run.evaluate_segmentation(lambda _: np.ones((16, 24)), **ask)
