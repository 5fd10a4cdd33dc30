"""Heatmaps of one image side by side: texts in columns, heads in rows."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from .heatmap import Heatmap

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure

_CELL = 2.4  # inches
_DPI = 120


class HeatmapGrid:
    """Heatmaps of one image; `grid[row][column]` is one of them.

    `values` [rows, columns, patches down, patches across] are their scores.
    """

    def __init__(self, heatmaps: list[list[Heatmap]]) -> None:
        self._heatmaps = heatmaps

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """The scores of all heatmaps, in float32."""
        return np.array([[heatmap.values for heatmap in row] for row in self._heatmaps])

    def figure(self, **options: Any) -> Figure:
        """The pictures with their texts above and heads beside them; `options` as in `Heatmap`."""
        from matplotlib.figure import Figure

        rows, columns = len(self), len(self[0])
        figure = Figure((_CELL * columns, _CELL * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for line, row in zip(axes, self._heatmaps, strict=True):
            for ax, heatmap in zip(line, row, strict=True):
                ax.imshow(heatmap.picture(**options))
                ax.set(xticks=[], yticks=[])
                ax.set_title(heatmap.text, fontsize=9, wrap=True)
            line[0].set_ylabel(row[0].head or "all heads")
        return figure

    def plot(self, **options: Any) -> Figure:
        """The same as `figure`: a matplotlib figure."""
        return self.figure(**options)

    def png(self, path: str | os.PathLike[str] | None = None, **options: Any) -> bytes:
        """The figure as PNG bytes, also written to `path` where given."""
        buffer = BytesIO()
        self.figure(**options).savefig(buffer, format="png", dpi=_DPI)
        if path is not None:
            Path(path).write_bytes(buffer.getvalue())
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write the figure (`.png`, `.webp`, `.jpg`) or the scores (`.npy`); return the path.

        Raises `BadQuestion` for another suffix.
        """
        path = Path(path)
        if path.suffix == ".npy":
            np.save(path, self.values)
        elif path.suffix in (".png", ".webp", ".jpg", ".jpeg"):
            self.figure(**options).savefig(path, dpi=_DPI)
        else:
            msg = f"{path.name!r} names no format; end it in .png, .webp, .jpg or .npy."
            raise BadQuestion(msg)
        return path

    def __getitem__(self, row: int) -> list[Heatmap]:
        return self._heatmaps[row]

    def __iter__(self) -> Iterator[list[Heatmap]]:
        return iter(self._heatmaps)

    def __len__(self) -> int:
        return len(self._heatmaps)

    def _repr_png_(self) -> bytes:
        return self.png()

    def __repr__(self) -> str:
        rows = [", ".join(map(repr, row)) for row in self._heatmaps]
        return "\n".join(rows)
