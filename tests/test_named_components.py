"""What names components: addresses, heads, roles, rows and lists, alike wherever some are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricated_store import fabricate

from lensbase.api import Result, Store, open_store, role
from lensbase.api.named_components import as_given
from lensbase.api.run import RunView
from lensbase.schema.components import Head
from lensbase.schema.errors import BadAddress, UnknownRole

NAMED = ["L1.H0", "L2.H1"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("named") / "x.lens"
    fabricate(path)
    with open_store(path) as store:
        store.annotate(NAMED, role="texture")
        store.annotate("L2.N5", role="neurons")
        yield store


@pytest.fixture(scope="module")
def clip(store: Store) -> RunView:
    return store.run()


def ways(clip: RunView) -> list[Any]:
    rows = Result.of({"component": NAMED, "score": [2, 1]})
    return [
        NAMED,
        role("texture"),
        [role("texture"), "L2.H1"],
        rows,
        rows.df(),
        rows.pl(),
        list(rows),
        [clip.head("L1.H0"), Head(2, 1)],
        ("world-demo:L1.H0", "L2.H1"),
    ]


def test_every_way_names_the_same_heads(clip: RunView) -> None:
    wanted = clip.textspan(NAMED, m=2).rows()
    for way in ways(clip):
        assert clip.textspan(way, m=2).rows() == wanted, way
        batch = next(iter(clip.batches(heads=way)))
        assert list(dict.fromkeys(batch.components or ())) == NAMED, way
        assert (clip.ablate(way).values == clip.ablate(NAMED).values).all(), way


def test_heatmaps_of_a_role_are_a_row_a_head(store: Store, tmp_path: Path) -> None:
    store.annotate(["L2.H0", "L2.H1"], role="late")
    image = store.run().image(133)
    grid = image.heatmaps("sand", heads=role("late"))
    assert [row[0].head for row in (grid[0], grid[1])] == ["L2.H0", "L2.H1"]
    rows = Result.of({"component": ["L2.H1"]})
    assert image.heatmaps("sand", heads=rows)[0][0].head == "L2.H1"


def test_a_role_can_be_annotated_anew(store: Store) -> None:
    store.annotate("L1.H1", role="early")
    assert store.annotate(role("early"), role="first") == ["L1.H1"]
    with pytest.raises(UnknownRole, match="early"):
        store.run().textspan(role("early"))


def test_what_names_no_head_is_said(clip: RunView) -> None:
    asks: list[Callable[[Any], object]] = [
        clip.textspan,
        lambda one: clip.batches(heads=one),
        lambda one: clip.image(133).heatmaps("sand", heads=one),
    ]
    for ask in asks:
        for slice_ in ("attn[-1:]", "attn", "world-demo:mlp[:2]"):
            with pytest.raises(BadAddress, match="which only ablate= takes"):
                ask(slice_)
        with pytest.raises(BadAddress, match=r"L2\.N5' is not a head"):
            ask(role("neurons"))
        for nothing in (7, b"L1.H0", {"head": 1}, Result.of({"head": [1]})):
            with pytest.raises(BadAddress, match=r"names no component; give .* role\('NAME'\)"):
                ask(nothing)


def test_people_read_what_was_given() -> None:
    assert as_given(["mlp", role("texture"), ["L1.H0", "mlp"]]) == [
        "mlp",
        "role('texture')",
        "L1.H0",
    ]
