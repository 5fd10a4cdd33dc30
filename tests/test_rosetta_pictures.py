"""Pictures of a zoo: its dictionary (Figure 4.2) and all concepts of a picture (Figure 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_zoo import write_zoo

from lensbase.api import open_store
from lensbase.api.rosetta import RosettaView
from lensbase.schema.errors import BadQuestion


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RosettaView]:
    layout = write_zoo(tmp_path_factory.mktemp("zoo") / "z.lens")
    with open_store(layout.root) as opened:
        yield opened.rosetta()


def test_the_dictionary_shows_each_concepts_units_where_they_are_most_active(
    zoo: RosettaView, tmp_path: Path
) -> None:
    grid = zoo.dictionary(concepts=2, images=3)
    assert (len(grid), grid.columns) == (6, ["picture", "gan", "resnet", "clip"])
    concepts = zoo.concepts().rows()
    for place, line in enumerate(grid):
        row = concepts[place // 3]
        image = int(grid.rows[place].rpartition(" ")[2])
        assert line[0].picture is not None
        for cell, name in zip(line[1:], ("unit", "resnet", "clip"), strict=True):
            assert cell.heatmap is not None
            assert cell.heatmap.text == row[name]
            wanted = zoo.unit(row[name]).activity(image)[0]
            np.testing.assert_array_equal(cell.heatmap.values, wanted)
    first = concepts[0]
    peaks = np.min(
        [zoo.unit(first[n]).activity().max((1, 2)) for n in ("unit", "resnet", "clip")], axis=0
    )
    shown = [int(name.rpartition(" ")[2]) for name in grid.rows[:3]]
    assert shown == np.argsort(-peaks, kind="stable")[:3].tolist()
    path = grid.save(tmp_path / "dictionary.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 300
    assert "<img src=" in grid._repr_html_()
    assert grid._repr_png_().startswith(b"\x89PNG")
    assert grid.plot().axes
    assert repr(grid) == "grid of 18 activation maps in 6 rows"
    fewer = zoo.dictionary([1], [0, 5], ["clip"], min_correlation=0.6)
    assert (len(fewer), fewer.columns) == (2, ["picture", "gan", "clip"])
    with pytest.raises(BadQuestion, match="names no format"):
        grid.save(tmp_path / "dictionary.txt")


def test_heatmaps_show_every_concept_of_a_picture(zoo: RosettaView) -> None:
    for model, column in ((None, "unit"), ("clip", "clip")):
        grid = zoo.heatmaps(2, model)
        cells = [cell for line in grid for cell in line]
        concepts = zoo.concepts().rows()
        assert len(cells) == 1 + len(concepts)
        for cell, row in zip(cells[1:], concepts, strict=True):
            assert cell.title == f"concept {row['concept']}"
            assert cell.heatmap is not None
            assert cell.heatmap.text == row[column]
    assert zoo.heatmaps(0, concepts=3).png().startswith(b"\x89PNG")
