"""Running the model again on a few stored images, to see that the store still tells the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..schema.errors import LensbaseError
from ..schema.snapshot import Snapshot, run_shape
from .decompose import Decomposer, Kept
from .models import load_model
from .pictures_again import pictures_again

# float16 keeps three digits; another device or thread count moves the last of them.
_TOLERANCE = 5e-3


@dataclass
class Differences:
    """How many images ran through the model again, and which arrays differ."""

    images: int = 0
    problems: list[str] = field(default_factory=list[str])


def differences(snapshot: Snapshot, run: dict[str, Any], *, sample: int, seed: int) -> Differences:
    """Decompose a sample of a run's images again and compare every array of it.

    A difference is relative to the largest value of the array for that image.
    """
    found = Differences()
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
    )
    decompose = Decomposer(model.visual, kept)
    stored = {name: array.read(rows) for name, array in snapshot.row_arrays(run).items()}
    for i, batch in enumerate(again):
        found.images += 1
        if not batch.ok.all():
            found.problems.append(f"{keys[i]} cannot be read any more: {batch.records[0].reason}")
            continue
        parts = decompose(batch.images)
        for name, values in stored.items():
            if name == "scale":
                continue
            now: npt.NDArray[np.float32] = getattr(parts, name)[0].numpy()
            off = float(np.abs(values[i].astype(np.float32) - now).max() / np.abs(now).max())
            if not off <= _TOLERANCE:
                found.problems.append(f"{name} of {keys[i]} differs by {off:.1e}")
    return found


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
