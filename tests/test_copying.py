"""Copies: of all, of some images, without the large arrays; whole or not there at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from world_store import neuron_rows, store_bytes

from lensbase.api import open_store
from lensbase.api.copying import copy_store
from lensbase.api.verify import verify
from lensbase.schema.errors import (
    BadQuestion,
    BadSelection,
    NeuronsNotStored,
    NotAStore,
    TokensNotStored,
    UnknownRun,
)


def test_a_whole_copy_has_the_same_bytes(world_store: Path, tmp_path: Path) -> None:
    copy = copy_store(world_store, tmp_path / "copy.lens")
    assert store_bytes(copy) == store_bytes(world_store)
    assert verify(copy, level="checksums").ok


def test_a_copy_of_some_images_answers_as_the_original_does(
    world_store: Path, tmp_path: Path
) -> None:
    """Contributions are equal; TEXTSPAN is that of the same images in the original."""
    copy = copy_store(world_store, tmp_path / "copy.lens", where="background = 'water'")
    assert verify(copy).ok
    with open_store(world_store) as whole, open_store(copy) as part:
        address = whole.run().heads.rows()[-1]["component"]
        there, here = whole.run().head(address), part.run().head(address)
        chosen = whole.run().representation(where="background = 'water'").image_ids
        assert chosen is not None
        np.testing.assert_array_equal(part.run().representation().image_ids, chosen)
        np.testing.assert_array_equal(
            here.contribution().values, there.contribution(where="background = 'water'").values
        )
        expected = there.textspan(m=3, where="background = 'water'").rows()
        assert [row["text"] for row in here.textspan(m=3).rows()] == [
            row["text"] for row in expected
        ]
        labels = part.sql("SELECT DISTINCT background FROM images").rows()
        assert labels == [{"background": "water"}]
        picture = whole.run().thumbnail(int(chosen[0]))
        assert part.run().thumbnail(int(chosen[0])).tobytes() == picture.tobytes()


@pytest.mark.parametrize("where", [None, "background <> 'water'"])
def test_a_copy_without_tokens_says_so(
    world_store: Path, tmp_path: Path, where: str | None
) -> None:
    copy = copy_store(
        world_store, tmp_path / "copy.lens", where=where, without=["token", "head_token"]
    )
    assert verify(copy).ok
    assert not list((copy / "runs" / "r").glob("*token_*"))
    with open_store(copy) as opened, pytest.raises(TokensNotStored):
        opened.run().image(opened.run().images.rows()[0]["key"]).heatmap("a red circle")
    with open_store(world_store) as whole, open_store(copy) as opened:
        assert opened.runs.rows()[0]["bytes"] < whole.runs.rows()[0]["bytes"] / 2


def test_a_copy_that_fails_leaves_nothing(world_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownRun, match="its runs: r"):
        copy_store(world_store, tmp_path / "a.lens", runs=["other"])
    with pytest.raises(BadQuestion, match="token, head_token, thumbnail"):
        copy_store(world_store, tmp_path / "a.lens", without=["heads"])
    with pytest.raises(BadSelection):
        copy_store(world_store, tmp_path / "a.lens", where="no_such_column = 1")
    assert not list(tmp_path.iterdir())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    with pytest.raises(NotAStore):
        copy_store(world_store, tmp_path / "taken")


def test_a_whole_copy_has_the_neurons(neuron_store: Path, tmp_path: Path) -> None:
    copy = copy_store(neuron_store, tmp_path / "copy.lens")
    assert store_bytes(copy) == store_bytes(neuron_store)
    assert verify(copy, level="checksums").ok
    assert neuron_rows(copy) == neuron_rows(neuron_store)


@pytest.mark.parametrize("where", [None, "background = 'water'"])
def test_a_copy_without_neurons_has_nothing_of_them(
    neuron_store: Path, tmp_path: Path, where: str | None
) -> None:
    copy = copy_store(neuron_store, tmp_path / "copy.lens", where=where, without=["neuron"])
    assert verify(copy).ok
    assert not [name for name in store_bytes(copy) if "neuron" in name or "peaks" in name]
    assert not any(neuron_rows(copy).values())
    with open_store(copy) as opened:
        (facts,) = opened.sql("SELECT neuron_layers, neurons, neuron_input, reference FROM runs")
        assert tuple(facts.values()) == ("[]", 0, False, 0)
        with pytest.raises(NeuronsNotStored):
            opened.run().neuron("L5.N3").top_images(k=3)


def test_a_copy_without_what_neurons_read_keeps_the_rest(
    neuron_store: Path, tmp_path: Path
) -> None:
    copy = copy_store(neuron_store, tmp_path / "copy.lens", without=["neuron_input", "token"])
    assert verify(copy).ok
    before, after = store_bytes(neuron_store), store_bytes(copy)
    lost = {name.split("/")[2] for name in before.keys() - after.keys()}
    assert lost == {"neuron_input", "token"}
    assert neuron_rows(copy) == neuron_rows(neuron_store)


def test_a_copy_of_some_images_keeps_what_the_reference_set_said(
    neuron_store: Path, tmp_path: Path
) -> None:
    """Numbers of its images and the directions are equal; what is counted, is counted anew."""
    where = "background = 'water'"
    copy = copy_store(neuron_store, tmp_path / "copy.lens", where=where)
    report = verify(copy, level="model")
    assert report.ok, str(report)
    with open_store(neuron_store) as whole, open_store(copy) as part:
        chosen = whole.run().representation(where=where).image_ids
        assert chosen is not None
        there, here = whole.run().neuron("L5.N3"), part.run().neuron("L5.N3")
        np.testing.assert_array_equal(there.direction, here.direction)
        top = [row for row in there.top_images(k=150).rows() if row["image_id"] in chosen.tolist()]
        assert [
            (row["image_id"], row["norm"]) for row in here.top_images(k=len(chosen)).rows()
        ] == [(row["image_id"], row["norm"]) for row in top]
        facts = "SELECT component, norm_p98, explained_variance FROM neurons ORDER BY ALL"
        assert whole.sql(facts).rows() == part.sql(facts).rows()
        peaks = f"""SELECT e.* FROM neuron_peaks e JOIN images USING (image_id)
                    WHERE {where} ORDER BY ALL"""
        assert part.sql(peaks).rows() == whole.sql(peaks).rows()
        (active,) = part.sql("SELECT sum(active) AS n FROM neurons").rows()
        assert active["n"] == len(part.sql(peaks).rows()) > 0
    assert not list((copy / "runs" / "r").glob("neuron_reference*top"))
