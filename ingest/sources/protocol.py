"""What every kind of source of images can do."""

# pyright: reportUnknownParameterType=false
# pyarrow has no types.

from __future__ import annotations

from typing import Protocol

import pyarrow as pa


class Source(Protocol):
    """Images in a fixed order, each with a key; cheap to send to another process."""

    @property
    def kind(self) -> str:
        """Folder, manifest, parquet, webdataset, huggingface or paths."""
        ...

    @property
    def root(self) -> str:
        """The folder or file that keys are relative to, as an absolute path."""
        ...

    def table(self) -> pa.Table:
        """One row an image, in an order that depends on the images alone.

        Columns: `key` (string, unique), `label` and `subgroup` (string or null), then whatever
        further columns the source has, with their types.
        """
        ...

    def read(self, row: int) -> bytes:
        """The encoded bytes of one row of `table()`; raises `OSError` where they can't be read."""
        ...
