"""First-order and indirect effects of a stored run's neurons: its model and its pictures again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema.errors import ImageFileMissing
from .interventions import Interventions
from .neuron_effects import measure_effects
from .pictures_again import pictures_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from .models import LoadedModel

    F32 = npt.NDArray[np.float32]
    F64 = npt.NDArray[np.float64]

_FORMED = 2**30  # bytes of indirect effects that are in memory at a time


@dataclass(frozen=True, eq=False)
class KnownPictures:
    """Images of a run to be read again: `keys`, and hashes of their files where these are known.

    `run` is the run's row of the catalogue.
    """

    run: dict[str, Any]
    keys: Sequence[str]
    sha256: Sequence[str | None]

    def batches(self, model: LoadedModel) -> Iterator[Tensor]:
        """The images as a model sees them, in order; raises `ImageFileMissing`."""
        place = 0
        for batch in pictures_again(self.run, self.keys, preprocess=model.preprocess):
            for ok, record in zip(batch.ok, batch.records, strict=True):
                if not ok:
                    raise self._missing(place, record.reason or "it is no image any more")
                if self.sha256[place] not in (None, record.sha256):
                    raise self._missing(place, "the file there is another than was ingested")
                place += 1
            yield batch.images

    def _missing(self, place: int, reason: str) -> ImageFileMissing:
        msg = (
            f"{self.keys[place]!r} of run {self.run['name']!r} cannot be read again from "
            f"{self.run['dataset_root']} ({reason}). Put it back, or, where the images have moved, "
            "say where to: `open_store(path, image_root=...)`."
        )
        return ImageFileMissing(msg)


@dataclass(frozen=True, kw_only=True, eq=False)
class EffectsAgain:
    """What Table 3.1 is made of, for K images and n neurons of a layer.

    `first_order` [K, E]: what the sum of all the layer's first-order effects exceeds its mean over
    the reference images by; `ablated` [K, E]: M(I) with all the layer's neurons at their means of
    the reference images, token by token. Of each neuron [n]: mean lengths of its first-order and
    indirect effects over the images; `indirect_direction` [n, E], the first principal component of
    its largest indirect effects, of unit length (0 where they never vary); and the share of these
    that it explains.
    """

    first_order: F32
    ablated: F32
    direct_norm: F64
    indirect_norm: F64
    indirect_direction: F32
    indirect_explained: F64


def effects_again(
    model: LoadedModel,
    pictures: KnownPictures,
    *,
    reference: KnownPictures,
    layer: int,
    neurons: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> EffectsAgain:
    """Measure effects of chosen neurons (T3.1, Table 3.1) over pictures, in float32.

    Means of activations are over the `reference` pictures. Indirect effects cost about a forward
    pass an image and neuron. `progress` is told images done and in all.
    Raises `ImageFileMissing`, or what `pictures_again` and `measure_effects` raise.
    """
    width = model.info.embed_dim
    step = max(1, _FORMED // (4 * width * max(1, len(pictures.keys))))
    starts = range(0, len(neurons), step)
    total = len(pictures.keys) * len(starts)
    if progress is not None:
        progress(0, total)
    means = Interventions(model.visual, layer).token_means(reference.batches(model))

    def batches(done: int) -> Iterator[Tensor]:
        for batch in pictures.batches(model):
            yield batch
            done += len(batch)
            if progress is not None:
                progress(done, total)

    parts = [
        measure_effects(
            model,
            batches(len(pictures.keys) * number),
            layer=layer,
            neurons=neurons[start : start + step],
            means=means.activation,
        )
        for number, start in enumerate(starts)
    ]
    return EffectsAgain(
        first_order=(parts[0].direct_sum - means.direct_sum).astype(np.float32),
        ablated=parts[0].ablated,
        direct_norm=np.concatenate([one.direct_norm.mean(0, dtype=np.float64) for one in parts]),
        indirect_norm=np.concatenate(
            [one.indirect_norm.mean(0, dtype=np.float64) for one in parts]
        ),
        indirect_direction=np.concatenate([one.indirect_direction for one in parts]),
        indirect_explained=np.concatenate(
            [one.indirect_explained.astype(np.float64) for one in parts]
        ),
    )
