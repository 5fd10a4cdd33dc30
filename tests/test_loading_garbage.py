"""Decoding processes that are forked from one that has used databases."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import duckdb
import torch
from PIL import Image

from lensbase.ingest.loading import batches
from lensbase.ingest.sources import open_source
from lensbase.ingest.world.dataset import write_scenes


class Collecting:
    """Preprocessing in whose process garbage is collected."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        gc.collect()
        return torch.zeros(3, 8, 8)


def test_workers_leave_their_parents_garbage_alone(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", count=8)
    source = open_source(tmp_path / "scenes" / "images")

    # A database in a cycle: collected in a forked process, it ends or hangs that process.
    class Holder:
        held: Any

    holder = Holder()
    holder.held = (holder, duckdb.connect(tmp_path / "db"))
    holder.held[1].execute("CREATE TABLE t AS SELECT range AS x FROM range(3_000_000)")
    holder.held[1].execute("SELECT sum(x) FROM t GROUP BY x % 1000").fetchall()
    gc.disable()
    try:
        del holder
        stream = batches(source, [range(8)] * 4, preprocess=Collecting(), workers=2)
        assert len(list(stream)) == 4
    finally:
        gc.enable()
