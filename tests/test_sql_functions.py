"""Functions of contributions in SQL: what our own queries say, for whole columns."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest
from fabricated_store import TEXTS, Truth, fabricate

from lensbase.api import Result, Store, open_store, sql_functions
from lensbase.schema.errors import BadSQL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("functions") / "x.lens"
    truth = fabricate(root, runs=("world-a", "world-b"))
    with open_store(root) as store:
        yield store, truth


@pytest.fixture(scope="module")
def store(made: tuple[Store, Truth]) -> Store:
    return made[0]


@pytest.fixture(scope="module")
def truth(made: tuple[Store, Truth]) -> Truth:
    return made[1]


def by_row(found: Result, truth: Truth, name: str) -> np.ndarray:
    """A column in the order of the run's rows, NaN where it is NULL."""
    rows = {image_id: row for row, image_id in enumerate(truth.image_ids.tolist())}
    out = np.full(len(rows), np.nan)
    for row in found.rows():
        out[rows[row["image_id"]]] = np.nan if row[name] is None else row[name]
    return out


def test_head_scores_are_those_of_top_images(store: Store, truth: Truth) -> None:
    """Bit for bit, for one text; rejected images are NULL."""
    found = store.sql(
        "SELECT image_id, head_score(run, image_id, 'L2.H1', 'sand') AS score FROM images "
        "WHERE run = 'world-a'"
    )
    top = store.run("world-a").head("L2.H1").top_images("sand", k=100)
    ours = {row["image_id"]: row["score"] for row in found if row["score"] is not None}
    assert ours == {row["image_id"]: row["score"] for row in top}
    assert np.isnan(by_row(found, truth, "score"))[~truth.ok].all()
    assert found.arrow().schema.field("score").type == "float"


def test_columns_of_heads_and_texts(store: Store, truth: Truth) -> None:
    """4 heads x 7 texts x 70 images in one query: within 1e-5 of the formula."""
    found = store.sql(
        "SELECT i.image_id, h.component, t.position, "
        "head_score(i.run, i.image_id, h.component, t.text) AS score, "
        "similarity(i.run, i.image_id, t.text) AS cosine "
        "FROM images i JOIN heads h USING (run), texts t "
        "WHERE i.run = 'world-b' AND t.pool = 'general'"
    )
    assert len(found) == 4 * 7 * 70
    whole = truth.arrays["representation"]
    whole = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    for position in range(len(TEXTS)):
        # The first of texts that are stored twice.
        text = truth.pools["general"][TEXTS.index(TEXTS[position])]
        for layer, head in ((1, 0), (1, 1), (2, 0), (2, 1)):
            place = (found["component"] == f"L{layer}.H{head}") & (found["position"] == position)
            part = Result(found.arrow().filter(place))
            score = by_row(part, truth, "score")
            np.testing.assert_allclose(
                score[truth.ok], (truth.contribution(layer, head) @ text)[truth.ok], rtol=1e-5,
                atol=1e-5,
            )  # fmt: skip
            cosine = by_row(part, truth, "cosine")
            np.testing.assert_allclose(cosine[truth.ok], (whole @ text)[truth.ok], atol=1e-5)


def test_neuron_norms_are_those_that_are_stored(neuron_store: Path) -> None:
    with open_store(neuron_store) as store:
        found = store.sql(
            "SELECT image_id, neuron_norm(run, image_id, 'L4.N3') AS one, "
            "similarity(run, image_id, text) AS cosine FROM images, texts "
            "WHERE text = 'a red circle' AND pool = 'scenes' ORDER BY image_id"
        )
        clip = store.run()
        np.testing.assert_array_equal(found["one"], clip.neuron("L4.N3").activity().values[:, 0])
        top = clip.top_images("a red circle", k=1, normalize=True)
        assert found["image_id"][np.argmax(found["cosine"])] == top["image_id"][0]
        few = store.sql(
            "SELECT neuron_norm(i.run, i.image_id, n.component) AS norm, e.norm AS own "
            "FROM neuron_peaks e JOIN images i USING (run, image_id) "
            "JOIN neurons n ON n.component = e.component WHERE i.image_id < 20"
        )
        assert len(few) > 500
        np.testing.assert_allclose(few["norm"], few["own"], rtol=1e-3)


