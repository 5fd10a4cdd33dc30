"""`images=` and `where=`: every way to name images, and that SQL stays an expression."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from fabricated_store import FIRST_ID, Truth, fabricate
from hypothesis import given, settings
from hypothesis import strategies as st

from lensbase.api import Store, Values, open_store
from lensbase.api.selection import RunImages, image_names
from lensbase.schema.errors import BadSelection, RejectedRow, UnknownImage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("selection") / "x.lens"
    # The last of three segments is not committed yet.
    truth = fabricate(root, committed=2)
    with open_store(root) as store:
        yield store, truth


@pytest.fixture(scope="module")
def images(made: tuple[Store, Truth]) -> RunImages:
    return made[0].run()._run.images


@pytest.fixture(scope="module")
def truth(made: tuple[Store, Truth]) -> Truth:
    return made[1]


def committed(truth: Truth) -> np.ndarray:
    rows = truth.rows_by_id
    return rows[rows < 64]


def test_none_is_every_readable_committed_image_by_id(images: RunImages, truth: Truth) -> None:
    chosen = images.select()
    np.testing.assert_array_equal(chosen.rows, committed(truth))
    assert np.all(np.diff(chosen.image_ids) > 0)
    assert len(chosen) == 64 - 2


def test_every_way_to_name_images_finds_the_same_rows(
    made: tuple[Store, Truth], images: RunImages, truth: Truth
) -> None:
    rows = committed(truth)[[7, 3, 3, 11]]  # order and repetition are kept
    ids = truth.image_ids[rows]
    keys = [truth.keys[row] for row in rows]
    listed = ", ".join(map(str, ids))
    result = made[0].sql(f"SELECT unnest([{listed}]) AS image_id")
    for named in (
        ids,
        ids.tolist(),
        tuple(ids),
        iter(ids.tolist()),
        ids.astype(np.int16),
        keys,
        np.array(keys),
        [int(ids[0]), keys[1], Path(keys[2]), np.int64(ids[3])],
        result,
        pd.DataFrame({"image_id": ids, "x": 1}),
        pd.Series(ids),
        pl.DataFrame({"image_id": ids}),
        pa.table({"image_id": ids}),
        {"image_id": ids.tolist()},
        Values(np.zeros((4, 2)), image_ids=ids),
    ):
        np.testing.assert_array_equal(images.select(named).rows, rows, err_msg=repr(type(named)))


def test_one_image_by_id_key_path_view_or_row(
    made: tuple[Store, Truth], images: RunImages, truth: Truth
) -> None:
    row = int(committed(truth)[5])
    number, key = int(truth.image_ids[row]), truth.keys[row]
    view = made[0].run().image(number)
    path = Path(made[0].path).parent / "raw" / key
    for named in (number, np.int32(number), key, str(path), path, view, {"image_id": number}):
        assert images.one(named) == (row, number)


def test_tensors_name_images(images: RunImages, truth: Truth) -> None:
    torch = pytest.importorskip("torch")
    rows = committed(truth)[:3]
    np.testing.assert_array_equal(images.select(torch.from_numpy(truth.image_ids[rows])).rows, rows)


@pytest.mark.parametrize(
    "wrong",
    [True, 1.5, [1.5], [None], [True], object(), np.zeros((2, 2), np.int64), {"key": "a"},
     pd.DataFrame({"x": [1]}), np.array([True, False])],
    ids=lambda wrong: type(wrong).__name__ + str(wrong) * (type(wrong) is not object),
)  # fmt: skip
def test_what_names_no_image_is_refused(images: RunImages, wrong: object) -> None:
    with pytest.raises(BadSelection, match="image"):
        images.select(wrong)


@pytest.mark.parametrize("unknown", [FIRST_ID - 1, -1, 2**63, "nope.png", "", "\ud800", "../x"])
def test_unknown_images_are_named(images: RunImages, unknown: int | str) -> None:
    with pytest.raises(UnknownImage):
        images.select([unknown])
    assert issubclass(UnknownImage, KeyError)


def test_rejected_and_pending_images_say_why(images: RunImages, truth: Truth) -> None:
    with pytest.raises(RejectedRow, match="empty: no bytes"):
        images.select([int(truth.image_ids[5])])
    with pytest.raises(UnknownImage, match="not ingested yet"):
        images.select(truth.keys[66])


def test_no_images_are_no_rows(images: RunImages) -> None:
    for none in ([], np.empty(0), {"image_id": []}):
        assert len(images.select(none)) == 0


def test_where_is_sql_over_the_view(images: RunImages, truth: Truth) -> None:
    even = [row for row in committed(truth) if truth.labels[row] == "even"]
    for where in (
        "label = 'even'",
        "images.label = 'even' -- a comment",
        "label = 'even' /* another */",
        ("label = ?", ["even"]),
        ('label = $label AND "row" >= $low', {"label": "even", "low": np.int64(0)}),
        "image_id IN (SELECT image_id FROM images i WHERE i.label = 'even')",
    ):
        np.testing.assert_array_equal(images.select(where=where).rows, even, err_msg=str(where))
    snow = images.select(where=("weather = ?", ["O'Hare snow"])).rows
    np.testing.assert_array_equal(snow, [r for r in committed(truth) if r % 3 == 2])


def test_where_passes_over_rejected_images(images: RunImages) -> None:
    assert len(images.select(where="status = 'rejected'")) == 0
    assert len(images.select(where="true")) == len(images.select())


def test_images_and_where_intersect_in_the_order_of_images(images: RunImages, truth: Truth) -> None:
    rows = committed(truth)[::-1]
    kept = images.select(truth.image_ids[rows], "label = 'odd'").rows
    np.testing.assert_array_equal(kept, [row for row in rows if truth.labels[row] == "odd"])


@pytest.mark.parametrize(
    "where",
    [
        "true) OR (true",
        "true); DROP TABLE image; SELECT (true",
        "true; SELECT 1",
        "1 = 1 THEN 1 END, CASE WHEN true",
        "true) UNION ALL SELECT row FROM run_image WHERE (true",
        "true /*",
        "true) --",
        "'",
        "$$",
        "",
        "SELECT true",
        "label",
        "1",
        "NULL",
        "count(*) > 1",
        "nope = 1",
        "true, false",
        "image_id IN (SELECT 1 FROM read_csv('/etc/passwd'))",
        "label = ?",
        "\ud800",
    ],
)
def test_where_is_one_boolean_expression(images: RunImages, where: str) -> None:
    with pytest.raises(BadSelection, match="where="):
        images.select(where=where)


def test_a_bad_where_quotes_duckdb_and_lists_the_columns(images: RunImages) -> None:
    with pytest.raises(BadSelection, match=r'(?s)"nope" not found.*key, label.*weather'):
        images.select(where="nope = 1")
    for wrong in (5, ("a",), ("a", 1, 2)):
        with pytest.raises(BadSelection, match="where="):
            images.select(where=wrong)  # type: ignore[arg-type]


# What a text might be made of that tries to get out of its parentheses.
PIECES = st.sampled_from(
    [
        *("true", "label", "=", "1", "?", " OR ", "(", ")", "[", "]", ",", ";", "\\", "\n"),
        *("--", "/*", "*/", "'", '"', "$$"),
        *("SELECT", " FROM images", "UNION ALL", "WHERE", "CASE WHEN", "THEN", "END"),
    ]
)


@settings(max_examples=150)
@given(st.lists(PIECES, max_size=9).map(" ".join))
def test_no_text_selects_what_its_negation_selects_too(images: RunImages, text: str) -> None:
    """An expression and its negation share no row; a text that broke out would."""
    try:
        taken = images.select(where=text).rows
        rest = images.select(where=f"NOT (\n{text}\n)").rows
    except BadSelection:
        return
    assert not np.intersect1d(taken, rest).size


@settings(max_examples=100)
@given(data=st.data())
def test_any_choice_of_ids_comes_back_in_its_order(
    images: RunImages, truth: Truth, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.sampled_from(committed(truth).tolist()), max_size=20))
    chosen = images.select(truth.image_ids[np.array(rows, np.int64)])
    assert chosen.rows.tolist() == rows
    below = data.draw(st.integers(0, 70))
    kept = images.select(chosen.image_ids, ('"row" < ?', [below])).rows
    assert kept.tolist() == [row for row in rows if row < below]


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.text()))
def test_names_are_kept_as_they_are(names: list[int | str]) -> None:
    assert list(image_names(names)) == names
