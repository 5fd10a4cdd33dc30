"""Which models can be ingested."""

from __future__ import annotations

from .result import Result


def supported_models(containing: str = "") -> Result:
    """Models that `ingest` takes by name, those whose name contains a text.

    Columns `model`, `pretrained` (a list of tags), `layers`, `heads`, `width`, `image_size`,
    `patch_size`, `embed_dim`, `activation`. Raises ImportError without `lensbase[ingest]`.
    """
    import pyarrow as pa

    from ..ingest.model_list import list_models

    rows = list_models()
    chosen = [row for row in rows if containing.lower() in row["model"].lower()]
    return Result(pa.Table.from_pylist(chosen, schema=pa.Table.from_pylist(rows).schema))
