"""The front door: opening, SQL that reaches nothing else, runs, embeddings, texts, batches."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fabricated_store import MORE_TEXTS, SHAPE, TEXTS, Truth, fabricate, lean, webp_of

from lensbase.api import Store, Values, open_store
from lensbase.schema.catalog import publishing
from lensbase.schema.errors import (
    AmbiguousRun,
    BadQuestion,
    HeadNotStored,
    NeuronsNotStored,
    NotAStore,
    StoreNotFound,
    TextNotStored,
    TokensNotStored,
    UnknownPool,
    UnknownRun,
)
from lensbase.schema.layout import Layout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("store") / "x.lens"
    truth = fabricate(root)
    with open_store(root) as store:
        yield store, truth


@pytest.fixture(scope="module")
def store(made: tuple[Store, Truth]) -> Store:
    return made[0]


@pytest.fixture(scope="module")
def truth(made: tuple[Store, Truth]) -> Truth:
    return made[1]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    """Two runs without tokens, thumbnails and pools."""
    root = tmp_path_factory.mktemp("several") / "x.lens"
    options = {"pools": False, "thumbnails": False, "shape": lean()}
    truth = fabricate(root, runs=("world-a", "world-b"), **options)  # type: ignore[arg-type]
    with open_store(str(root)) as store:
        yield store, truth


# Opening


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="lensbase ingest"):
        open_store(tmp_path / "none.lens")
    with pytest.raises(NotAStore):
        open_store(tmp_path)


def test_opening_takes_under_half_a_second_and_no_heavy_library(store: Store) -> None:
    # Of the processor's time, interpreter included: what a free core would take.
    code = (
        "import sys, time; from lensbase.api import open_store; "
        f"store = open_store({str(store.path)!r}); print(time.process_time()); "
        "store.run(); print(*{name.split('.')[0] for name in sys.modules})"
    )
    seconds: list[float] = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        spent, modules = done.stdout.splitlines()
        seconds.append(float(spent))
        heavy = {"torch", "pandas", "polars", "matplotlib", "zarr", "pyarrow", "sqlalchemy"}
        assert not heavy & set(modules.split())
    assert min(seconds) < 0.5, f"best of three: {min(seconds):.3f} s"


def test_an_open_store_stays_as_it_was(tmp_path: Path) -> None:
    fabricate(tmp_path / "x.lens", runs=("world-a",))
    with open_store(tmp_path / "x.lens") as before:
        with publishing(Layout(tmp_path / "x.lens")) as draft:
            draft.connection.execute("UPDATE image SET label = 'new'")
        with open_store(tmp_path / "x.lens") as after:
            assert after.generation == before.generation + 1
            assert set(before.run().images["label"]) == {"even", "odd"}
            assert set(after.run().images["label"]) == {"new"}


def test_cards_and_views(store: Store) -> None:
    card = store.info()
    assert card.facts["runs"] == "world-demo"
    assert card.facts["images"] == "70"
    assert "70, 2 of them rejected" in str(store.run())
    assert "<th>images</th>" in store._repr_html_()
    assert "generation 2, 1 run" in repr(store)
    assert store.models["layers"].tolist() == [3]
    assert store.runs["rejected"].tolist() == [2]
    assert store.pools["texts"].tolist() == [len(TEXTS), len(MORE_TEXTS)]
    clip = store.run()
    assert clip.heads["component"].tolist() == ["L1.H0", "L1.H1", "L2.H0", "L2.H1"]
    assert len(clip.heads[0]["texts"]) == 3
    assert len(clip.images) == 70
    assert clip.layers.columns[:2] == ["run", "component"]


# SQL


def test_sql_answers_with_parameters(store: Store) -> None:
    query = 'SELECT label, count(*) AS n, sum("row") AS s FROM images WHERE label = {} GROUP BY 1'
    for where, params in (("?", ["even"]), ("$label", {"label": "even"})):
        assert store.sql(query.format(where), params).rows() == [
            {"label": "even", "n": 35, "s": 2 * sum(range(35))}
        ]


def test_columns_of_one_name_are_told_apart(store: Store) -> None:
    """As where two views are joined; the names that are there already are left alone."""
    found = store.sql("SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a")
    assert found.rows() == [{"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}]
    assert "a_3" in str(found)
    joined = store.sql("FROM runs JOIN heads ON heads.run = runs.run LIMIT 1")
    assert {"run", "run_1"} <= set(joined.columns)


@pytest.mark.parametrize(
    "query",
    [
        "FROM test_all_types()",
        "SELECT DATE 'infinity'",
        "SELECT [TIMESTAMP '290000-01-01'] AS days",
    ],
)
def test_dates_that_python_has_none_for_are_told(store: Store, query: str, tmp_path: Path) -> None:
    found = store.sql(query)
    assert found.arrow().num_rows
    for take in (found.rows, found.__str__, lambda: list(found), lambda: found[0]):
        with pytest.raises(BadQuestion, match="years 1 to 9999"):
            take()
    if found.columns == ["days"]:
        with pytest.raises(BadQuestion, match="CAST them to VARCHAR"):
            found.save(tmp_path / "x.csv")


def test_threads_share_a_store(store: Store, truth: Truth) -> None:
    wrong: list[object] = []
    expected = truth.contribution(2, 1)[truth.rows_by_id]

    def ask(number: int) -> None:
        try:
            for _ in range(5):
                rows = store.sql("SELECT $n AS n FROM images", {"n": number})
                assert set(rows["n"]) == {number}
                found = store.run().head("L2.H1").contribution()
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_of_sql_know_their_pictures(
    store: Store, truth: Truth, several: tuple[Store, Truth]
) -> None:
    result = store.sql('SELECT image_id FROM images ORDER BY "row" LIMIT 6')
    assert result.pictures(6) == [webp_of(row) if truth.ok[row] else None for row in range(6)]
    assert "data:image/webp" in result._repr_html_()
    assert store.sql("SELECT 1 AS x").pictures(1) is None
    assert several[0].sql("SELECT image_id FROM images").pictures(3) is None
    named = several[0].sql("SELECT run, image_id FROM images WHERE run = 'world-b'")
    assert named.pictures(2) == [None, None]  # its run keeps no thumbnails


# Runs


def test_runs_are_found_by_name(store: Store, several: tuple[Store, Truth]) -> None:
    assert store.run() is store.run("world-demo")
    with pytest.raises(UnknownRun, match="nearest is world-demo"):
        store.run("world-dem")
    with pytest.raises(AmbiguousRun, match=r"world-a, world-b.*--run world-a"):
        several[0].run()
    assert several[0].run("world-b").name == "world-b"


def test_a_store_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    from lensbase.schema.catalog import create_store

    create_store(tmp_path / "x.lens")
    with open_store(tmp_path / "x.lens") as empty:
        assert empty.info().facts["runs"] == "none"
        with pytest.raises(UnknownRun, match="lensbase ingest"):
            empty.run()


def test_representations_and_layers_are_what_is_stored(store: Store, truth: Truth) -> None:
    clip, rows = store.run(), truth.rows_by_id
    found = clip.representation()
    np.testing.assert_array_equal(found, truth.arrays["representation"][rows])
    np.testing.assert_array_equal(found.image_ids, truth.image_ids[rows])
    layers = clip.layer_effects(where="label = 'odd'")
    assert layers.components == ["EMBED", "L0.ATTN", "L0.MLP", "L1.ATTN", "L1.MLP", "L2.ATTN",
                                 "L2.MLP"]  # fmt: skip
    odd = rows[rows % 2 == 1]
    np.testing.assert_array_equal(layers, truth.arrays["layer"][odd])
    gap = np.linalg.norm(layers.values.sum(1) - clip.representation(layers), axis=1)
    worst = (gap / truth.arrays["scale"][odd, 2]).max()
    assert worst < 2e-3, f"terms add up to {worst:.1e}"


# Texts


def test_stored_texts_need_no_model(store: Store, truth: Truth) -> None:
    texts = ["word 3", "water", TEXTS[4], "word 3"]
    found = store.run().encode_text(texts)
    general, words = truth.pools["general"], truth.pools["words"]
    np.testing.assert_array_equal(found, np.stack([words[3], general[3], general[4], words[3]]))
    assert found.texts == texts
    assert len(store.run().encode_text("water")) == 1
    assert store.run().encode_text([]).shape == (0, SHAPE.embed_dim)


def test_a_new_text_without_a_model_names_the_nearest(store: Store) -> None:
    with pytest.raises(TextNotStored, match=r"'a red circle'.*lensbase pool add .*x\.lens FILE"):
        store.run().encode_text(["water", "a red circel"])
    with pytest.raises(TextNotStored):
        store.run().encode_text(["\ud800"])


def test_a_store_without_pools_says_so(several: tuple[Store, Truth]) -> None:
    clip = several[0].run("world-a")
    with pytest.raises(TextNotStored, match="No text is stored yet"):
        clip.encode_text("sand")
    with pytest.raises(UnknownPool, match="has no text pool; `lensbase pool add"):
        clip.head("L2.H1").textspan()


# Batches


def gathered(batches: Iterator[Values], size: int) -> tuple[np.ndarray, np.ndarray]:
    parts = list(batches)
    assert all(len(part) == size for part in parts[:-1])
    ids = np.concatenate([np.asarray(part.image_ids) for part in parts])
    return np.concatenate([part.values for part in parts]), ids


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_batches_are_all_images_in_pieces(store: Store, truth: Truth, size: int) -> None:
    clip, rows = store.run(), truth.rows_by_id
    for kind in ("representation", "layer", "token"):
        found, ids = gathered(clip.batches(kind, size=size), size)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, truth.arrays[kind][rows])
        np.testing.assert_array_equal(ids, truth.image_ids[rows])
    found, _ = gathered(clip.batches("head", heads=["L2.H1", "L1.H0"], size=size), size)
    expected = np.stack([truth.contribution(2, 1), truth.contribution(1, 0)], 1)[rows]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_batches_check_before_they_begin(store: Store, several: tuple[Store, Truth]) -> None:
    clip, bare = store.run(), several[0].run("world-a")
    assert next(clip.batches()).components == ["L1.H0", "L1.H1", "L2.H0", "L2.H1"]
    assert next(clip.batches("token")).components == [f"T{place}" for place in range(6)]
    with pytest.raises(TokensNotStored, match="--tokens"):
        bare.batches("token")
    with pytest.raises(HeadNotStored):
        clip.batches("head", heads=["L0.H0"])
    with pytest.raises(NeuronsNotStored, match="--neurons"):
        clip.batches("neuron_norm")
    with pytest.raises(BadQuestion, match="goes with batches of 'head'"):
        clip.batches("neuron_coefficient", heads=["L2.H1"])
    with pytest.raises(BadQuestion):
        clip.batches("heads")  # type: ignore[arg-type]
    with pytest.raises(BadQuestion):
        clip.batches("layer", heads=["L2.H1"])
    with pytest.raises(BadQuestion):
        clip.batches(size=0)
