"""The SQL console: long queries are stopped or killed, and nobody waits for them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from fastapi.testclient import TestClient
from served import client_of

from lensbase.api.serve.sql_process import MOST, PROCESSES, WAITING, SqlProcesses
from lensbase.schema.errors import BadSQL

if TYPE_CHECKING:
    from fastapi import FastAPI

# Minutes of work; DuckDB stops when it is interrupted.
LONG = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = -1"


@pytest.fixture(scope="module")
def client(world_store: Path) -> Generator[TestClient]:
    with client_of(world_store) as client:
        assert client.get("/api/sql?query=SELECT+1").status_code == 200
        yield client


def test_the_page_answers_and_says_what_is_wrong(client: TestClient) -> None:
    page = client.get("/sql")
    assert page.status_code == 200
    for part in ("head_texts", "name of the run", "Ctrl+Enter", "/static/sql.js"):
        assert part in page.text
    query = "SELECT image_id, key FROM images ORDER BY image_id"
    page = client.get("/sql", params={"query": query})
    assert page.text.count("<tr><td") >= 50
    assert "1 to 50 of 150" in page.text
    assert 'rel="next"' in page.text
    (address,) = re.findall(r'href="([^"]+format=csv)">CSV of 150 rows', page.text)
    assert len(client.get(unescape(address)).text.splitlines()) == 151
    assert f'data-copy="store.sql(&#34;&#34;&#34;{query}&#34;&#34;&#34;)"' in page.text
    wrong = client.get("/sql", params={"query": "SELECT nothing FROM runs"})
    assert wrong.status_code == 422
    assert "nothing" in wrong.text
    assert "BadSQL" in wrong.text


def test_long_cells_are_folded(client: TestClient) -> None:
    query = "SELECT repeat('ab ', 1000) AS t"
    page = client.get("/sql", params={"query": query}).text
    assert '<details class="long">' in page
    assert "(3,000 characters)" in page


def test_every_example_of_the_page_runs(client: TestClient) -> None:
    from lensbase.api.serve.pages.sql import _EXAMPLES

    for _, query in _EXAMPLES:
        answer = client.get("/api/sql", params={"query": query})
        assert answer.status_code == 200, answer.text
        assert answer.json()["columns"]


def test_a_long_query_holds_up_nobody(client: TestClient) -> None:
    answer = client.post("/api/sql", json={"query": LONG, "seconds": 0.5})
    assert answer.status_code == 422
    assert "longer than 0.5 s" in answer.json()["message"]
    processes = cast("SqlProcesses", cast("FastAPI", client.app).state.sql)
    with ThreadPoolExecutor() as pool:
        long = pool.submit(client.post, "/api/sql", json={"query": LONG, "seconds": 30})
        while processes._free.qsize() == PROCESSES:
            time.sleep(0.01)
        busy = set(processes._all) - set(processes._free.queue)
        for path in ("/", "/api/", "/sql", "/api/sql?query=SELECT+count(*)+FROM+images"):
            assert client.get(path).status_code == 200
        assert not long.done()
        for process in busy:
            assert process._process is not None
            process._process.kill()
        assert long.result().status_code == 422


@pytest.mark.parametrize("query", ["FROM test_all_types()", "SELECT DATE 'infinity'"])
def test_what_json_cannot_hold_is_told(client: TestClient, query: str) -> None:
    for path in ("/api/sql", "/sql"):
        answer = client.get(path, params={"query": query})
        assert answer.status_code == 422
        assert "years 1 to 9999" in answer.text


def test_a_process_that_does_not_stop_is_killed(world_store: Path) -> None:
    processes = SqlProcesses(world_store, count=1)
    try:
        assert len(processes.query("SELECT 1")) == 1
        child = processes._all[0]._process
        assert child is not None
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)  # deaf to everything but SIGKILL
        with pytest.raises(BadSQL, match=r"its process was ended"):
            processes.query("SELECT 2", seconds=0.5)
        assert not child.is_alive()
        assert processes.query("SELECT 3 AS n").rows() == [{"n": 3}]
        child = processes._all[0]._process
        assert child is not None
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)  # as the system does where memory is short
        with pytest.raises(BadSQL, match="out of memory"):
            processes.query("SELECT 4")
        assert processes.query("SELECT 5 AS n").rows() == [{"n": 5}]
    finally:
        processes.close()


@pytest.mark.slow
def test_too_many_questions_at_once_are_told_to_come_back(client: TestClient) -> None:
    count = PROCESSES + WAITING + 4
    with ThreadPoolExecutor(count) as pool:
        asked = {"query": LONG, "seconds": 1.5}
        answers = list(pool.map(lambda _: client.post("/api/sql", json=asked), range(count)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {422, 503}, statuses
    busy = next(answer for answer in answers if answer.status_code == 503)
    assert busy.json()["error"] == "ServerBusy"
    assert busy.headers["retry-after"] == "5"
    assert client.get("/api/sql?query=SELECT+1").status_code == 200


def test_no_more_than_some_rows_and_bytes_are_taken(client: TestClient) -> None:
    def ask(query: str) -> dict[str, object]:
        answer = client.post("/api/sql", json={"query": query, "limit": MOST.rows})
        assert answer.status_code == 200, answer.text
        return answer.json()

    exact = ask(f"SELECT * FROM range({MOST.rows})")
    assert (exact["total"], exact["note"]) == (MOST.rows, None)
    more = ask("SELECT * FROM range(3000000000)")
    assert more["total"] == MOST.rows
    assert "first 10,000 rows of more" in str(more["note"])
    wide = ask("SELECT repeat('x', 3000000) AS x FROM range(100)")
    assert wide["total"] == 5
    assert "first 5 rows of more" in str(wide["note"])
    whole = client.post("/api/sql", json={"query": "SELECT repeat('x', 20000000)"})
    assert whole.status_code == 422
    assert "16,777,216 bytes" in whole.json()["message"]
    for query in (
        "EXPLAIN SELECT 1",
        "DESCRIBE runs",
        "SHOW TABLES",
        "SUMMARIZE runs",
        "FROM runs;",
    ):
        assert ask(query)["rows"]


@pytest.mark.slow
def test_a_query_that_takes_all_memory_ends_alone(client: TestClient) -> None:
    query = "SELECT list(repeat('x', 1000) || range) FROM range(100000000)"
    answer = client.post("/api/sql", json={"query": query, "seconds": 20})
    assert answer.status_code == 422, answer.text
    assert client.get("/api/sql?query=SELECT+1").status_code == 200


def test_parameters_fill_a_query(client: TestClient) -> None:
    cases = [
        ("SELECT ? + ? AS n", [1, 2], {"n": 3}),
        ("SELECT $a || $b AS n", {"a": "x", "b": "'; DROP"}, {"n": "x'; DROP"}),
        ("SELECT ? AS n", [None], {"n": None}),
        ("SELECT list_contains(?, 2) AS n", [[1, 2]], {"n": True}),
    ]
    for query, params, row in cases:
        answer = client.post("/api/sql", json={"query": query, "params": params})
        assert answer.json()["rows"] == [row]


def test_queries_follow_new_generations_and_end_with_the_server(
    world_store: Path, tmp_path: Path
) -> None:
    from lensbase.api.maintenance import drop_run

    store = Path(shutil.copytree(world_store, tmp_path / "s.lens", symlinks=True))
    processes = SqlProcesses(store, count=1)
    count = "SELECT count(*) AS n FROM runs"
    assert processes.query(count).rows() == [{"n": 1}]
    drop_run(store, "r")
    assert processes.query(count).rows() == [{"n": 0}]
    child = processes._all[0]._process
    assert child is not None
    processes.close()
    assert not child.is_alive()
