"""A store of the embedded world that a test may share: real scenes through the shipped CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lensbase.ingest.job import Ingested, ingest
from lensbase.ingest.pools import TextPool

POOL = TextPool("few", ("a red circle", "a blue square", "an object on water", "two objects"))


def ingest_scenes(scenes: Path, store: Path, **options: Any) -> Ingested:
    """Ingest a folder of scenes as run `r`: small segments, so that a few images make several."""
    settings: dict[str, Any] = {
        "model": "world",
        "run": "r",
        "heads": "all",
        "head_tokens": "last:2",
        "pool": POOL,
        "workers": 0,
        "batch_size": 20,
        "threads": 1,
        "segment_rows": 64,
    }
    return ingest(scenes / "manifest.csv", store, **(settings | options))


def store_bytes(store: Path) -> dict[str, bytes]:
    """Every array, manifest and row file of a store; catalogues hold times, so not them."""
    return {
        file.relative_to(store).as_posix(): file.read_bytes()
        for kind in ("runs", "segments", "thumbnails", "pools")
        for file in sorted((store / kind).rglob("*"))
        if file.is_file()
    }
