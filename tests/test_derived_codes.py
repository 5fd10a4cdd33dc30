"""Sparse codes that readers made: in SQL beside the ingest's own, and taken into the catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from lensbase.api import open_store
from lensbase.api.maintenance import compact, drop_run, rollback
from lensbase.api.pools import add_pool
from lensbase.ingest.neuron_summary import find_neuron_texts
from lensbase.schema.catalog import current_generation, drafting
from lensbase.schema.derived import derived_results, write_derived
from lensbase.schema.layout import Layout
from lensbase.schema.tables import Pool, Run

ALL = "SELECT * FROM neuron_texts ORDER BY layer, neuron, pool, m, centered, rank"
CODES = (
    "SELECT text, coefficient FROM neuron_texts WHERE component = ? AND pool = ? AND m = ? "
    "AND centered = ? ORDER BY rank"
)
KINDS = "SELECT DISTINCT layer, pool, m, centered FROM neuron_texts ORDER BY ALL"


@pytest.fixture(scope="module")
def stored(neuron_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a second pool, of which nothing is known yet."""
    path = tmp_path_factory.mktemp("codes") / "s.lens"
    copytree(neuron_store, path, symlinks=True)
    for beside in derived_results(Layout(path), "neuron_text"):
        beside.path.unlink()
    (path.parent / "own.txt").write_text("a red circle\na blue square\na shape on sand\n")
    add_pool(path, path.parent / "own.txt", name="own")
    return path


@pytest.fixture
def path(stored: Path, tmp_path: Path) -> Path:
    copytree(stored, tmp_path / "s.lens", symlinks=True)
    return tmp_path / "s.lens"


def asked(path: Path, query: str, *given: Any) -> list[dict[str, Any]]:
    with open_store(path) as store:
        return store.sql(query, list(given)).rows()


def kinds(path: Path) -> list[tuple[Any, ...]]:
    """Layer, pool, m and centered of all codes but those of the ingest."""
    found = [tuple(row.values()) for row in asked(path, KINDS)]
    return [one for one in found if one[1:] != ("scenes", 16, False)]


def test_codes_asked_for_are_there_in_sql(path: Path) -> None:
    assert kinds(path) == []
    with open_store(path) as store:
        clip = store.run()
        before = store.sql(ALL).rows()
        options: list[dict[str, Any]] = [
            {"center": True},
            {"m": 20},
            {"pool": "own", "m": 2},
        ]
        for one in options:
            clip.image(0).concepts([2, 3], **one)
            # The pool "own" has 3 texts.
            m = 3 if "pool" in one else max(one.get("m", 16), 16)
            found = store.sql(CODES, ["L3.N9", one.get("pool", "scenes"), m, "center" in one])
            texts = clip.neuron("L3.N9").texts(**(one | {"m": max(one.get("m", 16), 16)}))
            assert found["text"].tolist() == texts["text"].tolist()
            np.testing.assert_array_equal(found["coefficient"], texts["coefficient"])
        # Codes of the texts given are no rows: they have no pool.
        clip.image(0).concepts(2, ["a red circle", "a blue square"])
        own = [row for row in store.sql(ALL) if (row["pool"], row["m"]) == ("scenes", 16)]
        assert [row for row in own if not row["centered"]] == before
    assert kinds(path) == [
        (layer, *kind)
        for layer in (2, 3)
        for kind in (("own", 3, False), ("scenes", 16, True), ("scenes", 20, False))
    ]


def test_no_view_states_more_texts_than_a_code_can_have(path: Path) -> None:
    """Of 3 texts 3, of them centered 2, and 64 in a joint space of 64 dimensions."""
    with open_store(path) as store:
        clip = store.run()
        clip.image(0).concepts(2, "own", m=50)
        clip.image(0).concepts(2, "own", center=True)
        clip.image(0).concepts(2, m=200)
    real = [(2, "own", 2, True), (2, "own", 3, False), (2, "scenes", 64, False)]
    assert kinds(path) == real
    compact(path)
    assert kinds(path) == real
    with open_store(path) as store:
        longest = "SELECT m, max(rank) AS last FROM neuron_texts GROUP BY ALL HAVING last > m"
        assert store.sql(longest).rows() == []
        assert len(store.run().neuron("L2.N9").texts("own", m=50)) == 3


def test_compacting_moves_codes_into_the_catalogue(path: Path) -> None:
    with open_store(path) as store:
        clip = store.run()
        clip.image(0).concepts([2, 3], center=True)
        clip.image(0).concepts(2, m=20)
        clip.image(0).concepts(2, ["a red circle", "a blue square"])
        texts = {m: clip.neuron("L2.N9").texts(m=m, center=m < 20).rows() for m in (5, 16, 20)}
        concepts = clip.image(4).concepts(2, center=True).rows()
        shown, neurons = store.sql(ALL).rows(), clip.neurons.rows()
        similar = clip.find_neurons("a red circle").rows()
    done = compact(path)
    assert done.taken_in == {"head_text": 0, "neuron_text": 3, "annotation": 0}
    (left,) = derived_results(Layout(path), "neuron_text")
    assert left.parameters["pool"] is None
    assert asked(path, ALL) == shown
    listed = asked(path, "SELECT parameters FROM derived_results WHERE relation = 'neuron_text'")
    assert sorted(json.loads(row["parameters"])["m"] for row in listed) == [16, 16, 16, 20]
    with open_store(path) as store:
        clip = store.run()
        # Looked up from now on, without any file.
        for m, rows in texts.items():
            assert clip.neuron("L2.N9").texts(m=m, center=m < 20).rows() == rows
        assert clip.image(4).concepts(2, center=True).rows() == concepts
        assert clip.neurons.rows() == neurons
        assert clip.find_neurons("a red circle").rows() == similar
        assert len(derived_results(Layout(path), "neuron_text")) == 1
    again = compact(path)
    assert (again.generation, again.taken_in, again.dropped) == (done.generation, {}, 0)


