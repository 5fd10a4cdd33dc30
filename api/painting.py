"""Descriptions to a folder of images, by any text-to-image model; what is there stays."""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..schema.durable import sync_directory, write_parts
from ..schema.errors import BadDescriptions, BadManifest, PainterFailed
from .printing import counted
from .whole_numbers import whole

if TYPE_CHECKING:
    import os

    from PIL.Image import Image

Painter: TypeAlias = Callable[..., Any]
"""From a text to a PIL image, or to what has `.images`, as a pipeline of diffusers gives.

It gets `seed=` where it takes that, a seeded `torch.Generator` where it takes `generator=`.
"""

MANIFEST = "manifest.csv"
COLUMNS = ("path", "label", "description", "seed")


class Planned(NamedTuple):
    """One image to paint: its file, the text, and the painter's seed."""

    path: str
    description: str
    seed: int


@dataclass(frozen=True)
class Painted:
    """A folder of painted images: `images` that are in it, of which `new` were painted now.

    `removed` were painted before and have been taken out since, as a person does with images that
    do not show what they should.
    """

    manifest: Path
    images: int
    new: int
    removed: int

    def __str__(self) -> str:
        removed = f", {self.removed} taken out before" if self.removed else ""
        return f"{counted(self.images, 'image')} in {self.manifest.parent}, {self.new} new{removed}"


def generate(
    descriptions: Sequence[str],
    painter: Painter,
    folder: str | os.PathLike[str],
    *,
    per_description: int = 10,
    seed: int = 0,
    label: str | None = None,
) -> Painted:
    """Paint images of each description and write them with a `manifest.csv` to a folder.

    The manifest, which appears last and whole, has a row an image: its `path` (the key that it has
    in a store), `label` (what it shows), `description` and `seed`. An interrupted call is taken up
    where it stopped: images of the same description and seed are kept. Images that were deleted
    after all had been painted stay away. `lensbase ingest STORE FOLDER/manifest.csv` brings the
    images into a store.
    Raises `BadDescriptions` without any, `BadQuestion`, `PainterFailed`, or `BadManifest` for one
    that is there and cannot be read.
    """
    per_description = whole(per_description, "per_description", least=1, of="images")
    seed = whole(seed, "seed", least=0, of="a random sequence")
    texts = list(dict.fromkeys(descriptions)) if not isinstance(descriptions, str) else []
    if not texts or not all(text.strip() for text in texts):
        msg = "there is no description to paint; give a list of texts, none of them blank."
        raise BadDescriptions(msg)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    known = {row["path"] for row in read_manifest(root / MANIFEST)}
    plan = list(_plan(texts, per_description, seed))
    new = removed = 0
    for image in plan:
        path = root / image.path
        if path.exists():
            continue
        if image.path in known:
            removed += 1
            continue
        write_parts(path, [_png(_painted(painter, image, done=new))])
        new += 1
    sync_directory(root)
    _write_manifest(root / MANIFEST, plan, label)
    return Painted(root / MANIFEST, len(plan) - removed, new, removed)


def read_manifest(path: Path) -> list[dict[str, str]]:
    """The rows of a manifest as texts, none where there is no file; raises `BadManifest`."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: value for name, value in row.items() if isinstance(value, str)}
                for row in csv.DictReader(file)
                if row.get("path")
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{path} cannot be read as CSV ({error}); take it away to go by the images alone."
        raise BadManifest(msg) from error


def _plan(texts: Sequence[str], per_description: int, seed: int) -> Iterator[Planned]:
    """Files are named after text and seed, so that no other list of texts mistakes them for its."""
    for text in texts:
        digest = hashlib.sha256(text.encode()).hexdigest()
        for number in range(per_description):
            drawn = np.random.SeedSequence([seed, int(digest[:8], 16), number]).generate_state(1)
            yield Planned(f"{digest[:10]}-{drawn[0]:08x}.png", text, int(drawn[0]))


def _painted(painter: Painter, image: Planned, *, done: int) -> Image:
    from PIL.Image import Image

    try:
        made = painter(image.description, **_seeding(painter, image.seed))
    except Exception as error:
        msg = (
            f"the text-to-image model failed on {image.description!r}: "
            f"{str(error) or type(error).__name__}. {counted(done, 'image')} painted before it "
            "stay, and the same call goes on from there."
        )
        raise PainterFailed(msg) from error
    images = getattr(made, "images", [made])
    found = images[0] if isinstance(images, list | tuple) and images else None
    if not isinstance(found, Image):
        msg = (
            f"the text-to-image model gave {type(made).__name__} for {image.description!r}; it has "
            "to give a PIL image, or an object whose .images is a list of them."
        )
        raise PainterFailed(msg)
    return found


def _seeding(painter: Painter, seed: int) -> dict[str, Any]:
    try:
        takes = inspect.signature(painter).parameters
    except (TypeError, ValueError):
        return {}
    if "seed" in takes:
        return {"seed": seed}
    if "generator" in takes:
        import torch

        return {"generator": torch.Generator().manual_seed(seed)}
    return {}


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _write_manifest(path: Path, plan: Sequence[Planned], label: str | None) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([one.path, label or "", one.description, one.seed] for one in plan)
    write_parts(path, [buffer.getvalue().encode()])
    sync_directory(path.parent)
