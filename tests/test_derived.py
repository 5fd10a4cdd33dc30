"""Derived results in SQL and in the catalogue: each shown once, whatever became of its file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fabricated_store import MORE_TEXTS, fabricate

from lensbase.api import open_store
from lensbase.api.maintenance import compact, drop_run
from lensbase.schema.derived import derived_results, read_derived, write_derived
from lensbase.schema.layout import Layout

ALL = "SELECT * FROM head_texts ORDER BY component, pool, rank"
WORDS = "SELECT * FROM head_texts WHERE pool = 'words' ORDER BY component, rank"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fabricate(tmp_path / "s.lens")
    return tmp_path / "s.lens"


def facts(path: Path, **changed: Any) -> dict[str, Any]:
    """The parameters of a whole-run TEXTSPAN of L2.H1 over the pool `words`."""
    with open_store(path) as store:
        (run,) = store.sql("SELECT * FROM run WHERE name = 'world-demo'").rows()
        (pool,) = store.sql("SELECT * FROM pool WHERE name = 'words'").rows()
        content = store.run("world-demo")._run.content
    return {
        "run": "world-demo",
        "run_id": run["run_id"],
        "run_fingerprint": run["fingerprint"],
        "keys_sha256": run["keys_sha256"],
        "content": content,
        "layer": 2,
        "head": 1,
        "pool": "words",
        "pool_sha256": pool["sha256"],
        "whole_run": True,
        "normalize": False,
        "score": "variance",
        "m": 3,
    } | changed


def add(path: Path, m: int = 3, **changed: Any) -> dict[str, Any]:
    """Keep a made-up TEXTSPAN of m texts beside the catalogue."""
    parameters = facts(path, m=m, **changed)
    rows = pa.table(
        {
            "rank": np.arange(1, m + 1),
            "position": np.arange(m),
            "text": MORE_TEXTS[:m],
            "explained_variance": np.full(m, 0.1),
            "cumulative": 0.1 * np.arange(1, m + 1),
        }
    )
    assert write_derived(Layout(path), "head_text", parameters, rows=rows)
    return parameters


def asked(path: Path, query: str) -> list[dict[str, Any]]:
    with open_store(path) as store:
        return store.sql(query).rows()


# In SQL


def test_a_textspan_asked_for_is_there_in_sql(path: Path) -> None:
    with open_store(path) as store:
        clip = store.run()
        assert len(store.sql(WORDS)) == 0
        before = store.sql(ALL).rows()
        span = clip.head("L2.H1").textspan("words", 6)
        found = store.sql(WORDS)
        # Kept results may go further than was asked for.
        assert found["rank"].tolist() == list(range(1, len(found) + 1))
        assert len(found) >= 6
        assert found["text"].tolist()[:6] == span["text"].tolist()
        np.testing.assert_array_equal(found["cumulative"][:6], span["cumulative"])
        assert {row["component"] for row in found} == {"L2.H1"}
        others = [row for row in store.sql(ALL).rows() if row["pool"] != "words"]
        assert others == before


def test_each_result_is_shown_once_and_the_catalogue_wins(path: Path) -> None:
    stored = asked(path, ALL)
    assert {row["pool"] for row in stored} == {"general"}
    first = [row for row in stored if row["component"] == "L2.H1"]
    general = asked(path, "SELECT sha256 FROM pool WHERE name = 'general'")[0]["sha256"]
    add(path, 5, pool="general", pool_sha256=general)
    add(path, 2)
    add(path, 4)
    found = asked(path, ALL)
    words = [row for row in found if row["pool"] == "words"]
    assert [row["rank"] for row in words] == [1, 2, 3, 4]
    own = [row for row in found if row["pool"] == "general" and row["component"] == "L2.H1"]
    assert own[: len(first)] == first
    assert [row["rank"] for row in own] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "changed",
    [
        {"normalize": True},
        {"score": "explained"},
        {"whole_run": False},
        {"pool": None},
        {"pool": "nowhere"},
        {"pool_sha256": "0" * 64},
        {"run": "elsewhere"},
        {"run_id": 9},
        {"run_fingerprint": "other"},
        {"keys_sha256": "other"},
        {"content": "other"},
    ],
)
def test_what_is_no_row_of_the_catalogue_is_not_shown_as_one(
    path: Path, changed: dict[str, Any]
) -> None:
    parameters = add(path, **changed)
    assert asked(path, WORDS) == []
    assert compact(path).taken_in == {}
    gone = read_derived(Layout(path), "head_text", parameters) is None
    # Of a run that no generation has, or not as it was then.
    runs = {"run", "run_id", "run_fingerprint", "keys_sha256", "content"}
    assert gone == bool(runs & set(changed))


def test_every_way_to_name_the_relation_sees_it(path: Path) -> None:
    add(path)
    one = "SELECT count(*) AS n FROM {} WHERE pool = 'words'"
    for name in ("head_texts", "HEAD_TEXTS", '"head_texts"', "main.head_texts", "lens.head_texts"):
        assert asked(path, one.format(name)) == [{"n": 3}], name
    joined = "WITH t AS (FROM head_texts) SELECT count(*) AS n FROM t JOIN heads USING (component)"
    assert asked(path, f"{joined} WHERE pool = 'words'") == [{"n": 3}]
    assert asked(path, "SELECT count(*) AS n FROM head_text h WHERE pool_id = 1") == [{"n": 3}]
    # Full names of tables show what the catalogue has, as docs/store-format.md says.
    assert asked(path, "SELECT count(*) AS n FROM lens.main.head_text WHERE pool_id = 1") == [
        {"n": 0}
    ]
    assert asked(path, "DESCRIBE head_texts")[0]["column_name"] == "run"
    with open_store(path) as store:
        # Views of one query are gone in the next, and what a query fails on is still told.
        assert len(store.sql("SELECT * FROM duckdb_views() WHERE temporary AND NOT internal")) == 0
        assert store.run().images.columns[0] == "run"


def test_derived_results_are_listed(path: Path) -> None:
    parameters = add(path)
    rows = asked(path, "SELECT * FROM derived_results")
    assert [(row["run"], row["relation"]) for row in rows] == [("world-demo", "head_text")]
    assert json.loads(rows[0]["parameters"]) == parameters
    compact(path)
    assert asked(path, "SELECT * FROM derived_results") == rows


def test_damaged_results_are_passed_over(path: Path) -> None:
    add(path)
    folder = path / "derived" / "head_text"
    (folder / "torn.parquet").write_bytes(b"PAR1")
    (folder / "x.parquet.1.partial").write_bytes(b"")
    assert len(asked(path, WORDS)) == 3
    assert compact(path).taken_in["head_text"] == 1
    assert len(asked(path, WORDS)) == 3


def test_a_query_of_something_else_reads_no_files(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(path)
    with open_store(path) as store:
        monkeypatch.setattr(Path, "glob", lambda *_: pytest.fail("the folder was listed"))
        assert len(store.sql("SELECT * FROM images")) > 0
        assert len(store.run().representation(where="label = 'odd'").values) > 0


# Compacting


def test_compacting_moves_results_into_the_catalogue(path: Path) -> None:
    for m in (2, 4):
        add(path, m)
    add(path, 3, head=0)
    kept = add(path, 3, normalize=True)
    with open_store(path) as old:
        shown = old.sql(ALL).rows()
        done = compact(path)
        assert old.sql(ALL).rows() == shown
    assert done.taken_in == {"head_text": 3, "neuron_text": 0, "annotation": 0}
    assert [r.parameters for r in derived_results(Layout(path), "head_text")] == [kept]
    assert asked(path, ALL) == shown
    with open_store(path) as store:
        assert store.generation == done.generation
        # Looked up from now on, without any file.
        span = store.run().head("L2.H1").textspan("words", 4)
        assert span["text"].tolist() == MORE_TEXTS[:4]
    again = compact(path)
    assert (again.generation, again.taken_in, again.dropped) == (done.generation, {}, 0)


def test_results_of_runs_that_are_gone_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    fabricate(path, runs=("world-demo", "two"))
    add(path, normalize=True)
    drop_run(path, "world-demo")
    assert compact(path).dropped == 0  # `rollback` could bring the run back
    drop_run(path, "two")
    assert compact(path).dropped == 1
    assert derived_results(Layout(path), "head_text") == []


_COMPACT = """import sys
from lensbase.api.maintenance import compact
print("ready", flush=True)
compact(sys.argv[1])
"""


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_shown_twice(path: Path) -> None:
    with open_store(path) as store:
        for role in ("color", "shape", None, "count"):
            store.annotate("L2.H1", role=role)
        store.annotate("L1.H0", role="texture")
    add(path, 4)
    with open_store(path) as store:
        shown = (store.sql(ALL).rows(), store.annotations.rows())
    killed = 0
    for step in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", _COMPACT, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.02 + 0.03 * step)
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        with open_store(path) as store:
            assert (store.sql(ALL).rows(), store.annotations.rows()) == shown
    assert killed >= 5, f"only {killed} of 12 were killed before they were done"
    compact(path)
    assert (asked(path, ALL), asked(path, "FROM annotations ORDER BY ALL")) == (
        shown[0],
        sorted(shown[1], key=lambda row: row["component"]),
    )


def test_sql_without_derived_results_costs_one_listing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    glob = Path.glob

    def counted(folder: Path, *arguments: Any, **options: Any) -> Iterator[Path]:
        listed.append(folder)
        return glob(folder, *arguments, **options)

    with open_store(path) as store:
        monkeypatch.setattr(Path, "glob", counted)
        store.sql("SELECT count(*) FROM head_texts")
        assert listed == [path / "derived" / "head_text"]
        store.sql("SELECT count(*) FROM segments")
        assert len(listed) == 1


def test_a_head_that_ended_is_not_computed_again_and_again(path: Path) -> None:
    """Of L2.H1 there are 7 texts: 50 can be asked for, and the 7 are kept once."""
    with open_store(path) as store:
        assert len(store.run().textspan("L2.H1", "words", 50)) == 7
    assert compact(path).taken_in["head_text"] == 1
    with open_store(path) as store:
        found = store.run().textspan("L2.H1", "words", 50)
        assert (len(found), found.note is None) == (7, False)
        assert derived_results(Layout(path), "head_text") == []
        # The 3 of `general` are as many as the ingest asked for: there may be more.
        assert len(store.run().textspan("L2.H1", "general", 50)) == 6
        (more,) = derived_results(Layout(path), "head_text")
    content = more.path.read_bytes()
    done = compact(path)
    more.path.write_bytes(content)  # as if killed before it was removed
    again = compact(path)
    assert (again.generation, again.taken_in) == (done.generation, {})
    assert not more.path.exists()


def test_results_of_a_run_of_the_same_name_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.lens"
    fabricate(path, runs=("world-demo", "two"))
    kept = add(path, normalize=True)
    gone = add(path, run_id=7, normalize=True)
    assert compact(path).dropped == 1
    assert read_derived(Layout(path), "head_text", kept) is not None
    assert read_derived(Layout(path), "head_text", gone) is None


def test_files_of_other_columns_are_cut_or_passed_over(path: Path) -> None:
    def kept(address: str, **columns: Any) -> None:
        rows: dict[str, Any] = {
            "component": [address],
            "role": ["color"],
            "source": ["person"],
            "note": pa.array([None], pa.string()),
            "created_at": pa.array([datetime(2026, 1, 1)], pa.timestamp("us")),
        } | columns
        table = pa.table({name: column for name, column in rows.items() if column is not None})
        parameters = {"run": "world-demo", "components": [address]}
        assert write_derived(Layout(path), "annotation", parameters, rows=table)

    with open_store(path) as store:
        store.annotate("L1.H0", role="shape")
    kept("L1.H1", author=["somebody"])
    kept("L2.H0", created_at=["yesterday"])
    kept("L2.H1", role=None)
    kept("EMBED", component=pa.array([None], pa.string()))
    add(path, 3)
    spans = facts(path, head=0)
    assert write_derived(Layout(path), "head_text", spans, rows=pa.table({"rank": [1]}))
    seen = [("L1.H0", "shape"), ("L1.H1", "color")]
    query = "SELECT component, role FROM annotations ORDER BY component"
    assert [tuple(row.values()) for row in asked(path, query)] == seen
    assert len(asked(path, WORDS)) == 3
    assert compact(path).taken_in == {"head_text": 1, "neuron_text": 0, "annotation": 2}
    assert [tuple(row.values()) for row in asked(path, query)] == seen
    assert len(derived_results(Layout(path), "annotation")) == 3
