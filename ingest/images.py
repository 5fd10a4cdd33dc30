"""Decoding: the bytes of an image file to the RGB picture a person would see, or a reason why not.

Greyscale, palette and CMYK images become RGB; EXIF rotation is applied; of animated files the
first frame is read.

Transparent pixels are composited over white, as a page or a viewer shows them.
open_clip's own preprocessing calls `.convert("RGB")`, which drops the alpha channel and uncovers
whatever colour the file holds below it, mostly black: a black drawing on a transparent ground
would be one black square.
Fully opaque images, the great majority, are the same either way.

Sixteen bits a channel become eight by their high byte, in greyscale as in colour, so that nothing
is clipped.
Colour profiles are ignored, as the models' preprocessing does.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..schema.errors import ImageFileMissing, RejectedImage

MAX_PIXELS: Final = 89_478_485
"""The most pixels an image may have: where Pillow begins to warn of decompression bombs."""

_LONGEST: Final = 200  # of a value in a message

MAX_ASPECT: Final = 100
"""The most that an image's longer side may be of its shorter one."""

FORMATS: Final = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "TIFF",
    "WEBP",
)
"""What is read. Pillow knows more, some of which starts other programs (EPS, WMF)."""

EXTENSIONS: Final = frozenset(
    f".{ending}"
    for line in (
        "apng avif bmp dib gif heic heif j2k jfif jp2 jpe jpeg jpg",
        "mpo pbm pgm png pnm ppm tif tiff webp",
    )
    for ending in line.split()
)
"""Lower-case endings of image files. HEIC is no format of Pillow's: rejected, not overlooked."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What is known of one image: of a rejected one the `reason`, and no size."""

    sha256: str | None
    width: int | None
    height: int | None
    bytes: int
    reason: str | None = None


def decode(data: bytes) -> Image.Image:
    """The upright RGB picture in `data`, of which transparent parts are white.

    `data` is a whole image file.
    Raises `RejectedImage` with a short reason for what is empty, no image, truncated or otherwise
    unreadable, larger than `MAX_PIXELS`, one pixel wide or high, or more than `MAX_ASPECT` times
    as long as wide.
    """
    if not data:
        reason = "empty: no bytes"
        raise RejectedImage(reason)
    with _quiet():
        try:
            return _upright_rgb(data)
        except RejectedImage:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = f"decompression bomb: more than {MAX_PIXELS} pixels"
        except UnidentifiedImageError:
            reason = _unidentified(data)
        except MemoryError:
            reason = "unreadable: not enough memory to decode it"
        except EOFError as error:
            reason = f"truncated: {_text(error) or 'the file ends too soon'}"
        # Pillow's decoders raise whatever their parsing stumbles over.
        except Exception as error:
            text = _text(error) or type(error).__name__
            if lacking := _bytes_lacking(data):
                text = f"{lacking} bytes are missing at the end"
            short = lacking or "truncated" in text.lower()
            reason = f"{'truncated' if short else 'unreadable'}: {text}"
    raise RejectedImage(reason)


def opened(image: Any) -> Image.Image:
    """The upright RGB picture of a file, or a PIL image in RGB.

    Raises `ImageFileMissing` or `RejectedImage`, which name the file.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    try:
        path = Path(image)
        data = path.read_bytes()
    except TypeError:
        given = f"{type(image).__name__} {image!r}"
        if (shape := getattr(image, "shape", None)) is not None:
            given = f"a {type(image).__name__} of shape {tuple(shape)}"
        elif len(given) > _LONGEST:
            given = f"a {type(image).__name__}"
        msg = f"{given} is no image: give an image file (in Python also a PIL image)."
        raise ImageFileMissing(msg) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        hint = "give an image file (in Python also a PIL image)."
        msg = f"there is no image at {image} ({why}); {hint}"
        raise ImageFileMissing(msg) from error
    try:
        return decode(data)
    except RejectedImage as error:
        reason = f"{path} cannot be read as an image ({error.reason}); give another file."
        raise RejectedImage(reason) from error


def describe(data: bytes) -> tuple[Image.Image | None, ImageRecord]:
    """The picture in `data` and its record: SHA-256 of the bytes, size upright, or the reason."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = decode(data)
    except RejectedImage as error:
        return None, ImageRecord(digest, None, None, len(data), error.reason)
    return image, ImageRecord(digest, image.width, image.height, len(data))


def _upright_rgb(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_shape(image.width, image.height)
        image.load()
        # A broken EXIF block says nothing of the picture: that stays as it lies.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
    # Profiles and EXIF would travel on into thumbnails.
    rgb.info = {}
    return rgb


def _check_shape(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        reason = f"decompression bomb: {width} x {height} pixels, at most {MAX_PIXELS} are read"
        raise RejectedImage(reason)
    short, long = sorted((width, height))
    if short < 2 or long > MAX_ASPECT * short:
        reason = f"odd shape: {width} x {height} pixels"
        raise RejectedImage(reason)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode[0] in "IF":
        return _eight_bit(image).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits or of floats as 8 bits.

    Whole numbers from 0 to 65535 are 16-bit values, whatever they are stored in; floats between 0
    and 1 go from black to white, floats up to 255 are 8-bit values.
    Anything else is stretched from its least to its greatest value; what is not finite is black.
    """
    values: npt.NDArray[np.generic] = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    pixels = values.astype(np.float64)
    finite = np.isfinite(pixels)
    low, high = (pixels[finite].min(), pixels[finite].max()) if finite.any() else (0.0, 0.0)
    if image.mode == "F" and low >= 0 and high <= 1:
        pixels = pixels * 255
    elif image.mode == "F" and low >= 0 and high <= 255:
        pass
    elif low >= 0 and high <= 65535:
        pixels = np.floor(pixels / 256)
    else:
        pixels = (pixels - low) * (255 / (high - low if high > low else 1))
    return Image.fromarray(np.where(finite, np.rint(pixels), 0).astype(np.uint8))


MAGIC: Final = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP": "JPEG 2000",
}
"""How files of each format begin."""


def _unidentified(data: bytes) -> str:
    """Why Pillow knows no format for `data`."""
    for magic, name in MAGIC.items():
        if data.startswith(magic):
            return f"unreadable: begins like {name}, but has no {name} header"
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("ascii", "replace")
        return f"not supported: a {brand} file; convert it to JPEG, PNG or WebP"
    return f"not an image: begins with {data[:12]!r}"


def _bytes_lacking(data: bytes) -> int:
    """How many bytes a WebP file says it has more than it has."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0
    return max(0, int.from_bytes(data[4:8], "little") + 8 - len(data))


def _text(error: BaseException) -> str:
    """An error's message on one line, without what differs from run to run."""
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the file", " ".join(str(error).split()))
    return text if len(text) <= 200 else f"{text[:197]}..."


_filters = threading.Lock()


def _renew_lock() -> None:
    global _filters  # noqa: PLW0603
    _filters = threading.Lock()


# A process forked while another thread decodes must not wait for that thread for ever.
os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def _quiet() -> Generator[None]:
    """Silences what Pillow has to say of odd files, but for decompression bombs: these raise.

    Filters belong to the whole process, so only one thread at a time may change them.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
