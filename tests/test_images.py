"""Decoding: every kind of file gives the picture a person sees, broken ones a short reason."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from broken_images import encoded, photograph, png_of, write_broken_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from lensbase.ingest.images import EXTENSIONS, MAX_PIXELS, decode, describe
from lensbase.schema.errors import LensbaseError, RejectedImage

PHOTO = photograph()
GREY = PHOTO.convert("L")


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def difference(image: Image.Image, wanted: Image.Image) -> float:
    """Mean absolute difference in grey levels."""
    assert image.size == wanted.size
    return float(np.abs(pixels(image) - pixels(wanted.convert("RGB"))).mean())


# Lossless kinds must be exact; the others may lose what their compression loses.
KINDS = {
    "grey": (GREY, "PNG", {}, 0),
    "grey-jpeg": (GREY, "JPEG", {"quality": 95}, 3),
    "bits": (GREY.convert("1"), "PNG", {}, 0),
    "rgb-jpeg": (PHOTO, "JPEG", {"quality": 95, "subsampling": 0}, 4),
    "rgb-webp": (PHOTO, "WEBP", {"lossless": True}, 0),
    "rgb-bmp": (PHOTO, "BMP", {}, 0),
    "rgb-ppm": (PHOTO, "PPM", {}, 0),
    "rgb-tiff-lzw": (PHOTO, "TIFF", {"compression": "tiff_lzw"}, 0),
    "palette": (PHOTO.quantize(32), "PNG", {}, 0),
    "palette-gif": (PHOTO.quantize(32), "GIF", {}, 0),
    "palette-bmp": (PHOTO.quantize(32), "BMP", {}, 0),
    "opaque-rgba": (PHOTO.convert("RGBA"), "PNG", {}, 0),
    "opaque-la": (GREY.convert("LA"), "PNG", {}, 0),
    "cmyk-jpeg": (PHOTO.convert("CMYK"), "JPEG", {"quality": 95, "subsampling": 0}, 5),
    "cmyk-tiff": (PHOTO.convert("CMYK"), "TIFF", {}, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_its_picture(kind: str) -> None:
    image, form, options, tolerance = KINDS[kind]
    assert difference(decode(encoded(image, form, **options)), image) <= tolerance


def test_ycck_jpeg_is_read_right() -> None:
    # Photoshop's CMYK files: Adobe's marker says that C, M and Y are stored as a color difference.
    # Pillow writes only plain CMYK, so its channels are given as what YCCK would hold.
    cmyk = (40, 180, 90, 30)
    luma = Image.new("RGB", (64, 64), cmyk[:3]).convert("YCbCr")
    planes = [Image.eval(plane, lambda value: 255 - value) for plane in luma.split()]
    image = Image.merge("CMYK", [*planes, Image.new("L", (64, 64), cmyk[3])])
    data = bytearray(encoded(image, "JPEG", quality=100))
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    data[marker + 11] = 2
    wanted = Image.new("CMYK", (64, 64), cmyk)
    assert difference(decode(bytes(data)), wanted) <= 2


def test_lab_tiff_becomes_rgb() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(PHOTO, srgb, lab, outputMode="LAB")
    assert image is not None
    assert difference(decode(encoded(image, "TIFF")), PHOTO) <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    # A red corner at the upper left of the upright picture, 40 x 20.
    upright = Image.new("RGB", (40, 20), "white")
    upright.paste("red", (0, 0, 16, 8))
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, record = describe(encoded(stored, form, exif=exif))
    assert image is not None
    assert (record.width, record.height) == image.size == (40, 20)
    assert not image.info
    red = pixels(image)[..., 1] < 128
    assert red[:8, :16].mean() > 0.9
    assert red.sum() <= 1.2 * 8 * 16


def test_broken_exif_leaves_the_picture_as_it_is() -> None:
    data = encoded(
        PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage", quality=95, subsampling=0
    )
    assert difference(decode(data), PHOTO) <= 4


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_bits_are_scaled_and_not_clipped(form: str) -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    assert values.max() == 65_520
    image = decode(encoded(Image.fromarray(values), form))
    assert np.array_equal(pixels(image)[..., 0], values >> 8)


def test_sixteen_bit_grey_and_color_files_agree() -> None:
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    big = values.byteswap().tobytes()
    color = b"P6\n64 64\n65535\n" + np.repeat(values.byteswap()[..., None], 3, axis=2).tobytes()
    grey = pixels(decode(b"P5\n64 64\n65535\n" + big))
    assert np.abs(grey - pixels(decode(color))).max() <= 1
    assert np.array_equal(grey[..., 0], values >> 8)


def test_big_endian_tiff_of_sixteen_bits() -> None:
    values = np.arange(64 * 64, dtype=">u2").reshape(64, 64) * 16
    image = Image.frombytes("I;16B", (64, 64), values.astype(">u2").tobytes())
    assert np.array_equal(pixels(decode(encoded(image, "TIFF")))[..., 0], values >> 8)


def test_whole_numbers_of_32_bits() -> None:
    values = np.arange(64 * 64, dtype=np.int32).reshape(64, 64)
    within = pixels(decode(encoded(Image.fromarray(values * 16), "TIFF")))[..., 0]
    assert np.array_equal(within, (values * 16) >> 8)
    beyond = pixels(decode(encoded(Image.fromarray(values * 1000 - 7), "TIFF")))[..., 0]
    assert beyond[0, 0] == 0
    assert beyond[-1, -1] == 255
    assert np.all(np.diff(beyond.ravel()) >= 0)


@pytest.mark.parametrize(("scale", "levels"), [(1, 255), (255, 1), (65_535, 1 / 256)])
def test_floats_of_the_usual_ranges(scale: float, levels: float) -> None:
    values = (np.linspace(0, 1, 64 * 64, dtype=np.float32) * scale).reshape(64, 64)
    image = pixels(decode(encoded(Image.fromarray(values), "TIFF")))[..., 0]
    assert np.abs(image - values * levels).max() <= 1


def test_floats_that_are_not_finite_are_black() -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0], values[1, 1], values[2, 2] = np.nan, np.inf, -np.inf
    image = pixels(decode(encoded(Image.fromarray(values), "TIFF")))[..., 0]
    assert [image[0, 0], image[1, 1], image[2, 2]] == [0, 0, 0]
    assert set(np.unique(image)) == {0, 128}


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_over_white(form: str) -> None:
    # Black paint, thinner from left to right: dropping alpha would give one black square.
    alpha = np.tile(np.linspace(255, 0, 64).round().astype(np.uint8), (16, 1))
    rgba = np.dstack([np.zeros((16, 64, 3), np.uint8), alpha])
    image = pixels(decode(encoded(Image.fromarray(rgba), form, lossless=True)))
    assert np.abs(image - (255 - alpha[..., None].astype(int))).max() <= 1


def half_transparent(mode: str) -> bytes:
    """An image of 8 x 8 black pixels of which the left half is fully transparent."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    if mode == "LA":
        return encoded(image.convert("LA"), "PNG")
    if mode == "P":
        # Two entries of the palette are black, and the first is transparent.
        palette = Image.new("P", (8, 8), 1)
        palette.putpalette([0, 0, 0] * 2)
        palette.paste(0, (0, 0, 4, 8))
        return encoded(palette, "PNG", transparency=0)
    if mode == "PA":
        palette = Image.new("PA", (8, 8))
        palette.putpalette([0, 0, 0])
        palette.putalpha(image.getchannel("A"))
        return encoded(palette, "TIFF")
    # One color is transparent, as PNG's tRNS chunk says: here not quite black.
    almost = {"L": 1, "RGB": (0, 0, 1)}[mode]
    image = Image.new(mode, (8, 8))
    image.paste(almost, (0, 0, 4, 8))
    return encoded(image, "PNG", transparency=almost)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGB"])
