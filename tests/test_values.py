"""Values: numbers with the names of what they are about, and the ways to take them elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from lensbase.api import Values


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
