"""Columns made from buffers are those that pyarrow makes, and pandas stays where it is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from lensbase.api.columns import arrow_column, text_column

TEXTS = st.lists(st.none() | st.text())


@given(TEXTS)
def test_texts(values: list[str | None]) -> None:
    made = text_column(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string()))


@given(
    npst.arrays(st.sampled_from([np.int32, np.int64, np.float32, np.float64]), st.integers(0, 9))
)
def test_numbers(values: np.ndarray) -> None:
    made = arrow_column(values)
    assert made.type == pa.from_numpy_dtype(values.dtype)
    assert np.array_equal(made.to_numpy(), values, equal_nan=True)
    if len(values):
        before = made.to_numpy().copy()
        values[0] = 0 if values[0] else 1
        assert np.array_equal(made.to_numpy(), before, equal_nan=True)


def test_anything_else_as_pyarrow_takes_it() -> None:
    for values in ([True, None], [1, 2], [], ["a", 1.5][:1], np.array(["a", "b"]), [[1], None]):
        assert arrow_column(values).equals(pa.array(values))


def test_pandas_is_not_imported() -> None:
    code = (
        "import sys, numpy as np; from lensbase.api.result import Result;"
        "Result.of({'a': np.arange(3), 'b': ['x', None, 'y']}).rows();"
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_lists_of_texts_are_made_as_pyarrow_makes_them() -> None:
    """Also where some are empty; 3 lists of 3 texts."""
    lists = [["a", "b"], [], ["ü"]]
    made = arrow_column(lists)
    assert made.type == pa.list_(pa.string())
    assert made.to_pylist() == lists
    made.validate(full=True)


def test_lists_of_whole_numbers_are_made_as_pyarrow_makes_them() -> None:
    """64 bits wide, as pyarrow has them."""
    made = arrow_column([3, -1, 2**40])
    assert made.equals(pa.array([3, -1, 2**40]))
