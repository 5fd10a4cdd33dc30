"""A zoo's dictionary: concepts on example pictures, in every model (Figure 4.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..schema.errors import BadQuestion
from ..schema.zoo_errors import NoMatches
from .open_zoo import Merged, OpenZoo
from .rosetta_heatmaps import MapCell, MapGrid, chosen_concepts, example_picture, unit_cell
from .whole_numbers import whole


def dictionary(
    zoo: OpenZoo,
    *,
    concepts: int | Sequence[int],
    images: int | Sequence[int],
    models: str | Sequence[str] | None,
    min_correlation: float | None,
) -> MapGrid:
    """Rows of concepts and pictures, columns of models; see `RosettaView.dictionary`."""
    merged = zoo.merged(models, min_correlation=min_correlation)
    strongest = merged.strongest
    cells: list[list[MapCell]] = []
    names: list[str] = []
    for concept in chosen_concepts(zoo, merged, concepts):
        row = int(strongest[concept])
        for image in example_pictures(zoo, merged, row=row, images=images):
            line = [MapCell(picture=example_picture(zoo, image))]
            line += [
                unit_cell(zoo, merged, row=row, place=place, image=image)
                for place in range(len(merged.members))
            ]
            cells.append(line)
            names.append(f"concept {concept}\npicture {image}")
    columns = ["picture", *(member.name for member in merged.members)]
    return MapGrid(cells, rows=names, columns=columns)


def example_pictures(
    zoo: OpenZoo, merged: Merged, *, row: int, images: int | Sequence[int]
) -> list[int]:
    """The given pictures, or so many in which a tuple's units are most active together.

    `row` is the tuple's in `merged.best`. Raises `MapsNotStored`, `NoMatches` where none of its
    units' maps are kept, or `BadQuestion`.
    """
    if isinstance(images, Sequence):
        if not images:
            msg = "images=[] names no example pictures; give their numbers, or how many to show."
            raise BadQuestion(msg)
        return [zoo.example(image) for image in images]
    count = min(whole(images, "images", least=1, of="example pictures"), len(zoo.pictures))
    peaks = [
        maps.max((1, 2))
        for member, unit in zip(merged.members, merged.best.units[row].tolist(), strict=True)
        if (maps := zoo.maps(member, unit)) is not None
    ]
    if not peaks:
        msg = (
            f"zoo {zoo.name!r} keeps no maps of this concept; mining again with --examples "
            "keeps those of the units that match now."
        )
        raise NoMatches(msg)
    # Where the model that sees least of it still sees much.
    together = np.min(peaks, axis=0)
    return np.argsort(-together, kind="stable")[:count].tolist()