def test_a_file_that_was_taken_in_already_is_removed_and_shown_once(path: Path) -> None:
    with open_store(path) as store:
        store.run().image(0).concepts(2, center=True)
        shown = store.sql(ALL).rows()
    (kept,) = derived_results(Layout(path), "neuron_text")
    content = kept.path.read_bytes()
    done = compact(path)
    kept.path.write_bytes(content)  # as if killed before it was removed
    assert asked(path, ALL) == shown
    again = compact(path)
    assert (again.generation, again.taken_in) == (done.generation, {})
    assert not kept.path.exists()
    rollback(path)
    assert kinds(path) == []


CHANGED: dict[str, Any] = {
    "run": "elsewhere",
    "run_id": 9,
    "run_fingerprint": "other",
    "keys_sha256": "other",
    "content": "other",
    "pool": None,
    "pool_sha256": "0" * 64,
    "m": "16",
    "layer": None,
    "center": 1,
    "version": None,
}


def keep(path: Path, change: Callable[[dict[str, Any], pa.Table], tuple[Any, pa.Table]]) -> None:
    """Keep a layer's codes as a reader made them, changed."""
    with open_store(path) as store:
        store.run().image(0).concepts(2, center=True)
    (made,) = derived_results(Layout(path), "neuron_text")
    assert made.rows is not None
    parameters, rows = change(dict(made.parameters), made.rows)
    made.path.unlink()
    assert write_derived(Layout(path), "neuron_text", parameters, rows=rows)


def test_what_is_no_row_of_the_catalogue_is_not_shown_as_one(path: Path) -> None:
    def each(given: dict[str, Any], rows: pa.Table) -> tuple[dict[str, Any], pa.Table]:
        for name, value in CHANGED.items():
            assert write_derived(Layout(path), "neuron_text", given | {name: value}, rows=rows)
        return given | {"run": "another"}, rows

    keep(path, each)
    assert len(derived_results(Layout(path), "neuron_text")) == len(CHANGED) + 1
    assert kinds(path) == []
    assert compact(path).taken_in == {}


def test_files_of_other_columns_are_cut_or_passed_over(path: Path) -> None:
    keep(path, lambda given, rows: (given, rows.drop_columns(["coefficient"])))
    assert kinds(path) == []
    for beside in derived_results(Layout(path), "neuron_text"):
        beside.path.unlink()
    keep(path, lambda given, rows: (given, rows.append_column("more", rows.column("rank"))))
    assert kinds(path) == [(2, "scenes", 16, True)]


def test_codes_of_another_version_are_neither_shown_nor_taken_in(path: Path) -> None:
    def twice(given: dict[str, Any], rows: pa.Table) -> tuple[dict[str, Any], pa.Table]:
        doubled = pa.array(2 * rows.column("coefficient").to_numpy())
        place = rows.column_names.index("coefficient")
        later = rows.set_column(place, "coefficient", doubled)
        assert write_derived(Layout(path), "neuron_text", given | {"version": 99}, rows=later)
        return given, rows

    with open_store(path) as store:
        texts = store.run().neuron("L2.N9").texts(center=True)
    keep(path, twice)
    for _ in ("beside the catalogue", "in it"):
        found = asked(path, CODES, "L2.N9", "scenes", 16, True)
        assert [row["text"] for row in found] == texts["text"].tolist()
        np.testing.assert_allclose([row["coefficient"] for row in found], texts["coefficient"])
        compact(path)
    (left,) = derived_results(Layout(path), "neuron_text")
    assert left.parameters["version"] == 99


def test_codes_of_another_version_in_the_catalogue_are_made_anew(path: Path) -> None:
    """By readers, who show and take in their own, and by what completes a run."""
    with open_store(path) as store:
        texts = store.run().neuron("L2.N9").texts().rows()
        shown, neurons = store.sql(ALL).rows(), store.sql("FROM neurons ORDER BY ALL").rows()
    layout = Layout(path)
    catalog = layout.catalog(current_generation(layout))
    catalog.chmod(0o644)
    with duckdb.connect(str(catalog)) as connection:
        connection.execute("UPDATE neuron_text SET version = 0, coefficient = -coefficient")
    with open_store(path) as store:
        clip = store.run()
        assert list(store.sql(ALL)) == []
        assert all(row["texts"] is None for row in store.sql("FROM neurons"))
        assert clip.neuron("L2.N9").texts().rows() == texts
        assert "texts" not in clip.find_neurons("a red circle").columns
        clip.image(0).concepts(2)
    assert compact(path).taken_in["neuron_text"] == 1
    of_layer = [row for row in shown if row["layer"] == 2]
    assert asked(path, ALL) == of_layer
    with drafting(layout) as draft:
        (run,) = draft.session.query(Run)
        (pool,) = draft.session.query(Pool).filter_by(name="scenes")
        draft.connection.execute("DELETE FROM neuron_text WHERE version = 1")
        find_neuron_texts(draft, layout, run, pool=pool)
    assert asked(path, ALL) == shown
    assert asked(path, "FROM neurons ORDER BY ALL") == neurons


def test_codes_go_with_their_run(path: Path) -> None:
    with open_store(path) as store:
        store.run().image(0).concepts(2, center=True)
    compact(path)
    drop_run(path, "r")
    assert asked(path, "SELECT count(*) AS n FROM neuron_text") == [{"n": 0}]
    left = asked(path, "SELECT * FROM derived WHERE relation = 'neuron_text'")
    assert left == []
