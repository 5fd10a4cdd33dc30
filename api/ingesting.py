"""Ingesting from Python: the one door from here to the side of the house that needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.stages import Progress

if TYPE_CHECKING:
    import os

    from torch import nn

    from ..ingest.job import Ingested


def ingest(
    images: Any,
    store: str | os.PathLike[str],
    *,
    model: str | nn.Module = "world",
    pretrained: str | None = None,
    preprocess: Callable[..., Any] | None = None,
    tokenizer: Callable[..., Any] | None = None,
    run: str | None = None,
    heads: str | Sequence[int] | None = "last:4",
    tokens: bool | None = None,
    head_tokens: str | Sequence[int] | None = None,
    neurons: str | Sequence[int] | None = None,
    devices: str = "auto",
    resume: bool = True,
    progress: Progress = None,
    **options: Any,
) -> Ingested:
    """Run images through a model once and write what its parts do into a store.

    `images` is a folder, a manifest, Parquet, WebDataset or `datasets` files, or a list of
    paths; `model` an open_clip name, "world" (the CLIP that comes with lensbase) or a module.
    `neurons` keeps the second-order effects of layers' neurons: "default", the three before the
    last, "all" but the last, or layers as for `heads`. A bar is shown on a terminal and in
    notebooks: `progress=False` shows none, and a function is told images done and in all.
    Everything else is explained at `lensbase.ingest.job.ingest`, which takes `options` too.
    Needs `lensbase[ingest]`: raises ImportError where torch is missing.
    """
    from ..ingest.job import ingest as run_job

    return run_job(
        images,
        Path(store),
        model=model,
        pretrained=pretrained,
        preprocess=preprocess,
        tokenizer=tokenizer,
        run=run,
        heads=heads,
        tokens=tokens,
        head_tokens=head_tokens,
        neurons=neurons,
        devices=devices,
        resume=resume,
        progress=progress,
        **options,
    )
