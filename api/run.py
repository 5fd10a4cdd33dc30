"""One run of a store: the questions that its images, heads and layers answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..schema.components import layer_terms
from .batches import Kind, run_batches
from .card import Card
from .head import HeadView
from .image import ImageView
from .open_run import OpenRun
from .printing import human_bytes
from .result import Result
from .selection import Images
from .values import Values
from .where import Where

if TYPE_CHECKING:
    from PIL.Image import Image


class RunView:
    """A model's inner workings over a data set, as one ingest kept them."""

    def __init__(self, run: OpenRun) -> None:
        self._run = run
        self.name = run.name

    @property
    def images(self) -> Result:
        """The view `images` of this run, by id: rejected ones too, with their `reason`."""
        return self._run.query("SELECT * FROM images WHERE run = ? ORDER BY image_id")

    @property
    def heads(self) -> Result:
        """The view `heads` of this run: each kept head's mean norm, variance, first texts."""
        return self._run.query("SELECT * FROM heads WHERE run = ? ORDER BY layer, head")

    @property
    def layers(self) -> Result:
        """The view `layers` of this run: mean norm and share of the 2L+1 residual terms (T2.4)."""
        return self._run.query("SELECT * FROM layers WHERE run = ? ORDER BY term")

    def representation(self, images: Images = None, *, where: Where = None) -> Values:
        """M(I) [k, d'], unnormalised: the model's image embedding (T2.1).

        Raises `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        found = self._run.arrays["representation"].read(chosen.rows)
        return Values(found, image_ids=chosen.image_ids)

    def layer_effects(self, images: Images = None, *, where: Where = None) -> Values:
        """The residual terms [k, 2L+1, d'] that add up to M(I); `components` names them (T2.4).

        Raises `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        found = self._run.arrays["layer"].read(chosen.rows)
        components = layer_terms(self._run.shape.layers)
        return Values(found, image_ids=chosen.image_ids, components=components)

    def encode_text(self, texts: str | Sequence[str]) -> Values:
        """Unit-length embeddings [n, d'] of texts in the run's joint space.

        Texts of any pool that the model has embedded are looked up; new ones load the text
        tower. Raises `TextNotStored` where that cannot be done.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        return Values(self._run.texts.encode(listed), texts=listed)

    def batches(
        self, kind: Kind = "head", *, heads: Sequence[str] | None = None, size: int = 8192
    ) -> Iterator[Values]:
        """Go through all images by id, `size` at a time, in memory bounded by `size`.

        `kind` is "head" (contributions [n, heads, d'] of `heads`, by default of all kept ones),
        "representation" [n, d'], "layer" [n, 2L+1, d'] or "token" [n, T, d'].
        Raises `BadQuestion`, `HeadNotStored` or `TokensNotStored` before the first batch.
        """
        return run_batches(self._run, kind, heads=heads, size=size)

    def head(self, address: str) -> HeadView:
        """One attention head, such as "L22.H8".

        Raises `BadAddress`, `UnknownComponent`, or `HeadNotStored` for a layer not kept.
        """
        return HeadView(self._run, address)

    def image(self, image: Images) -> ImageView:
        """One image by id, key or path; raises `UnknownImage` or `RejectedRow`."""
        return ImageView(self._run, image)

    def thumbnail(self, image: Images) -> Image:
        """The crop of an image that the model saw, 224 pixels at most.

        Raises `UnknownImage`, `RejectedRow`, or `ImageFileMissing` where none is kept.
        """
        return self.image(image).thumbnail()

    def info(self) -> Card:
        """A card: model, images, what is kept, and how well the terms add up."""
        (facts,) = self._run.query("SELECT * FROM runs WHERE run = ?")
        row, shape = self._run.row, self._run.shape
        committed, rejected = facts["committed"] or 0, facts["rejected"] or 0
        images = (
            f"{committed:,} of {facts['images']:,}"
            if row["status"] != "complete"
            else (f"{committed:,}")
        )
        pretrained = f" {facts['pretrained']}" if facts["pretrained"] else ""
        kept = [f"heads of layers {_numbers(shape.head_layers) or 'none'}"]
        kept += ["tokens"] if shape.tokens else []
        if shape.head_token_layers:
            kept.append(f"head-tokens of layers {_numbers(shape.head_token_layers)}")
        residual = facts["max_residual"]
        return Card(
            f"run {self.name}",
            {
                "model": f"{facts['model']}{pretrained} ({row['weights_sha256'][:12]}), "
                f"{facts['activation']}",
                "shape": f"{shape.layers} layers x {shape.heads} heads x {shape.head_width}, "
                f"{shape.patches} patches, joint width {shape.embed_dim}",
                "data set": facts["dataset"],
                "images": f"{images}, {rejected:,} of them rejected",
                "kept": ", ".join(kept),
                "default pool": facts["default_pool"] or "none",
                "size": human_bytes(facts["bytes"] or 0),
                "terms add up to": "nothing yet" if residual is None else f"{residual:.1e} of |M|",
                "ingested": f"{row['precision']} on {row['device']}, batches of "
                f"{row['batch_size']}, {row['status']}",
            },
        )

    def __repr__(self) -> str:
        return str(self.info())

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()  # pyright: ignore[reportPrivateUsage]


def _numbers(numbers: Sequence[int]) -> str:
    """Ascending numbers as `0 to 7` where they follow on each other, else as a list."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))
