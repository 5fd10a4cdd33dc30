"""SQL reaches nothing but the store, and takes no more time and memory than it may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from fabricated_store import fabricate

from lensbase.api import Store, console, open_store
from lensbase.schema.errors import BadSQL
from lensbase.schema.snapshot import READ_ONLY_CONFIG


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("escapes")
    fabricate(folder / "x.lens")
    outside = folder / "outside"
    outside.mkdir()
    (outside / "x.csv").write_text("a,b\n1,2\n")
    (outside / "x.json").write_text('{"a": 1}\n')
    with duckdb.connect() as writer:
        writer.execute(f"COPY (SELECT 1 AS a) TO '{outside / 'x.parquet'}'")
        writer.execute(f"ATTACH '{outside / 'x.duckdb'}' AS x")
        writer.execute("CREATE TABLE x.t AS SELECT 1 AS a")
    with open_store(folder / "x.lens") as opened:
        yield opened


# {out} is a folder of files outside the store, {own} the path of its catalogue.
READING = """
FROM '{out}/x.csv'
FROM '{out}/x.parquet'
FROM '{out}/x.json'
FROM '{out}/x.duckdb'
FROM '{out}/*.csv'
FROM '/proc/self/environ'
FROM read_csv('{out}/x.csv')
FROM read_csv_auto('{out}/x.csv')
FROM sniff_csv('{out}/x.csv')
FROM read_parquet('{out}/x.parquet')
FROM parquet_scan('{out}/x.parquet')
FROM parquet_metadata('{out}/x.parquet')
FROM parquet_schema('{out}/x.parquet')
FROM parquet_file_metadata('{out}/x.parquet')
FROM parquet_kv_metadata('{out}/x.parquet')
FROM parquet_bloom_probe('{out}/x.parquet', 'a', 1)
FROM read_json('{out}/x.json')
FROM read_json_auto('{out}/x.json')
FROM read_json_objects('{out}/x.json')
FROM read_ndjson('{out}/x.json')
FROM read_ndjson_objects('{out}/x.json')
FROM read_text('{out}/x.csv')
FROM read_blob('{out}/x.csv')
FROM read_text('/etc/passwd')
FROM read_blob('{own}.tmp/../../../CURRENT')
FROM read_duckdb('{out}/x.duckdb', table_name='t')
FROM glob('{out}/*')
FROM glob('{own}.tmp/../*')
FROM query('FROM read_text(''{out}/x.csv'')')
FROM query_table('{out}/x.csv')
FROM query_table(['{out}/x.csv'])
FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{out}/x.csv'')'))
WITH x AS (FROM read_text('{out}/x.csv')) FROM x
SELECT (SELECT content FROM read_text('{out}/x.csv'))
EXPLAIN ANALYZE FROM read_text('{out}/x.csv')
DESCRIBE FROM '{out}/x.parquet'
SUMMARIZE '{out}/x.csv'
FROM duckdb_extensions()
SELECT getenv('HOME')
FROM sqlite_scan('{out}/x.db', 't')
FROM read_xlsx('{out}/x.xlsx')
FROM st_read('{out}/x')
FROM secret_frame
"""
NETWORK = """
FROM 'http://127.0.0.1:9/x.parquet'
FROM 'https://127.0.0.1:9/x.csv'
FROM 's3://bucket/x.parquet'
FROM 'hf://datasets/x/y.csv'
FROM read_text('http://127.0.0.1:9/')
FROM postgres_query('host=127.0.0.1', 'SELECT 1')
ATTACH 'http://127.0.0.1:9/x.db' AS y
INSTALL httpfs
FORCE INSTALL httpfs
INSTALL httpfs FROM community
LOAD httpfs
LOAD '{out}/x.duckdb_extension'
UPDATE EXTENSIONS
CREATE SECRET s (TYPE s3)
CREATE PERSISTENT SECRET s (TYPE s3)
DROP SECRET s
"""
WRITING = """
COPY image TO '{out}/new.csv'
COPY (SELECT 1) TO '{out}/new.parquet' (FORMAT parquet)
COPY (SELECT 1) TO '{own}.wal'
COPY image FROM '{out}/x.csv'
COPY FROM DATABASE lens TO memory
EXPLAIN COPY (SELECT 1) TO '{own}.wal' (FORMAT csv)
EXPLAIN ANALYZE COPY (SELECT 1) TO '{own}.wal' (FORMAT csv)
EXPLAIN ANALYZE COPY (SELECT 1) TO '{own}' (FORMAT csv, USE_TMP_FILE false)
EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{own}.wal' (FORMAT csv)
EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{own}.wal' (FORMAT csv)
EXPLAIN/**/ANALYZE/**/COPY (SELECT 1) TO '{own}.wal' (FORMAT csv)
EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1
EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1
EXPLAIN ANALYZE DELETE FROM image
EXPLAIN ANALYZE SET threads = 1
EXPLAIN ANALYZE ATTACH '{out}/new.db'
EXPORT DATABASE '{out}/new'
IMPORT DATABASE '{out}/new'
ATTACH '{out}/new.db' AS y
ATTACH ':memory:' AS y
DETACH lens
USE memory
DROP TABLE image
INSERT INTO image (image_id) VALUES (1)
WITH gone AS (DELETE FROM image RETURNING *) SELECT * FROM gone
UPDATE image SET label = 'x'
DELETE FROM image
TRUNCATE image
MERGE INTO image USING image i ON true WHEN MATCHED THEN DELETE
ALTER TABLE image ADD COLUMN x INT
COMMENT ON TABLE image IS 'x'
CREATE TABLE t AS SELECT 1
CREATE TEMP TABLE t AS SELECT 1
CREATE OR REPLACE TEMP VIEW images AS SELECT 1
CREATE MACRO f() AS 1
CREATE SCHEMA x
CREATE SEQUENCE x
CREATE TYPE x AS INT
VACUUM
ANALYZE
CHECKPOINT
FORCE CHECKPOINT
FROM force_checkpoint()
"""
SETTINGS = """
SET threads = 1
SET GLOBAL memory_limit = '100GB'
SET SESSION search_path = 'x'
SET VARIABLE x = 1
SET enable_external_access = true
RESET memory_limit
PRAGMA threads = 1
PRAGMA enable_external_access = true
PRAGMA database_list
PRAGMA enable_profiling = 'json'
PRAGMA profiling_output = '{out}/new.json'
CALL pragma_version()
CALL enable_logging()
CALL enable_logging(storage='file', storage_config={{'path': '{out}'}})
FROM enable_logging(storage='file', storage_config={{'path': '{out}'}})
FROM enable_profiling()
FROM enable_profiling(save_location='{out}/new.json')
FROM disable_profiling()
PREPARE x AS SELECT 1
EXECUTE x
BEGIN
COMMIT
"""
HIDDEN = """-- x
/* x */ EXPLAIN -- x\r ANALYZE COPY (FROM image WHERE 'a' = '
SELECT 1 --') TO '{own}.wal'"""
NO_QUERY = [HIDDEN, "SELECT 1; SELECT 2", "SELECT nope FROM images", "SELEC 1", "", "-- nothing",
            "EXPLAIN", "EXPLAIN SELEC", "SELECT ?", "SELECT '\ud800'"]  # fmt: skip
REFUSED = [
    *(line for group in (READING, NETWORK, WRITING, SETTINGS) for line in group.split("\n")[1:-1]),
    *NO_QUERY,
]


@pytest.mark.parametrize("query", REFUSED, ids=repr)
def test_sql_only_reads_the_store(store: Store, query: str) -> None:
    """Of more than 130 ways out, none; nothing appears outside, nor beside the catalogue."""
    import pandas as pd

    secret_frame = pd.DataFrame({"x": [1]})
    outside, own = store.path.parent / "outside", (store.path / "current").resolve()
    before = [sorted(folder.iterdir()) for folder in (outside, own)]
    content = (own / "lens.duckdb").read_bytes()
    with pytest.raises(BadSQL):
        store.sql(query.replace("{out}", str(outside)).replace("{own}", str(own / "lens.duckdb")))
    assert [sorted(folder.iterdir()) for folder in (outside, own)] == before
    assert (own / "lens.duckdb").read_bytes() == content
    assert len(secret_frame) == 1
    assert len(store.sql("FROM images")) == 70


def test_secrets_of_the_user_are_out_of_reach(store: Store) -> None:
    assert not READ_ONLY_CONFIG["allow_persistent_secrets"]
    assert store.sql("FROM duckdb_secrets()").rows() == []


@pytest.mark.parametrize(
    "query",
    [
        "FROM pools",
        "DESCRIBE images",
        "SHOW TABLES",
        "SUMMARIZE images",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "explain (analyze, format json) SELECT 1",
        "-- why\nEXPLAIN /* so */ (SELECT 1) -- ?",
        "EXPLAIN FROM images",
        "PIVOT images ON label IN ('even', 'odd') USING count(*)",
    ],
)
def test_what_only_reads_is_answered(store: Store, query: str) -> None:
    assert len(store.sql(query)) > 0


def test_refusals_say_what_can_be_asked(store: Store) -> None:
    with pytest.raises(BadSQL, match="not DROP statements: write SELECT"):
        store.sql("DROP TABLE image")
    with pytest.raises(BadSQL, match="EXPLAIN takes a query"):
        store.sql("EXPLAIN ANALYZE COPY image TO 'x'")
    with pytest.raises(BadSQL, match=r"PIVOT \.\.\. ON label IN"):
        store.sql("PIVOT images ON label USING count(*)")
    with pytest.raises(BadSQL, match=r'(?s)Binder Error: .*"nope"'):
        store.sql("SELECT nope FROM images")
    with pytest.raises(BadSQL, match="python value of type"):
        store.sql("SELECT ?", [object()])


@pytest.mark.parametrize("comments", ["-" * 300 + "\n", "/**/" * 300, "--\n" * 300])
def test_comments_are_read_in_one_way(store: Store, comments: str) -> None:
    """Otherwise an EXPLAIN that is not seen as one takes until the end of time."""
    assert len(store.sql(f"{comments}EXPLAIN SELECT 1")) == 1
    with pytest.raises(BadSQL, match="write EXPLAIN SELECT"):
        store.sql(f"{comments}\u200bEXPLAIN SELECT 1")


def test_a_long_query_is_stopped(store: Store) -> None:
    endless = (
        "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = b.range"
    )
    start = time.perf_counter()
    with pytest.raises(BadSQL, match=r"took longer than 0\.2 s"):
        store.sql(endless, seconds=0.2)
    assert time.perf_counter() - start < 30


def test_a_large_query_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64 MiB: what has to be held at once, and an answer that is itself too large."""
    fabricate(tmp_path / "x.lens")
    monkeypatch.setitem(READ_ONLY_CONFIG, "memory_limit", "64MiB")
    monkeypatch.setattr(console, "QUERY_MEMORY", 64 << 20)
    with open_store(tmp_path / "x.lens") as store:
        with pytest.raises(BadSQL, match=r"needs more than the 64\.0 MiB .* ask for fewer rows"):
            store.sql("SELECT max(len(l)) FROM (SELECT list(range) l FROM range(50000000))")
        with pytest.raises(BadSQL, match=r"larger than the 64\.0 MiB .*lens\.duckdb without"):
            store.sql("FROM range(100000000)")
        assert len(store.sql("FROM images")) == 70
        assert store.sql("SELECT current_setting('max_temp_directory_size') AS x")["x"] == [
            "0 bytes"
        ]
    assert not list((tmp_path / "x.lens" / "current").glob("*.tmp"))
