"""Values: numbers with the names of what they are about, and the ways to take them elsewhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricated_store import webp_of

from lensbase.api import Values
from lensbase.schema.errors import BadQuestion


@pytest.fixture
def values() -> Values:
    return Values(
        np.arange(24.0).reshape(2, 3, 4),
        image_ids=np.array([7, 5]),
        components=["EMBED", "L0.ATTN", "L0.MLP"],
    )


def test_values_are_float32_with_their_names(values: Values) -> None:
    assert values.values.dtype == np.float32
    assert (len(values), values.shape) == (2, (2, 3, 4))
    assert values.components == ["EMBED", "L0.ATTN", "L0.MLP"]
    assert repr(values) == "Values [2, 3, 4] float32 of 2 images, 3 components EMBED .. L0.MLP"
    assert "<td>7</td>" in values._repr_html_()


def test_numpy_takes_values_as_an_array(values: Values) -> None:
    assert np.asarray(values) is not None
    assert np.shares_memory(np.asarray(values), values.values)
    assert np.asarray(values, np.float64).dtype == np.float64
    assert not np.shares_memory(np.array(values, copy=True), values.values)
    np.testing.assert_array_equal(np.mean(values, axis=0), values.values.mean(0))
    with pytest.raises(ValueError, match="copy"):
        np.array(values, dtype=np.float64, copy=False)


def test_torch_shares_the_memory(values: Values) -> None:
    torch = pytest.importorskip("torch")
    tensor = values.torch()
    assert tensor.dtype == torch.float32
    assert np.shares_memory(tensor.numpy(), values.values)


def test_frames_are_indexed_by_image_and_component(values: Values) -> None:
    frame = values.df()
    assert frame.index.names == ["image_id", "component"]
    np.testing.assert_array_equal(frame.loc[(5, "L0.ATTN")], [16, 17, 18, 19])
    flat = Values(np.ones((2, 4)), image_ids=np.array([7, 5])).df()
    assert flat.index.tolist() == [7, 5]
    assert flat.shape == (2, 4)


def test_frames_of_texts_are_indexed_by_text() -> None:
    frame = Values(np.eye(2), texts=["sand", "water"]).df()
    assert frame.index.name == "text"
    assert frame.loc["water"].tolist() == [0, 1]


def test_no_images_are_values_too() -> None:
    empty = Values(np.empty((0, 3, 4)), image_ids=np.empty(0, np.int64), components=["a"] * 3)
    assert len(empty) == 0
    assert empty.df().shape == (0, 4)
    assert "0 images" in empty._repr_html_()


def test_tables_have_a_row_a_vector(values: Values) -> None:
    """[2, 3, 4] makes 6 rows of lists of 4; components as the last axis make columns."""
    table = values.arrow()
    assert table.column_names == ["image_id", "component", "values"]
    assert table.column("image_id").to_pylist() == [7, 7, 7, 5, 5, 5]
    assert values.rows()[4] == {
        "image_id": 5, "component": "L0.ATTN", "values": [16.0, 17.0, 18.0, 19.0],
    }  # fmt: skip
    assert values.pl()["values"].to_list() == table.column("values").to_pylist()
    assert pa.table(values).num_rows == 6  # through __arrow_c_stream__
    assert pl.DataFrame(values).shape == (6, 3)
    named = Values(np.eye(2), image_ids=np.array([7, 5]), components=["norm", "coefficient"])
    assert named.rows()[1] == {"image_id": 5, "norm": 0.0, "coefficient": 1.0}
    assert Values(np.eye(2), texts=["a", "b"]).rows()[0] == {"text": "a", "values": [1.0, 0.0]}
    line = Values(np.array([1.0, 2.0]), image_ids=np.array([7, 5]))
    assert line.rows() == [{"image_id": 7, "value": 1.0}, {"image_id": 5, "value": 2.0}]
    assert line.df().shape == (2, 1)
    deep = Values(np.arange(16.0).reshape(2, 2, 2, 2), components=["a", "b"])
    assert deep.rows()[5] == {
        "image_id": 1, "component": "a", "axis2": 1, "values": [10.0, 11.0],
    }  # fmt: skip
    assert Values(np.empty((0, 3, 4)), image_ids=np.empty(0, np.int64)).rows() == []


def test_values_are_saved_by_suffix(values: Values, tmp_path: Path) -> None:
    np.testing.assert_array_equal(np.load(values.save(tmp_path / "a.npy")), values.values)
    assert pq.read_table(values.save(tmp_path / "a.parquet")).to_pylist() == values.rows()
    rows = list(csv.DictReader(values.save(tmp_path / "a.csv").open(newline="")))
    assert json.loads(rows[0]["values"]) == [0, 1, 2, 3]
    saved = json.loads(values.save(tmp_path / "a.json").read_text())
    assert saved[5]["values"] == [20, 21, 22, 23]
    with pytest.raises(BadQuestion, match=r"end it in \.npy, \.parquet, \.csv or \.json"):
        values.save(tmp_path / "a.xlsx")


def test_notebooks_show_images_beside_values() -> None:
    values = Values(
        np.ones((30, 64)), image_ids=np.arange(30), thumbnails=lambda ids: [webp_of(1)] * len(ids)
    )
    shown = values._repr_html_()
    assert shown.count("data:image/webp;base64,") == 20
    assert "10 more rows" in shown
    few = Values(np.array([[0.25, -2.0]]), image_ids=np.array([3]), components=["norm", "x"])
    assert "<td>-2</td>" in few._repr_html_()
    assert "&lt;b&gt;" in Values(np.eye(1), texts=["<b>"])._repr_html_()


def test_values_plot_themselves(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    axes = values.plot()
    np.testing.assert_allclose(
        np.asarray(axes.images[0].get_array()), np.linalg.norm(values.values, axis=2), rtol=1e-6
    )
    assert [tick.get_text() for tick in axes.get_xticklabels()] == values.components
    bars = Values(np.eye(2), texts=["sand", "water"]).plot()
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["sand", "water"]
    wide = Values(np.ones((3, 400)), components=[f"L0.N{place}" for place in range(400)]).plot()
    assert len(wide.get_xticklabels()) <= 40
    plt.close("all")
