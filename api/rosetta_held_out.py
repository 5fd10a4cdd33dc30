"""Whether a zoo's matches hold on pictures that it was not mined on."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from ..schema.stages import Progress, stage
from .open_zoo import OpenZoo, ZooMember
from .result import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..ingest.rosetta.mining_options import MiningOptions
    from ..ingest.rosetta.units import Member
    from ..queries.best_buddies import Buddies

F32 = npt.NDArray[np.float32]

_CLOSE = 0.05
_LOG = logging.getLogger(__name__)


def held_out_rows(
    zoo: OpenZoo,
    images: Any,
    *,
    models: str | Sequence[str] | None,
    load: Callable[[ZooMember], Member],
    options: MiningOptions,
    progress: Progress = None,
) -> Result:
    """A row for each pair of models: their best buddies on the mining images and on others."""
    import pyarrow as pa

    from ..ingest.rosetta.held_out import pair_correlations
    from ..ingest.rosetta.job import pictures_for

    every = models is None or models == []
    chosen = list(zoo.members.values()) if every else zoo.named(models or [])
    pairs = [
        (first, second)
        for number, first in enumerate(chosen)
        for second in chosen[number + 1 :]
        if zoo.has_pair(first.name, second.name)
    ]
    if not pairs:
        msg = "no two of these models were compared; name two or more of the zoo's models."
        raise BadQuestion(msg)
    _check_new(zoo, images, seed=options.seed)
    loaded = {one.name: load(one) for one in chosen}
    pictures = pictures_for(images, list(loaded.values()), options=options)
    buddies = {(a.name, b.name): zoo.buddies(a.name, b.name, k=zoo.neighbors) for a, b in pairs}
    # The control is of the same units, dealt anew; both come out of one pass.
    dealt = np.random.default_rng(options.seed)
    units = {
        pair: (
            np.tile(found.first, 2),
            np.concatenate([found.second, dealt.permutation(found.second)]),
        )
        for pair, found in buddies.items()
    }
    what = f"matches of zoo {zoo.name} on {len(pictures):,} other pictures"
    with stage(_LOG, what, unit="picture", progress=progress) as work:
        said = pair_correlations(
            loaded, pictures, units=units, memory=options.memory, progress=work.tell
        )
    rows = [_row(pair, found, said[pair].reshape(2, -1)) for pair, found in buddies.items()]
    return Result(
        pa.Table.from_pylist(rows),
        note=f"best buddies of {zoo.neighbors} neighbors on {len(pictures):,} other pictures",
    )


def _check_new(zoo: OpenZoo, images: Any, *, seed: int) -> None:
    """Raise `BadQuestion` where samples would be those that the zoo was mined on."""
    mined = json.loads(zoo.row["settings"]).get("pictures", {})
    if images is None and mined.get("seed") == seed:
        msg = (
            f"zoo {zoo.name!r} was mined on samples of seed {seed}; others are of another seed "
            f"than {seed}: pass seed={seed + 1}."
        )
        raise BadQuestion(msg)


def _row(pair: tuple[str, str], found: Buddies, both: F32) -> dict[str, Any]:
    held, shuffled = both
    apart = np.abs(held - found.correlation)
    return {
        "model_a": pair[0],
        "model_b": pair[1],
        "matches": len(found),
        "mined": float(found.correlation.mean()) if len(found) else None,
        "held_out": float(np.nanmean(held)) if len(found) else None,
        "shuffled": float(np.nanmean(shuffled)) if len(found) else None,
        "median_change": float(np.nanmedian(apart)) if len(found) else None,
        "largest_change": float(np.nanmax(apart)) if len(found) else None,
        "within_005": float(np.mean(apart <= _CLOSE)) if len(found) else None,
    }
