"""Ways out of what is a picture at heart: PNG bytes, matplotlib, notebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from PIL.Image import Image


class Pictured(ABC):
    """What shows itself as the picture that `picture` gives; `text` is its title."""

    text: str

    @abstractmethod
    def picture(self) -> Image:
        """The picture; subclasses take options by keyword."""

    def png(self, path: str | os.PathLike[str] | None = None, **options: Any) -> bytes:
        """The picture as PNG bytes, also written to `path` where given.

        `options` are those of `picture`.
        """
        buffer = BytesIO()
        self.picture(**options).save(buffer, "PNG", compress_level=1)  # 4 times faster
        if path is not None:
            Path(path).write_bytes(buffer.getvalue())
        return buffer.getvalue()

    def plot(self, *, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the picture with matplotlib; `options` are those of `picture`."""
        from .plots import new_axes

        ax = ax or new_axes(3, 3.2)
        ax.imshow(np.asarray(self.picture(**options)))
        ax.set(xticks=[], yticks=[])
        ax.set_title(self.text, fontsize=9, wrap=True)
        return ax

    def _repr_png_(self) -> bytes:
        return self.png()
