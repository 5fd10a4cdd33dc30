"""A store of the embedded world that a test may share: real scenes through the shipped CLIP."""

from __future__ import annotations

import re
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


FEW: dict[str, Any] = {
    "neurons": "4,5,6",
    "heads": "last:1",
    "head_tokens": None,
    "tokens": False,
    "batch_size": 16,
    "segment_rows": 16,
    "reference": 30,
}
# Bytes that layer 4 needs alone, and 5 and 6 together: FEW takes two passes with no more.
TWO_PASSES = 3_000_000


def run_bytes(store: Path) -> dict[str, bytes]:
    """`store_bytes`, whatever number the arrays by neuron got when the run was completed."""
    label = re.compile(rb"(by_neuron-|by_neuron/(?:top|\d+)-)\d+")
    return {
        label.sub(rb"\1N", name.encode()).decode(): label.sub(rb"\1N", content)
        if "/by_neuron-" in name
        else content
        for name, content in store_bytes(store).items()
    }


def neuron_rows(store: Path) -> dict[str, list[dict[str, Any]]]:
    """What every view says of a store's neurons."""
    from lensbase.api import open_store

    views = ("neurons", "neuron_top_images", "neuron_peaks", "neuron_texts")
    with open_store(store) as opened:
        return {view: opened.sql(f"SELECT * FROM {view} ORDER BY ALL").rows() for view in views}
