"""One image: heatmaps against literal products, pictures, and what is missing said plainly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fabricated_store import GRID, TEXTS, Truth, fabricate, lean
from PIL import Image

from lensbase.api import Store, open_store
from lensbase.api.image import ImageView
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    ClassifierMismatch,
    HeadTokensNotStored,
    ImageFileMissing,
    NeuronsNotStored,
    RejectedRow,
    StoreCorrupt,
    TextNotStored,
    TokensNotStored,
    UnknownComponent,
    UnknownImage,
    UnknownPool,
)
from lensbase.schema.layout import Layout

ROW = 33


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("image") / "x.lens"
    truth = fabricate(root)
    with open_store(root) as store:
        yield store, truth


@pytest.fixture(scope="module")
def truth(made: tuple[Store, Truth]) -> Truth:
    return made[1]


@pytest.fixture
def image(made: tuple[Store, Truth]) -> ImageView:
    return made[0].run().image(int(made[1].image_ids[ROW]))


def vector(truth: Truth, text: str) -> np.ndarray:
    return truth.pools["general"][TEXTS.index(text)]


def head_tokens(truth: Truth, row: int, head: int) -> np.ndarray:
    """c_{i,l,h} [T+1, d'] of layer 2 by the formula: linear part over sigma, the rest split."""
    alpha = truth.arrays["head_token_weight"][row, 0, head]
    v = truth.arrays["head_token_value"][row, 0, :, head]
    mu, sigma = truth.arrays["scale"][row, :2]
    basis, e = truth.basis[1, head], truth.shape.head_width
    rest = np.array([mu / sigma, 1 / sigma, 1]) @ basis[e:] / len(alpha)
    return (alpha[:, None] * v) @ basis[:e] / sigma + rest


# What it is


def test_an_image_knows_itself(image: ImageView, truth: Truth) -> None:
    assert (image.row, image.image_id) == (ROW, truth.image_ids[ROW])
    assert (image.key, image.label, image.subgroup) == ("odd/033.png", "odd", None)
    assert image.size == (24, 16)
    assert repr(image) == f"image {image.image_id} (odd/033.png, odd) of run 'world-demo'"
    np.testing.assert_array_equal(image.representation(), truth.arrays["representation"][[ROW]])
    terms = image.layer_effects()
    np.testing.assert_array_equal(terms, truth.arrays["layer"][[ROW]])
    assert terms.components is not None
    assert len(terms.components) == 7


def test_only_one_readable_image_can_be_looked_at(made: tuple[Store, Truth]) -> None:
    clip, truth = made[0].run(), made[1]
    with pytest.raises(UnknownImage):
        clip.image("nope")
    with pytest.raises(RejectedRow, match="empty"):
        clip.image(truth.keys[5])
    with pytest.raises(BadSelection):
        clip.image([])


# Heatmaps


def test_heatmaps_are_products_with_the_tokens(image: ImageView, truth: Truth) -> None:
    token = truth.arrays["token"][ROW]
    text, other = vector(truth, "sand"), vector(truth, "water")
    mean = truth.pools["general"].mean(0)
    for found, direction in (
        (image.heatmap("sand", debias=False), text),
        (image.heatmap("sand"), text - mean),
        (image.heatmap("sand", relative_to="water"), text - other),
        (image.heatmap("sand", relative_to="water", debias=False), text - other),
    ):
        assert found.values.shape == GRID
        assert found.values.dtype == np.float32
        np.testing.assert_allclose(
            found.values, (token @ direction).reshape(GRID), rtol=1e-4, atol=1e-5
        )


def test_head_heatmaps_add_up_to_the_heads_score(image: ImageView, truth: Truth) -> None:
    for head in (0, 1):
        tokens = head_tokens(truth, ROW, head)
        found = image.heatmap("sand", head=f"L2.H{head}", debias=False)
        expected = (tokens @ vector(truth, "sand"))[1:].reshape(GRID)
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
        whole = truth.contribution(2, head)[ROW] @ vector(truth, "sand")
        # float16 of alpha, v and u, added up over 7 tokens
        total = float((tokens @ vector(truth, "sand")).sum())
        assert total == pytest.approx(whole, abs=2e-2)


def test_top_and_bottom_are_the_heads_own_texts(
    made: tuple[Store, Truth], image: ImageView, truth: Truth
) -> None:
    texts = made[0].run().head("L2.H1").textspan()["text"].tolist()
    written = [truth.contribution(2, 1)[ROW] @ vector(truth, text) for text in texts]
    top = image.heatmap("top", head="L2.H1")
    bottom = image.heatmap("bottom", head="L2.H1")
    assert top.text == texts[int(np.argmax(written))]
    assert bottom.text == texts[int(np.argmin(written))]
    same = image.heatmap(top.text, head="l2.h1")
    np.testing.assert_array_equal(top.values, same.values)
    assert repr(top) == f"heatmap 2 x 3 of {top.text!r}, through L2.H1"


def test_any_mean_map_can_be_taken_away(
    made: tuple[Store, Truth], image: ImageView, truth: Truth
) -> None:
    token, text = truth.arrays["token"][ROW], vector(truth, "sand")
    classes = made[0].run().classifier(["water", "a big star"], templates="{}")
    pair = (vector(truth, "water") + vector(truth, "a big star")) / 2
    for debias, mean in (
        (True, truth.pools["general"].mean(0)),
        (False, np.zeros_like(text)),
        ("general", truth.pools["general"].mean(0)),
        ("words", truth.pools["words"].mean(0)),
        (["water", "a big star"], pair),
        (classes, pair),
    ):
        found = image.heatmap("sand", debias=debias)
        wanted = (token @ (text - mean)).reshape(GRID)
        np.testing.assert_allclose(found.values, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownPool, match="'nope'"):
        image.heatmap("sand", debias="nope")
    with pytest.raises(BadQuestion, match=r"debias=\[\] names no texts"):
        image.heatmap("sand", debias=[])
    with pytest.raises(ClassifierMismatch):
        image.heatmap("sand", debias=replace(classes, weights_sha256="0" * 64))


def test_a_grid_holds_every_head_and_text(image: ImageView, tmp_path: Path) -> None:
    grid = image.heatmaps(heads=["L2.H0", "L2.H1"])
    assert grid.values.shape == (2, 2, *GRID)
    for row, head in enumerate(("L2.H0", "L2.H1")):
        for column, text in enumerate(("top", "bottom")):
            alone = image.heatmap(text, head=head)
            np.testing.assert_array_equal(grid.values[row, column], alone.values)
            assert (grid[row][column].text, grid[row][column].head) == (alone.text, head)
    written = grid.png(tmp_path / "grid.png")
    assert (tmp_path / "grid.png").read_bytes() == written
    axes = grid.figure().axes
    assert [ax.get_ylabel() for ax in axes] == ["L2.H0", "", "L2.H1", ""]
    assert [ax.get_title() for ax in axes[:2]] == [heatmap.text for heatmap in grid[0]]
    whole = image.heatmaps("sand", debias=False)
    np.testing.assert_array_equal(whole.values[0, 0], image.heatmap("sand", debias=False).values)
    assert len(whole) == 1
    with pytest.raises(BadQuestion, match="one head"):
        image.heatmaps(heads=[])
    with pytest.raises(HeadTokensNotStored, match="--head-tokens"):
        image.heatmaps(heads=["L1.H0"])


# Segmentation


def test_a_segmentation_is_what_passes_the_maps_mean(
    image: ImageView, truth: Truth, tmp_path: Path
) -> None:
    found = image.segment("sand", size=(40, 60))
    warm = np.maximum(image.heatmap("sand").upsampled((40, 60)).astype(np.float64), 0)
    warm = (warm - warm.min()) / (warm.max() - warm.min())
    np.testing.assert_allclose(found.values, warm, atol=1e-5)
    assert (found.mask != (warm > warm.mean())).mean() < 2e-3
    assert found.mask.dtype == np.bool_
    assert found.share == found.mask.mean()
    half = image.segment("sand", size=(40, 60), threshold=0.5)
    np.testing.assert_array_equal(half.mask, found.values > 0.5)
    other = image.segment("sand", relative_to="water", debias=False)
    assert other.mask.shape == (16, 16)  # the crop's
    assert other.mask.any()
    assert (other.values != image.segment("sand").values).any()
    assert repr(half) == f"segmentation 40 x 60 of 'sand': {half.share:.1%} of the crop"
    np.testing.assert_array_equal(np.asarray(half), half.mask)
    np.testing.assert_array_equal(np.load(half.save(tmp_path / "a.npy")), half.values)
    mask = np.asarray(Image.open(half.save(tmp_path / "a.png")))
    np.testing.assert_array_equal(mask, half.mask * 255)
    assert Image.open(half.save(tmp_path / "a.webp")).size == (224, 224)
    with pytest.raises(BadQuestion, match=r"\.png"):
        half.save(tmp_path / "a.txt")


def test_a_segmentation_paints_its_mask_over_the_crop(image: ImageView) -> None:
    found = image.segment("sand")
    shown = np.asarray(found.picture(color=(0, 0, 255), strength=1))
    assert shown.shape == (224, 224, 3)
    np.testing.assert_array_equal(shown[7::14, 7::14, 2] == 255, found.mask)
    bare = np.asarray(found.picture(strength=0))
    np.testing.assert_array_equal(bare[0, 0], [ROW, 255 - ROW, 7])
    assert Image.open(BytesIO(found._repr_png_())).size == (224, 224)


def test_segmentations_that_cannot_be_are_refused(image: ImageView) -> None:
    with pytest.raises(NeuronsNotStored, match="kept no neurons"):
        image.segment("sand", method="neurons")
    with pytest.raises(BadQuestion, match="'tokens' and 'neurons'"):
        image.segment("sand", method="magic")  # type: ignore[arg-type]
    for threshold in (-1, 2.0, "median"):
        with pytest.raises(BadQuestion, match="from 0 to 1"):
            image.segment("sand", threshold=threshold)  # type: ignore[arg-type]
    for size in ((0, 4), (4,), 7, (4.5, 4)):
        with pytest.raises(BadQuestion, match=r"\(height, width\)"):
            image.segment("sand", size=size)  # type: ignore[arg-type]
    with pytest.raises(TextNotStored):
        image.segment("never seen")


def test_a_heatmap_is_a_picture_over_the_crop(image: ImageView, tmp_path: Path) -> None:
    heatmap = image.heatmap("sand")
    np.testing.assert_array_equal(np.asarray(heatmap), heatmap.values)
    large = heatmap.upsampled((40, 60))
    assert large.shape == (40, 60)
    assert large.min() >= heatmap.values.min() - 1e-6
    written = heatmap.png(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == written == heatmap._repr_png_()
    assert Image.open(BytesIO(written)).size == (224, 224)
    bare = np.asarray(heatmap.picture(strength=0))
    np.testing.assert_array_equal(bare[0, 0], [ROW, 255 - ROW, 7])  # the thumbnail shines through
    full = np.asarray(heatmap.picture(colors="gray", strength=1)).astype(int)
    hottest = np.unravel_index(full[..., 0].argmax(), full.shape[:2])
    place = np.unravel_index(heatmap.values.argmax(), GRID)
    assert (hottest[0] * 2 // 224, hottest[1] * 3 // 224) == place
    np.testing.assert_array_equal(np.load(heatmap.save(tmp_path / "a.npy")), heatmap.values)
    assert Image.open(heatmap.save(tmp_path / "a.webp")).size == (224, 224)
    with pytest.raises(BadQuestion, match=r"\.png"):
        heatmap.save(tmp_path / "a.txt")
    with pytest.raises(BadQuestion, match="turbo"):
        heatmap.picture(colors="nope")


def test_a_grid_is_saved_like_a_heatmap(image: ImageView, tmp_path: Path) -> None:
    grid = image.heatmaps(["sand", "water"], heads="L2.H1")
    for suffix in ("png", "webp", "jpg"):
        path = grid.save(tmp_path / f"grid.{suffix}")
        assert Image.open(path).size == Image.open(BytesIO(grid.png())).size
    np.testing.assert_array_equal(np.load(grid.save(tmp_path / "grid.npy")), grid.values)
    with pytest.raises(BadQuestion, match=r"\.png"):
        grid.save(tmp_path / "grid.txt")


def test_what_was_not_kept_is_named(made: tuple[Store, Truth], image: ImageView) -> None:
    with pytest.raises(
        HeadTokensNotStored, match=r"in layer 2, not in layer 1.*--run NEW_NAME --head-tokens 1,2"
    ):
        image.heatmap("sand", head="L1.H0")
    with pytest.raises(UnknownComponent):
        image.heatmap("sand", head="L9.H0")
    with pytest.raises(TextNotStored):
        image.heatmap("never seen")
    for ask in (lambda: image.heatmap("top"), image.heatmaps):
        with pytest.raises(BadQuestion, match=r"'top'.* need head= \(or heads="):
            ask()
    for ask in (image.heatmap, image.segment):
        with pytest.raises(BadQuestion, match=r"relative_to=.* is no text"):
            ask("sand", relative_to=["water"])  # type: ignore[arg-type]


def test_a_lean_run_has_no_heatmaps_and_no_pictures(tmp_path: Path) -> None:
    truth = fabricate(tmp_path / "x.lens", shape=lean(), thumbnails=False)
    with open_store(tmp_path / "x.lens") as store:
        image = store.run().image(int(truth.image_ids[ROW]))
        with pytest.raises(TokensNotStored, match="--tokens"):
            image.heatmap("sand")
        with pytest.raises(TokensNotStored, match="--tokens"):
            image.segment("sand")
        with pytest.raises(HeadTokensNotStored, match="in no layer, not in layer 2"):
            image.heatmap("sand", head="L2.H1")
        with pytest.raises(ImageFileMissing, match="--no-thumbnails"):
            image.thumbnail()
        with pytest.raises(ImageFileMissing, match="image_root"):
            image.picture()
        assert image._repr_png_() is None


def test_without_a_pool_there_is_no_mean_map(tmp_path: Path) -> None:
    truth = fabricate(tmp_path / "x.lens", pools=False, thumbnails=False)
    with open_store(tmp_path / "x.lens") as store:
        image = store.run().image(int(truth.image_ids[ROW]))
        image._run.texts.encode = lambda texts: np.ones((len(texts), 16), np.float32)  # type: ignore[method-assign]
        with pytest.raises(UnknownPool, match=r"lensbase pool add .*debias=False"):
            image.heatmap("sand")
        heatmap = image.heatmap("sand", debias=False)
        assert Image.open(BytesIO(heatmap.png())).size == (224, 224)  # over grey


# Pictures


def test_pictures_are_originals_where_they_are_still_there(
    made: tuple[Store, Truth], truth: Truth, tmp_path: Path
) -> None:
    store, number = made[0], int(truth.image_ids[ROW])
    assert store.run().image(number).picture().size == (16, 16)  # the thumbnail
    assert store.run().thumbnail(number).getpixel((3, 3)) == (ROW, 255 - ROW, 7)
    moved = tmp_path / "moved" / truth.keys[ROW]
    moved.parent.mkdir(parents=True)
    turned = Image.new("RGB", (16, 24), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it upright by a quarter
    turned.save(moved, exif=exif)
    with open_store(store.path, image_root=tmp_path / "moved") as elsewhere:
        image = elsewhere.run().image(moved)  # a path below the new root is a key too
        assert image.image_id == number
        assert image.picture().size == (24, 16)
        assert image.thumbnail().size == (16, 16)


def test_a_cut_short_thumbnail_file_is_damage(tmp_path: Path) -> None:
    truth = fabricate(tmp_path / "x.lens")
    path = Layout(tmp_path / "x.lens").thumbnails("world-demo", 1)
    path.write_bytes(path.read_bytes()[:100])
    with open_store(tmp_path / "x.lens") as store, pytest.raises(StoreCorrupt, match="segment 1"):
        store.run().thumbnail(int(truth.image_ids[ROW]))