def test_every_way_to_be_transparent_shows_white(mode: str) -> None:
    values = pixels(decode(half_transparent(mode)))
    assert (values[:, :4] == 255).all()
    assert (values[:, 4:] == 0).all()


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_read(form: str) -> None:
    first = Image.new("RGB", (20, 10), "red")
    more = [Image.new("RGB", (20, 10), color) for color in ("lime", "blue")]
    extra = {} if form == "TIFF" else {"duration": 100}
    data = encoded(first, form, save_all=True, append_images=more, **extra)
    with Image.open(io.BytesIO(data)) as opened:
        assert getattr(opened, "n_frames", 1) == 3
    assert difference(decode(data), first) <= 2


def test_profiles_do_not_travel_on() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(PHOTO, "JPEG", icc_profile=profile)).info == {}


def test_a_record_is_of_the_bytes_and_the_upright_picture() -> None:
    data = encoded(PHOTO, "PNG")
    image, record = describe(data)
    assert image is not None
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert (record.width, record.height, record.bytes) == (96, 72, len(data))
    assert record.reason is None


# Broken ones


def test_forty_broken_files_are_each_rejected_with_a_reason(tmp_path: Path) -> None:
    paths = write_broken_images(tmp_path)
    assert len(paths) == len(set(paths)) == 40
    assert all(path.suffix in EXTENSIONS for path in paths)
    for path in paths:
        image, record = describe(path.read_bytes())
        assert image is None, f"{path.name} was decoded"
        assert record.width is record.height is None
        reason = record.reason
        assert reason, path.name
        assert len(reason) < 260
        assert "\n" not in reason
        assert " at 0x" not in reason
        expected = {
            "bomb": "decompression bomb: ",
            "truncated": "truncated: ",
            "empty": "empty: ",
            "one": "odd shape: ",
            "ribbon": "odd shape: ",
            "phone": "not supported: ",
            "text": "not an image: ",
        }.get(path.name.split(".")[0].split("-")[0])
        assert reason.startswith(expected or ""), f"{path.name}: {reason}"


