"""Two ways to see where a text is: what tokens write along it, and where its neurons are active."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries.heatmaps import patch_grid, unit_range, upsample
from ..queries.neuron_maps import mean_neuron_map
from ..queries.neuron_ranking import direction_products, rank_neurons
from ..queries.segmentation import Threshold, heat
from ..schema.errors import BadQuestion
from .open_run import OpenRun
from .run_neurons import Layers
from .whole_numbers import whole

Numbers = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

Method: TypeAlias = Literal["tokens", "neurons"]

NEURONS = 200  # unless another number is asked for

# Bytes of what is read of an image, of which a block of images is in memory.
_FLOAT = 8


class SegmentationMethod(Protocol):
    """What a way to segment offers: heat from 0 to 1, and the threshold that goes with it."""

    threshold: Threshold
    image_bytes: int

    def heats(self, rows: I64, of: I64, *, size: tuple[int, int]) -> F32:
        """Heat [n, h, w] of images at `rows` [n], each for its class `of` [n]."""
        ...


class TokenMethod:
    """Maps of what all layers and heads write at each patch along a class' direction (Table 2.4).

    `directions` [C, d'], with the mean over classes taken away. Raises `TokensNotStored`.
    """

    threshold: Threshold = "mean"

    def __init__(self, run: OpenRun, directions: F32) -> None:
        self._token = run.need_tokens()
        self._directions = directions
        self._grid = _grid(run)
        self.image_bytes = _FLOAT * run.shape.patches * run.shape.embed_dim

    def heats(self, rows: I64, of: I64, *, size: tuple[int, int]) -> F32:
        """As `SegmentationMethod` says; clipped at 0."""
        token = self._token.read(rows).astype(np.float32)
        scores = np.matmul(token, self._directions[of][:, :, None])[..., 0]
        return heat(patch_grid(scores, self._grid), size)


class NeuronMethod:
    """Mean activation maps of the neurons whose directions are most along a text (Table 3.4).

    Of `layers` (by default all that are kept) the `neurons` (by default 200) of largest |<r_n, t>|
    for each of `texts` [C, d']; `signed` turns those around that write against the text. Raises
    `NeuronsNotStored`, `NeuronInputNotStored` or `BadQuestion`.
    """

    threshold: Threshold = 0.5

    def __init__(
        self,
        run: OpenRun,
        texts: Numbers,
        *,
        layers: Layers = None,
        neurons: int | None = None,
        signed: bool = False,
    ) -> None:
        self._run = run
        self._input = run.neurons.need_input()
        self._texts = texts
        self._places = run.neurons.places(layers)
        count = NEURONS if neurons is None else neurons
        self._count = whole(count, "neurons", least=1, of="neurons")
        self._signed = signed
        self._chosen: dict[int, list[tuple[int, I64, F32]]] = {}
        self.image_bytes = _FLOAT * len(self._places) * run.shape.patches * run.shape.width

    def heats(self, rows: I64, of: I64, *, size: tuple[int, int]) -> F32:
        """As `SegmentationMethod` says; each map scaled to its own range."""
        maps = np.empty((len(rows), self._run.shape.patches), np.float32)
        for number in np.unique(of).tolist():
            which = of == number
            maps[which] = self._mean_map(rows[which], number)
        # In float64 before rounding, as for tokens.
        large = upsample(patch_grid(maps, _grid(self._run)).astype(np.float64), size)
        return unit_range(large).astype(np.float32)

    def _mean_map(self, rows: I64, text: int) -> F32:
        total = np.zeros((len(rows), self._run.shape.patches), np.float32)
        count = 0
        for place, neurons, signs in self._neurons_of(text):
            weights = self._run.neurons.input_weights(place, neurons)
            inputs = self._input.read(rows, place)
            mean = mean_neuron_map(inputs, weights, signs=signs if self._signed else None)
            total += mean * len(neurons)
            count += len(neurons)
        return (total / max(count, 1)).astype(np.float32)

    def _neurons_of(self, text: int) -> list[tuple[int, I64, F32]]:
        """The neurons of one text by layer: its place, their numbers and signs."""
        if text not in self._chosen:
            directions = self._run.neurons.direction[self._places]
            found = rank_neurons(direction_products(directions, self._texts[text]), self._count)
            self._chosen[text] = [
                (
                    place,
                    found.neurons[found.layers == index],
                    np.sign(found.scores[found.layers == index]).astype(np.float32),
                )
                for index, place in enumerate(self._places)
                if np.any(found.layers == index)
            ]
        return self._chosen[text]


def check_method(
    method: Any,
    *,
    layers: Layers,
    neurons: int | None,
    signed: bool,
    relative_to: Any = None,
    debias: Any = None,
) -> None:
    """Raise `BadQuestion` unless this names a way to segment, and is not told what it has not."""
    if method not in ("tokens", "neurons"):
        msg = f"{method!r} is no method to segment by; there are 'tokens' and 'neurons'."
        raise BadQuestion(msg)
    if method == "tokens" and (layers is not None or neurons is not None or signed):
        msg = (
            "layers, neurons and signed choose neurons, for which the method (--method) has to be "
            "'neurons'."
        )
        raise BadQuestion(msg)
    if method == "neurons" and (relative_to is not None or debias is not None):
        msg = (
            "relative_to and debias (--relative-to, --no-debias) take maps of tokens away; the "
            "method 'neurons' has none of them, leave both out."
        )
        raise BadQuestion(msg)


def _grid(run: OpenRun) -> tuple[int, int]:
    return run.row["grid_height"], run.row["grid_width"]
