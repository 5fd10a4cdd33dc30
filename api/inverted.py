"""What inversion and editing give: pictures beside their targets, latents, and how it went."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from .printing import counted

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ..ingest.rosetta.image_scores import Network
    from ..ingest.rosetta.inversion import Inversion

_SHOWN = 192  # pixels a side, to look at
_CELL = 1.9  # inches
_DPI = 110


class Inverted:
    """Pictures that a generator made to match targets: of each, from one or several starts.

    `title` says what was done, `target_title` what the targets are, and `pairs` are the (generator
    unit, other unit) addresses that guided it.
    """

    def __init__(
        self, found: Inversion, *, title: str, target_title: str, pairs: Sequence[tuple[str, str]]
    ) -> None:
        self._found = found
        self.title = title
        self.target_title = target_title
        self.pairs = list(pairs)

    @property
    def image(self) -> Image:
        """The picture of the first target, from the start that ended with the lowest loss."""
        return self.images[0]

    @property
    def images(self) -> list[Image]:
        """The pictures of all targets, each from its best start."""
        return _pictures(self._found.image)

    @property
    def starts(self) -> list[list[Image]]:
        """The pictures of all targets from every start."""
        return [_pictures(row) for row in self._found.images]

    @property
    def targets(self) -> list[Image]:
        """The pictures that were inverted, or edited, at the generator's size."""
        return _pictures(self._found.targets)

    @property
    def latent(self) -> npt.NDArray[np.float32]:
        """The latents [targets, *latent] of `images`."""
        return self._found.latent

    @property
    def latents(self) -> npt.NDArray[np.float32]:
        """All latents [targets, starts, *latent]."""
        return self._found.latents

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """Losses [steps + 1, targets, starts]: before each step and after the last."""
        return self._found.losses

    @property
    def similarity(self) -> npt.NDArray[np.float32]:
        """How alike the maps of each pair are at the end (T4.6): [targets, starts, pairs]."""
        return self._found.similarity

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """Pictures of kept steps [kept, targets, starts, S, S, 3]; the last is the end."""
        return self._found.frames

    def scores(self, *, lpips: Network | None = None) -> dict[str, npt.NDArray[np.float32]]:
        """PSNR and SSIM [targets] of `images` to their targets, and LPIPS (Table 4.1).

        LPIPS where its network is named: "alex", "vgg" or "squeeze". Raises `WeightsNotFound` where
        that one's weights are neither on disk nor to be downloaded.
        """
        from ..ingest.rosetta import image_scores

        pair = self._found.image, self._found.targets
        found = {"psnr": image_scores.psnr(*pair), "ssim": image_scores.ssim(*pair)}
        if lpips is not None:
            found["lpips"] = image_scores.lpips(*pair, network=lpips)
        return found

    def strip(self, most: int | None = 10) -> Image:
        """Kept steps side by side, a target and start a row; raises `BadTarget` without any."""
        from ..ingest.rosetta.strip import strip

        return strip(self.frames, most=most)

    def picture(self) -> Image:
        """Targets on the left, and beside each its pictures, the best start first."""
        from ..ingest.rosetta.strip import strip

        return strip(np.stack([self._found.targets, *self._ordered()]))

    def figure(self) -> Figure:
        """Targets and pictures with their losses, and how the losses fell."""
        from matplotlib.figure import Figure

        targets, starts = self._found.images.shape[:2]
        columns = starts + 2
        figure = Figure((_CELL * columns, _CELL * targets + 0.3), layout="constrained")
        axes: Any = figure.subplots(targets, columns, squeeze=False)
        shown, last = self._ordered(), np.sort(self.losses[-1], axis=1)
        for row, line in enumerate(axes):
            line[0].imshow(self._found.targets[row])
            line[0].set_title(self.target_title, fontsize=8)
            for start in range(starts):
                line[1 + start].imshow(shown[start][row])
                line[1 + start].set_title(f"loss {last[row, start]:.3f}", fontsize=8)
            for ax in line[:-1]:
                ax.set(xticks=[], yticks=[])
            line[-1].plot(self.losses[:, row])
            line[-1].tick_params(labelsize=7)
            line[-1].set_title("loss by step", fontsize=8)
        return figure

    def plot(self) -> Figure:
        """The same as `figure`."""
        return self.figure()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write pictures (`.png`, `.webp`, `.jpg`), kept steps (`.gif`) or numbers (`.npz`).

        The arrays of an `.npz` are latents, images, targets, losses and similarity. Returns the
        path; raises `BadQuestion` for another suffix, `BadTarget` for a GIF without kept steps.
        """
        path = Path(path)
        if path.suffix == ".npz":
            found = self._found
            np.savez(
                path,
                latents=found.latents,
                images=found.images,
                targets=found.targets,
                losses=found.losses,
                similarity=found.similarity,
            )
        elif path.suffix == ".gif":
            from ..ingest.rosetta.strip import save_strip

            save_strip(self.frames, path)
        elif path.suffix in (".png", ".webp", ".jpg", ".jpeg"):
            self.picture().save(path)
        else:
            msg = f"{path.name!r} names no format; end it in .png, .webp, .jpg, .gif or .npz."
            raise BadQuestion(msg)
        return path

    def png(self, path: str | os.PathLike[str] | None = None) -> bytes:
        """`picture` as PNG bytes, large enough to look at, also written to `path` where given."""
        from PIL.Image import Resampling

        picture = self.picture()
        times = max(1, _SHOWN // self._found.targets.shape[1])
        size = (picture.width * times, picture.height * times)
        buffer = BytesIO()
        picture.resize(size, Resampling.NEAREST).save(buffer, "PNG")
        if path is not None:
            Path(path).write_bytes(buffer.getvalue())
        return buffer.getvalue()

    def _ordered(self) -> list[npt.NDArray[np.uint8]]:
        """Pictures [targets, S, S, 3], one array a start, each target's best start first."""
        order = np.argsort(self.losses[-1], axis=1, kind="stable")
        rows = np.arange(len(order))
        return [self._found.images[rows, order[:, start]] for start in range(order.shape[1])]

    def __len__(self) -> int:
        return len(self._found.targets)

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_html_(self) -> str:
        data = b64encode(self.png()).decode()
        return f'<p>{escape(repr(self))}</p><img src="data:image/png;base64,{data}">'

    def __repr__(self) -> str:
        steps, targets, starts = self.losses.shape
        best = self.losses[-1].min(1).mean()
        parts = [
            f"{self.title}: {counted(targets, 'picture')} from {counted(starts, 'start')} each",
            f"guided by {counted(len(self.pairs), 'pair')}" if self.pairs else "not guided",
            f"loss {best:.4f} after {counted(steps - 1, 'step')}",
        ]
        return ", ".join(parts)


def _pictures(images: npt.NDArray[np.uint8]) -> list[Image]:
    from PIL import Image

    return [Image.fromarray(one) for one in images]