def test_reasons_are_the_same_each_time(tmp_path: Path) -> None:
    for path in write_broken_images(tmp_path):
        assert describe(path.read_bytes()) == describe(path.read_bytes())


@settings(max_examples=150)
@given(st.data())
def test_damage_gives_a_picture_or_a_reason_and_never_another_error(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]))
    damaged = bytearray(encoded(PHOTO.resize((24, 18)), form))
    places = st.integers(0, len(damaged) - 1)
    for place in data.draw(st.lists(places, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(places)
    image, record = describe(bytes(damaged[:cut] if data.draw(st.booleans()) else damaged))
    assert (image is None) == (record.reason is not None)


def test_reasons_are_named_errors() -> None:
    with pytest.raises(RejectedImage, match=r"empty: no bytes") as caught:
        decode(b"")
    assert caught.value.reason == "empty: no bytes"
    assert isinstance(caught.value, LensbaseError)
    assert isinstance(caught.value, ValueError)


def test_the_bomb_limit_is_pillows_warning() -> None:
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    # 9,459 x 9,459 is the largest square below the limit; its bytes end too soon.
    with pytest.raises(RejectedImage, match="truncated"):
        decode(png_of(9459, 9459, b"\0"))
    with pytest.raises(RejectedImage, match="decompression bomb"):
        decode(png_of(9460, 9460, b"\0"))


def test_a_higher_limit_of_pillows_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(RejectedImage, match="decompression bomb: 9460 x 9460 pixels"):
        decode(png_of(9460, 9460, b"\0"))


def test_warning_filters_are_left_alone() -> None:
    bomb = png_of(12_000, 12_000, b"\0")
    broken = encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def work() -> None:
            for _ in range(20):
                describe(bomb)
                describe(broken)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not caught
    assert list(warnings.filters) == before


def test_nothing_is_printed(tmp_path: Path) -> None:
    # libtiff, libpng and libjpeg have voices of their own.
    write_broken_images(tmp_path)
    script = (
        "import sys, pathlib; from lensbase.ingest.images import describe\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir(): describe(path.read_bytes())"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Photographs


def test_photographs_decode(imagenet_samples: Path) -> None:
    # The first sixty of the thousand, and all that were kept as they were: greyscale or with EXIF.
    lines = (imagenet_samples / "manifest.csv").read_text().splitlines()[1:]
    chosen = [line for i, line in enumerate(lines) if i < 60 or line.endswith(",1")]
    assert len(chosen) > 100
    for line in chosen:
        image, record = describe((imagenet_samples / line.split(",")[0]).read_bytes())
        assert image is not None, f"{line}: {record.reason}"


@pytest.mark.slow
def test_all_thousand_photographs_decode(imagenet_samples: Path) -> None:
    paths = sorted(imagenet_samples.glob("*.jpg"))
    assert len(paths) == 1000
    rejected = {path.name: describe(path.read_bytes())[1].reason for path in paths}
    assert not {name: reason for name, reason in rejected.items() if reason}
