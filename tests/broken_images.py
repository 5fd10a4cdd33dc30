"""Forty image files that no model can see, each broken in its own way."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_broken_images(directory: Path) -> list[Path]:
    """Write 40 broken files into `directory` and return their paths, sorted by name."""
    directory.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name, data in _broken():
        path = directory / name
        path.write_bytes(data)
        paths.append(path)
    return sorted(paths)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(width: int = 96, height: int = 72) -> Image.Image:
    """Smooth colors with some noise: nothing that compresses to a few bytes."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(0).uniform(0, 0.2, (height, width, 3))
    pixels = np.stack([x, y, (x + y) / 2], axis=-1) * 0.8 + noise
    return Image.fromarray((pixels * 255).astype(np.uint8))


def png_of(width: int, height: int, scanlines: bytes) -> bytes:
    """A PNG that claims `width` x `height` bits and holds `scanlines`."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(scanlines)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _broken() -> Iterator[tuple[str, bytes]]:
    image = photograph()
    whole = {
        "jpg": (encoded(image, "JPEG", quality=90), (1, 10, 30, 50, 90, 99)),
        "progressive.jpg": (encoded(image, "JPEG", quality=90, progressive=True), (20, 60)),
        "png": (encoded(image, "PNG"), (1, 20, 50, 80, 95)),
        "webp": (encoded(image, "WEBP"), (5, 50, 95)),
        "gif": (encoded(image, "GIF"), (20, 50, 90)),
        "tif": (encoded(image, "TIFF"), (50,)),
        "bmp": (encoded(image, "BMP"), (50,)),
    }
    for ending, (data, percents) in whole.items():
        for percent in percents:
            yield f"truncated-{percent:02}.{ending}", data[: len(data) * percent // 100]

    yield "empty.jpg", b""
    yield "empty.png", b""
    yield "text.jpg", b"This was never a photograph.\n"
    yield "page.png", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "document.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< >>\nendobj\n"
    yield "noise.webp", np.random.default_rng(1).bytes(2000)

    yield "bomb-claimed.png", png_of(60_000, 60_000, b"\0")
    yield "bomb-real.png", png_of(12_000, 12_000, bytes(1501) * 12_000)
    gif = whole["gif"][0]
    yield "bomb.gif", gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]
    yield "bomb.bmp", _with_size(whole["bmp"][0], 40_000, 40_000)

    yield "one-wide.png", encoded(image.resize((1, 50)), "PNG")
    yield "one-high.jpg", encoded(image.resize((50, 1)), "JPEG")
    yield "ribbon.png", encoded(image.resize((2000, 2)), "PNG")

    yield "header.jpg", b"\xff\xd8\xff\xe0" + b"\x55" * 400
    yield "header.png", b"\x89PNG\r\n\x1a\n" + b"\x55" * 400
    yield "header.webp", b"RIFF\x90\x01\0\0WEBPVP8 " + b"\x55" * 392
    yield "header.tif", b"II*\0\xff\xff\xff\x7f" + b"\x55" * 400
    # The image's data, not its size: every byte is there, and the stream makes no sense.
    data = whole["png"][0]
    yield "stream.png", data[:60] + bytes(400) + data[460:]
    yield "phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\x55" * 100


def _with_size(bmp: bytes, width: int, height: int) -> bytes:
    return bmp[:18] + struct.pack("<ii", width, height) + bmp[26:]
