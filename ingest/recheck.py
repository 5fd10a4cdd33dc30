"""Running the model again on a few stored images, to see that the store still tells the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..schema.errors import LensbaseError
from ..schema.snapshot import Snapshot, read_static, run_shape
from .decompose import Decomposer, Kept
from .models import load_model
from .neuron_arrays import EFFECTS, effect_arrays, stored_projection
from .pictures_again import pictures_again

if TYPE_CHECKING:
    from torch import Tensor, nn

# float16 keeps three digits; another device or thread count moves the last of them. In bfloat16,
# which keeps two, so does another batch size.
_TOLERANCE = {"fp32": 5e-3, "bf16": 2e-2}


@dataclass
class Differences:
    """How many images ran through the model again, and which arrays differ."""

    images: int = 0
    problems: list[str] = field(default_factory=list[str])
    tolerance: float = _TOLERANCE["fp32"]


def differences(snapshot: Snapshot, run: dict[str, Any], *, sample: int, seed: int) -> Differences:
    """Decompose a sample of a run's images again and compare every array of it.

    Neurons are projected on the directions that the run keeps, and not fitted again. A difference
    is relative to the largest value of the array for that image (of neurons, of the layer).
    """
    found = Differences(tolerance=_TOLERANCE[run["precision"]])
    try:
        model = load_model(
            run["model_name"], pretrained=run["pretrained"], precision=run["precision"]
        )
    except LensbaseError as error:
        found.problems.append(f"its model cannot be loaded again: {error}")
        return found
    if model.info.weights_sha256 != run["weights_sha256"]:
        found.problems.append(f"{run['model_name']} has other weights now")
        return found
    rows, keys = _sampled(snapshot, run, sample=sample, seed=seed)
    try:
        again = pictures_again(run, keys, preprocess=model.preprocess, batch_size=1)
    except LensbaseError as error:
        found.problems.append(f"its images cannot be read again: {error}")
        return found
    shape = run_shape(run)
    kept = Kept(
        head_layers=shape.head_layers,
        tokens=shape.tokens,
        head_token_layers=shape.head_token_layers,
        neuron_input_layers=shape.neuron_layers if shape.neuron_input else (),
    )
    decompose = Decomposer(model.visual, kept)
    stored = {name: array.read(rows) for name, array in snapshot.row_arrays(run).items()}
    readable: list[tuple[int, str, Tensor]] = []
    for i, batch in enumerate(again):
        found.images += 1
        if not batch.ok.all():
            found.problems.append(f"{keys[i]} cannot be read any more: {batch.records[0].reason}")
            continue
        readable.append((i, keys[i], batch.images))
        parts = decompose(batch.images)
        for name, values in stored.items():
            if name != "scale" and name not in EFFECTS:
                now: npt.NDArray[np.float32] = getattr(parts, name)[0].numpy()
                _compare(found, f"{name} of {keys[i]}", values[i], now)
    if shape.neuron_layers:
        _recheck_neurons(found, snapshot, run, visual=model.visual, images=readable, stored=stored)
    return found


def _recheck_neurons(
    found: Differences,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    visual: nn.Module,
    images: list[tuple[int, str, Tensor]],
    stored: dict[str, npt.NDArray[Any]],
) -> None:
    """Project images on the stored directions again, the layers of one pass at a time."""
    layout, shape = snapshot.layout, run_shape(run)
    threshold = read_static(layout, run["folder"], "neuron_threshold")
    large = torch.from_numpy(stored["neuron_norm"].astype(np.float32) > threshold)
    decompose = Decomposer(visual, Kept())
    for layers in run["neuron_passes"]:
        group = layout.arrays(run["folder"])
        projection = stored_projection(group, shape, visual=visual, layers=layers)
        places = [shape.neuron_layers.index(layer) for layer in layers]
        for i, key, image in images:
            trace = projection.second_order.trace()
            decompose(image, trace)
            # A norm within rounding of its threshold may be on its other side now.
            now = effect_arrays(projection(trace, known_large=large[i : i + 1, places]))
            for name, values in now.items():
                for place, layer in enumerate(layers):
                    before = stored[name][i, places[place]]
                    _compare(found, f"{name} of {key}, layer {layer},", before, values[0, place])


def _compare(
    found: Differences, what: str, stored: npt.NDArray[Any], now: npt.NDArray[np.float32]
) -> None:
    off = float(np.abs(stored.astype(np.float32) - now).max())
    if not off <= found.tolerance * float(np.abs(now).max()):
        found.problems.append(f"{what} differs by {off / float(np.abs(now).max()):.1e}")


def _sampled(
    snapshot: Snapshot, run: dict[str, Any], *, sample: int, seed: int
) -> tuple[npt.NDArray[np.int64], list[str]]:
    listed = snapshot.rows(
        """SELECT r."row", i.key FROM run_image r JOIN image i USING (image_id)
           WHERE r.run_id = ? AND r.status = 'ok' ORDER BY r."row" """,
        [run["run_id"]],
    )
    chosen = np.random.default_rng(seed).permutation(len(listed))[:sample]
    picked = [listed[i] for i in np.sort(chosen)]
    return np.array([one["row"] for one in picked], np.int64), [one["key"] for one in picked]
