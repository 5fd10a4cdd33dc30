"""A run of an open store: its arrays, bases, images, texts and pictures, each read when needed."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.components import Head, parse_head, split_run
from ..schema.derived import run_content
from ..schema.errors import (
    BadSelection,
    HeadNotStored,
    HeadTokensNotStored,
    TokensNotStored,
    UnknownComponent,
    UnknownRun,
)
from ..schema.shards import RowArray
from ..schema.snapshot import Snapshot, read_static, run_shape
from .annotations import with_role
from .console import Console
from .pictures import RunPictures
from .printing import keeping, layers_named
from .result import Result
from .run_neurons import RunNeurons
from .selection import RunImages
from .texts import RunTexts

if TYPE_CHECKING:
    import pyarrow as pa

F32 = npt.NDArray[np.float32]

_BLOCK = 256


@dataclass(frozen=True)
class KeptHead:
    """A head of a layer that the run kept; `place` is its layer's place in the arrays."""

    address: Head
    place: int


class OpenRun:
    """What the views of one run share."""

    def __init__(
        self,
        snapshot: Snapshot,
        row: dict[str, Any],
        *,
        console: Console,
        image_root: Path | None,
        load_models: bool = True,
    ) -> None:
        self.row = row
        self.name: str = row["name"]
        self.shape = run_shape(row)
        self.console = console
        self.layout = snapshot.layout
        self.images = RunImages(console, row, image_root=image_root)
        self.texts = RunTexts(console, snapshot.layout, row, load_models=load_models)
        self.pictures = RunPictures(snapshot.layout, row, image_root=image_root)
        self._snapshot = snapshot

    @cached_property
    def arrays(self) -> dict[str, RowArray]:
        """The run's row arrays."""
        return self._snapshot.row_arrays(self.row)

    @cached_property
    def neurons(self) -> RunNeurons:
        """The run's neurons."""
        return RunNeurons(self.layout, self.row, self.shape, self.arrays)

    @cached_property
    def segments(self) -> list[int]:
        """Segments that this generation of the store has, in order."""
        found = self.console.rows(
            "SELECT segment FROM segment WHERE run_id = ? ORDER BY segment", [self.row["run_id"]]
        )
        return [segment for (segment,) in found]

    @cached_property
    def content(self) -> str:
        """Hash of what the run holds, for results that are kept."""
        row = self.row
        return run_content(
            self.layout, row["folder"], segments=self.segments, finished_at=row["finished_at"]
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What every kept result of the run depends on: its fingerprint, images and content.

        Segments may be redone after the images have changed: then the content is another.
        """
        row = self.row
        return {
            "run": self.name,
            "run_id": row["run_id"],
            "run_fingerprint": row["fingerprint"],
            "keys_sha256": row["keys_sha256"],
            "content": self.content,
        }

    @cached_property
    def head_basis(self) -> F32:
        """[Lh, H, e+3, d']: from a head's factors to its contribution, of the kept layers."""
        return read_static(self.layout, self.row["folder"], "head_basis")

    def basis(self, head: KeptHead) -> F32:
        """The basis [e+3, d'] of one head."""
        return self.head_basis[head.place, head.address.head]

    def moment(self, head: KeptHead) -> npt.NDArray[np.float64]:
        """Second moments [2, e+4, e+4] of one head over all committed images."""
        array = self._snapshot.segment_array(self.row, "head_moment")
        return array.total(self.segments, slice(None), head.place, head.address.head)

    @cached_property
    def term_means(self) -> npt.NDArray[np.float64]:
        """Means [2L+2, d'] over the run's images of the 2L+1 terms and of the class token's part.

        From values before rounding. Raises `BadSelection` where no image is there.
        """
        images = self.images.select()
        if not len(images):
            msg = f"run {self.name!r} has no readable image yet, so nothing has a mean."
            raise BadSelection(msg)
        if self.shape.layer_sums:
            array = self._snapshot.segment_array(self.row, "layer_total")
            return array.total(self.segments) / len(images)
        total = np.zeros((2 * self.shape.layers + 2, self.shape.embed_dim))
        for start in range(0, len(images), _BLOCK):
            rows = images.rows[start : start + _BLOCK]
            total[:-1] += self.arrays["layer"].read(rows).sum(0, dtype=np.float64)
            total[-1] += self.arrays["cls_token"].read(rows).sum(0, dtype=np.float64)
        return total / len(images)

    def head(self, address: str) -> KeptHead:
        """Find a head by its address, with or without the run's name.

        Raises `BadAddress`, `UnknownRun`, `UnknownComponent` or `HeadNotStored`.
        """
        head = self._own_head(address)
        if head.layer not in self.shape.head_layers:
            kept = self.shape.head_layers
            msg = (
                f"run {self.name!r} kept no heads of layer {head.layer}, only those of "
                f"{layers_named(kept)}. {keeping('--heads', {*kept, head.layer})}"
            )
            raise HeadNotStored(msg)
        return KeptHead(head, self.shape.head_layers.index(head.layer))

    def token_layer(self, address: str) -> tuple[Head, int]:
        """A head whose tokens were kept, and its layer's place in the head-token arrays.

        Raises `BadAddress`, `UnknownRun`, `UnknownComponent` or `HeadTokensNotStored`.
        """
        head = self._own_head(address)
        kept = self.shape.head_token_layers
        if head.layer not in kept:
            msg = (
                f"run {self.name!r} kept the tokens of each head in {layers_named(kept)}, not in "
                f"layer {head.layer}. {keeping('--head-tokens', {*kept, head.layer})}"
            )
            raise HeadTokensNotStored(msg)
        return head, kept.index(head.layer)

    def need_tokens(self) -> RowArray:
        """The array of all tokens' contributions; raises `TokensNotStored`."""
        if not self.shape.tokens:
            msg = f"run {self.name!r} kept no image tokens. {keeping('--tokens')}"
            raise TokensNotStored(msg)
        return self.arrays["token"]

    def roles(self, name: str) -> list[str]:
        """Addresses of the components annotated with a role; raises `UnknownRole`."""
        return with_role(self, name)

    def result(self, table: pa.Table, *, note: str | None = None) -> Result:
        """A result whose images are this run's."""
        return Result(table, note=note, thumbnails=self.thumbnails_of)

    def thumbnails_of(self, image_ids: Sequence[int]) -> list[bytes | None]:
        """WebP thumbnails of images by id; None for those without one."""
        rows = self.images.rows(image_ids)
        found = iter(self.pictures.thumbnails([row for row in rows if row >= 0]))
        return [next(found) if row >= 0 else None for row in rows]

    def query(self, sql: str) -> Result:
        """A query of ours with one parameter, the run's name."""
        return self.result(self.console.query(sql, [self.name]))

    def _own_head(self, address: str) -> Head:
        run, component = split_run(address)
        if run is not None and run != self.name:
            msg = f"{address!r} is of another run than {self.name!r}; ask store.run({run!r})."
            raise UnknownRun(msg)
        head = parse_head(component)
        if head.layer >= self.shape.layers or head.head >= self.shape.heads:
            msg = (
                f"the model of run {self.name!r} has no head {head}: its layers are 0 to "
                f"{self.shape.layers - 1} and its heads 0 to {self.shape.heads - 1}."
            )
            raise UnknownComponent(msg)
        return head