def test_null_and_what_is_not_there_give_null(store: Store) -> None:
    known = "(SELECT image_id FROM images WHERE status = 'ok' LIMIT 1)"
    asked = [
        f"head_score(NULL, {known}, 'L2.H1', 'sand')",
        "head_score('world-a', NULL, 'L2.H1', 'sand')",
        f"head_score('world-a', {known}, NULL, 'sand')",
        f"head_score('world-a', {known}, 'L2.H1', NULL)",
        f"similarity('world-a', {known}, NULL)",
        "similarity('world-a', 999999, 'sand')",
        "similarity('world-a', -1, 'sand')",
    ]
    (row,) = store.sql(f"SELECT {', '.join(asked)}, similarity('world-a', {known}, 'sand')").rows()
    assert [value is None for value in row.values()] == [True] * 7 + [False]
    assert (
        store.sql("SELECT similarity(run, image_id, 'sand') FROM images WHERE false").rows() == []
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            "head_score('world-c', image_id, 'L2.H1', 'sand')",
            r"holds no run 'world-c'; the nearest",
        ),
        (
            "head_score(run, image_id, 'L9.H1', 'sand')",
            r"has no head L9\.H1: its layers are 0 to 2",
        ),
        ("head_score(run, image_id, 'L0.H1', 'sand')", r"kept no heads of layer 0.*--heads"),
        ("head_score(run, image_id, 'H1', 'sand')", "H1"),
        (
            "head_score(run, image_id, 'L2.H1', 'a red circel')",
            "nearest stored texts are 'a red ci",
        ),
        ("similarity(run, image_id, 'a new text')", r"stored texts alone.*`lensbase pool add "),
        ("neuron_norm(run, image_id, 'L1.N0')", "kept no neurons.*--neurons"),
        ("head_score(run, image_id)", r"head_score\(run, image_id, head, text\)"),
        ("similarity(run, key, 'sand')", "Could not convert string"),
    ],
)
def test_errors_are_in_our_own_words(store: Store, call: str, words: str) -> None:
    with pytest.raises(BadSQL, match=f"(?s){words}") as error:
        store.sql(f"SELECT {call} FROM images")
    assert "UDF" not in str(error.value)


def test_functions_are_explained_and_not_stored(store: Store) -> None:
    found = store.sql("FROM data_dictionary WHERE relation LIKE '%(run, image_id, %'")
    assert [name.partition("(")[0] for name in found["relation"]] == [
        "head_score", "similarity", "neuron_norm",
    ]  # fmt: skip
    with pytest.raises(BadSQL, match="lensbase_head_score"):
        store.sql("SELECT lensbase_head_score(1)")
    query = (
        "SELECT count(*) FROM duckdb_functions() WHERE function_name LIKE '%head_score%' "
        "AND database_name NOT IN ('system', 'temp')"
    )
    assert store.sql(query).rows() == [{"count_star()": 0}]


def test_stores_of_one_catalogue_have_functions_of_their_own(tmp_path: Path) -> None:
    """DuckDB's belong to a file: closing one store leaves the other's, and none leaks a store."""
    fabricate(tmp_path / "x.lens")
    query = "SELECT avg(similarity(run, image_id, 'sand')) AS x FROM images"
    first, second = open_store(tmp_path / "x.lens"), open_store(tmp_path / "x.lens")
    expected = first.sql(query).rows()
    assert second.sql(query).rows() == expected
    first.close()
    assert second.sql(query).rows() == expected
    gone = weakref.ref(second)
    del second
    gc.collect()
    assert gone() is None
    with open_store(tmp_path / "x.lens") as third:
        assert third.sql(query).rows() == expected
    path = tmp_path / "x.lens" / "current" / "lens.duckdb"
    with duckdb.connect(str(path), read_only=True) as raw, pytest.raises(duckdb.CatalogException):
        raw.execute("SELECT similarity('r', 1, 'sand')")


def test_texts_are_known_when_others_make_room_for_new_ones(
    made: tuple[Store, Truth], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_functions, "_TEXTS", 2)
    with open_store(made[0].path) as store:
        values = ", ".join(f"('{text}')" for text in TEXTS)
        one = f"SELECT similarity('world-a', 0, '{TEXTS[0]}') AS s"
        first = store.sql(one).rows()
        all_of_them = f"SELECT similarity('world-a', 0, t) AS s FROM (VALUES {values}) v(t)"
        assert store.sql(all_of_them).rows()[:1] == first
        assert store.sql(one).rows() == first


def test_threads_ask_at_once(store: Store) -> None:
    wrong: list[object] = []
    query = (
        "SELECT component, avg(head_score(run, image_id, component, text)) AS x "
        "FROM images JOIN heads USING (run), texts, range(2) GROUP BY 1 ORDER BY 1"
    )
    expected = store.sql(query)["x"]

    def ask() -> None:
        try:
            for _ in range(3):
                np.testing.assert_allclose(store.sql(query)["x"], expected, rtol=1e-6)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
