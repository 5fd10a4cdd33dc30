"""Mining a zoo of models from Python: the door to the side of the house that needs torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.stages import stage
from .store import open_store

if TYPE_CHECKING:
    import os

    from .rosetta import RosettaView

_LOG = logging.getLogger(__name__)


def mine_rosetta(
    images: Any,
    store: str | os.PathLike[str],
    *,
    models: Sequence[Any] = (),
    zoo: str = "zoo",
    anchor: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    neighbors: int = 5,
    memory: int = 8_000_000_000,
    batch_size: int = 32,
    examples: int = 32,
    limit: int | None = None,
    where: str | None = None,
    device: str = "auto",
    notice: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int], None] | bool | None = None,
) -> RosettaView:
    """Find the units that several models share, keep them in a store, and open the zoo (T4.1-4.4).

    `images` is a folder, a manifest, Parquet files and so on, as for `ingest`; None where one of
    the models is a generator: then `samples` of it (1,600, from `seed`) are the pictures. `models`
    are specifications, `NAME=SOURCE:ARCHITECTURE[@PRETRAINED][#PATTERN]`, or members made from
    modules. Tuples and concepts go through the `anchor`: the generator, or the first model. Of
    each unit the `neighbors` nearest in every other model are kept; `memory` bytes hold the
    products, in several passes over the pictures where they are too few. `examples` pictures that
    show the concepts are kept with the maps of matched units. A bar is shown on a terminal and in
    notebooks: `progress=False` shows none, and a function is told what is done, and how many
    pictures of how many; `notice` is told what is noticed.
    An interrupted mining goes on when asked again, and a model that joins later is mined against
    the rest alone. Needs `lensbase[ingest]`; raises as `lensbase.ingest.rosetta.job.mine_zoo` does.
    """
    from ..ingest.rosetta.job import mine_zoo
    from ..ingest.rosetta.mining_options import MiningOptions

    options = MiningOptions(
        neighbors=neighbors,
        memory=memory,
        batch_size=batch_size,
        examples=examples,
        samples=samples,
        seed=seed,
        limit=limit,
        where=where,
        device=device,
    )
    path = Path(store)
    shown = False if callable(progress) else progress
    with stage(_LOG, f"mining zoo {zoo}", unit="picture", progress=shown, notice=notice) as work:
        mine_zoo(
            images,
            path,
            zoo=zoo,
            models=models,
            anchor=anchor,
            options=options,
            notice=work.say,
            progress=progress
            if callable(progress)
            else lambda what, done, total: work.tell(done, total, what),
        )
    return open_store(path).rosetta(zoo)
