"""Which images of a folder a run's model takes for another class than they show."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ..schema.errors import (
    BadManifest,
    NoImages,
    RejectedImage,
    SourceNotFound,
)
from .classifier import Classifier, Templates, classifier
from .descriptions import check_classes
from .open_run import OpenRun
from .painting import MANIFEST, read_manifest
from .printing import counted
from .result import Result
from .run_model import run_model

if TYPE_CHECKING:
    from ..ingest.models import LoadedModel

F32 = npt.NDArray[np.float32]

_BATCH = 64
_PAINTED = "name one with images; in Python, lensbase.api.adversarial.generate paints some."


@dataclass(frozen=True, eq=False, repr=False)
class Fooled:
    """How a binary zero-shot classifier takes the images of a folder.

    `rows` have the columns `key` (the path in the folder), `description`, `similarity_shown` and
    `similarity_mistaken_for` (cosines of the image with each class) and `fooled`.
    """

    shown: str
    mistaken_for: str
    rows: Result

    @property
    def images(self) -> int:
        """How many images were seen."""
        return len(self.rows)

    @property
    def fooled(self) -> int:
        """How many of them are nearer to the class that they do not show."""
        return int(self.rows["fooled"].sum())

    def __str__(self) -> str:
        share = f" ({self.fooled / self.images:.1%})"
        note = f"\n{self.rows.note}" if self.rows.note else ""
        return (
            f"{self.fooled:,} of {counted(self.images, 'image')} of {self.shown!r} are taken for "
            f"{self.mistaken_for!r}{share}{note}"
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        said = escape(str(self).partition("\n")[0])
        return f"<p>{said}</p>{self.rows._repr_html_()}"  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True, eq=False)
class Judge:
    """A model in memory and its classifier of two classes: the one shown, and the other."""

    model: LoadedModel
    classifier: Classifier

    def score(self, folder: str | os.PathLike[str]) -> Fooled:
        """Classify a folder's images; see `score`."""
        root = Path(folder)
        listed, missing = _listed(root)
        pixels: list[Any] = []
        seen: list[tuple[str, str]] = []
        unread: list[str] = []
        parts: list[F32] = []
        for key, description in listed:
            try:
                pixels.append(self._pixels(root / key))
            except RejectedImage as error:
                unread.append(f"{key} ({error.reason})")
                continue
            seen.append((key, description))
            if len(pixels) == _BATCH:
                parts.append(self._similarities(pixels))
                pixels = []
        if pixels:
            parts.append(self._similarities(pixels))
        if not seen:
            raise _no_images(root, unread)
        similarity = np.concatenate(parts)
        notes = [
            f"{counted(missing, 'image')} of the manifest taken out" if missing else "",
            f"not readable: {', '.join(unread)}" if unread else "",
        ]
        columns = {
            "key": [key for key, _ in seen],
            "description": [description or None for _, description in seen],
            "similarity_shown": similarity[:, 0],
            "similarity_mistaken_for": similarity[:, 1],
            "fooled": similarity[:, 1] > similarity[:, 0],
        }
        shown, mistaken_for = self.classifier.names
        rows = Result.of(columns, note="; ".join(filter(None, notes)) or None)
        return Fooled(shown, mistaken_for, rows)

    def _pixels(self, path: Path) -> Any:
        from ..ingest.images import decode

        return self.model.preprocess(decode(path.read_bytes()))

    def _similarities(self, pixels: list[Any]) -> F32:
        """Cosines [n, 2] of preprocessed images with both classes."""
        import torch

        model: Any = self.model.model
        device = next(self.model.model.parameters()).device
        with torch.inference_mode():
            found = model.encode_image(torch.stack(pixels).to(device)).float().cpu().numpy()
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return cast("F32", found @ self.classifier.weights.T / length)


def judge(run: OpenRun, shown: str, mistaken_for: str, *, templates: Templates = None) -> Judge:
    """Load a run's model, once for many folders.

    Raises `BadQuestion`, `BadTemplate`, `TextNotStored`, `ExtraMissing` without torch, or
    `WeightsNotFound` for a model that is not at hand.
    """
    check_classes(shown, mistaken_for)
    made = classifier(run, [shown, mistaken_for], templates=templates)
    model = run_model(
        run,
        to="to see new images",
        otherwise="Ask where it is at hand, or ingest the images into the store there.",
    )
    return Judge(model, made)


def score(
    folder: str | os.PathLike[str],
    run: OpenRun,
    *,
    shown: str,
    mistaken_for: str,
    templates: Templates = None,
) -> Fooled:
    """Classify a folder's images between the class that they show and another (section 3.5).

    Of a folder with a `manifest.csv` the images that it names and that are still there, of any
    other all image files. The run's model is loaded to see them; prompts are those of `templates`,
    as for `RunView.classifier`. To ask anything else of them, such as heatmaps along either class,
    `lensbase ingest STORE FOLDER/manifest.csv --model MODEL` takes them in as a run of their own.
    Raises `SourceNotFound`, `BadManifest`, `NoImages`, or what `judge` raises.
    """
    # What needs no model is refused before one is loaded.
    check_classes(shown, mistaken_for)
    if not _listed(Path(folder))[0]:
        raise _no_images(Path(folder), [])
    return judge(run, shown, mistaken_for, templates=templates).score(folder)


def _no_images(root: Path, unread: list[str]) -> NoImages:
    msg = f"{root} holds no image that can be read{': ' + unread[0] if unread else ''}; {_PAINTED}"
    return NoImages(msg)


def _listed(root: Path) -> tuple[list[tuple[str, str]], int]:
    """Keys and descriptions of a folder's images, and how many of its manifest are not there."""
    from ..ingest.images import EXTENSIONS

    if not root.is_dir():
        msg = f"there is no folder {root}; {_PAINTED}"
        raise SourceNotFound(msg)
    manifest = root / MANIFEST
    if manifest.is_file():
        rows = read_manifest(manifest)
        if not rows:
            msg = (
                f"{manifest} names no image in a column `path`; take it away to score all images "
                "of the folder."
            )
            raise BadManifest(msg)
        named = [(row["path"], row.get("description", "")) for row in rows]
        there = [(key, text) for key, text in named if (root / key).is_file()]
        return there, len(named) - len(there)
    found = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in EXTENSIONS and path.is_file()
    )
    return [(key, "") for key in found], 0
