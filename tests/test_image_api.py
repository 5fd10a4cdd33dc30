"""One image: heatmaps against literal products, pictures, and what is missing said plainly."""

from __future__ import annotations

from collections.abc import Iterator
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
    HeadTokensNotStored,
    ImageFileMissing,
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


def test_what_was_not_kept_is_named(made: tuple[Store, Truth], image: ImageView) -> None:
    with pytest.raises(HeadTokensNotStored, match=r"in layer 2, not in layer 1.*--head-tokens 1,2"):
        image.heatmap("sand", head="L1.H0")
    with pytest.raises(UnknownComponent):
        image.heatmap("sand", head="L9.H0")
    with pytest.raises(TextNotStored):
        image.heatmap("never seen")
    with pytest.raises(TextNotStored):
        image.heatmap("top")  # without a head it is a text like any other


def test_a_lean_run_has_no_heatmaps_and_no_pictures(tmp_path: Path) -> None:
    truth = fabricate(tmp_path / "x.lens", shape=lean(), thumbnails=False)
    with open_store(tmp_path / "x.lens") as store:
        image = store.run().image(int(truth.image_ids[ROW]))
        with pytest.raises(TokensNotStored, match="--tokens"):
            image.heatmap("sand")
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
