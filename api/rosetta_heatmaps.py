"""Pictures of a zoo's concepts: grids of activation maps over example pictures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema.errors import BadQuestion
from ..schema.zoo_errors import NoMatches
from .backdrops import backdrop
from .heatmap import Heatmap
from .open_zoo import Merged, OpenZoo
from .whole_numbers import whole

if TYPE_CHECKING:
    import os

    from matplotlib.figure import Figure
    from PIL.Image import Image

_CELL = 1.7  # inches
_DPI = 110
_ACROSS = 8  # concepts beside each other


@dataclass(frozen=True)
class MapCell:
    """A place of a grid: a map over a picture, the picture alone, or nothing; and its title."""

    heatmap: Heatmap | None = None
    picture: Image | None = None
    title: str = ""


class MapGrid:
    """Activation maps over example pictures; `grid[row][column]` is a `MapCell`.

    `columns` name the columns and `rows` the rows, where they have names.
    """

    def __init__(
        self, cells: list[list[MapCell]], *, rows: Sequence[str] = (), columns: Sequence[str] = ()
    ) -> None:
        self._cells = cells
        self.rows = list(rows)
        self.columns = list(columns)

    def figure(self, **options: Any) -> Figure:
        """All cells with their titles; `options` are those of `Heatmap.picture`."""
        from matplotlib.figure import Figure

        rows, columns = len(self), max(len(row) for row in self._cells)
        figure = Figure((_CELL * columns, _CELL * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for place, (line, row) in enumerate(zip(axes, self._cells, strict=True)):
            for ax in line[len(row) :]:
                ax.set_axis_off()
            for ax, cell in zip(line, row, strict=False):
                _draw(ax, cell, options)
            if self.rows:
                line[0].set_ylabel(self.rows[place], fontsize=8)
        for ax, name in zip(axes[0], self.columns, strict=False):
            ax.set_title(name, fontsize=8)
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
        """Write the figure (`.png`, `.webp`, `.jpg`); return the path.

        Raises `BadQuestion` for another suffix.
        """
        path = Path(path)
        if path.suffix not in (".png", ".webp", ".jpg", ".jpeg"):
            msg = f"{path.name!r} names no format; end it in .png, .webp or .jpg."
            raise BadQuestion(msg)
        self.figure(**options).savefig(path, dpi=_DPI)
        return path

    def __getitem__(self, row: int) -> list[MapCell]:
        return self._cells[row]

    def __iter__(self) -> Iterator[list[MapCell]]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_html_(self) -> str:
        return f'<img src="data:image/png;base64,{b64encode(self.png()).decode()}">'

    def __repr__(self) -> str:
        maps = sum(cell.heatmap is not None for row in self._cells for cell in row)
        return f"grid of {maps} activation maps in {len(self)} rows"


def _draw(ax: Any, cell: MapCell, options: dict[str, Any]) -> None:
    ax.set(xticks=[], yticks=[])
    shown = cell.picture if cell.heatmap is None else cell.heatmap.picture(**options)
    if shown is None:
        ax.text(0.5, 0.5, "not kept", ha="center", va="center", fontsize=7)
    else:
        ax.imshow(shown)
    if cell.title:
        ax.set_title(cell.title, fontsize=7)


def unit_cell(zoo: OpenZoo, merged: Merged, *, row: int, place: int, image: int) -> MapCell:
    """The map of a tuple's unit over an example picture; an empty cell where it is not kept."""
    member, unit = merged.members[place], int(merged.best.units[row, place])
    maps = zoo.maps(member, unit)
    if maps is None:
        return MapCell()
    heatmap = Heatmap(
        maps[image],
        text=str(member.address(unit)),
        head=None,
        relative_to=None,
        background=lambda: example_picture(zoo, image),
    )
    return MapCell(heatmap)


def example_picture(zoo: OpenZoo, image: int) -> Image:
    """An example picture at a size to look at."""
    from PIL import Image

    return backdrop(Image.fromarray(np.asarray(zoo.pictures[image])))


def chosen_concepts(
    zoo: OpenZoo, merged: Merged, concepts: int | Sequence[int] | None
) -> list[int]:
    """Concepts by number, or so many of the strongest; all for None.

    Raises `BadQuestion`, or `NoMatches` where the models share none.
    """
    count = merged.concepts.count
    if not count:
        shared = ", ".join(member.name for member in merged.members)
        msg = (
            f"{shared} share no units in zoo {zoo.name!r}, so there is nothing to show; fewer "
            "models=, or a lower min_correlation=, may have matches."
        )
        raise NoMatches(msg)
    if concepts is None:
        return list(range(count))
    if not isinstance(concepts, Sequence):
        return list(range(min(whole(concepts, "concepts", least=1, of="concepts"), count)))
    listed = [whole(one, "concepts", least=0, of="concept") for one in concepts]
    if not listed or max(listed) >= count:
        msg = f"concepts={list(concepts)!r}: these models share concepts 0 to {count - 1}."
        raise BadQuestion(msg)
    return listed


def concept_heatmaps(
    zoo: OpenZoo,
    image: int,
    *,
    model: str | None,
    models: str | Sequence[str] | None,
    concepts: int | Sequence[int] | None,
    min_correlation: float | None,
) -> MapGrid:
    """All concepts in one example picture; see `RosettaView.heatmaps`."""
    merged = zoo.merged(models, min_correlation=min_correlation)
    member = zoo.anchor if model is None else zoo.member(model)
    if member not in merged.members:
        msg = f"{member.name} is none of the models whose concepts are asked for."
        raise BadQuestion(msg)
    place = merged.members.index(member)
    image = zoo.example(image)
    listed, strongest = chosen_concepts(zoo, merged, concepts), merged.strongest
    cells = [MapCell(picture=example_picture(zoo, image), title=f"picture {image}")]
    for concept in listed:
        cell = unit_cell(zoo, merged, row=int(strongest[concept]), place=place, image=image)
        cells.append(MapCell(cell.heatmap, title=f"concept {concept}"))
    lines = [cells[start : start + _ACROSS] for start in range(0, len(cells), _ACROSS)]
    return MapGrid(lines)
