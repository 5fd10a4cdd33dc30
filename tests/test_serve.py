"""What answers over HTTP look like: ETags, compression, HEAD, CSV, paging, and their document."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from fastapi.testclient import TestClient
from served import client_of

from lensbase.api import open_store
from lensbase.schema.errors import TextNotStored
from lensbase.schema.stages import stage

if TYPE_CHECKING:
    from fastapi import FastAPI


@pytest.fixture(scope="module")
def client(world_store: Path) -> Generator[TestClient]:
    with client_of(world_store) as client:
        yield client


def test_an_answer_is_sent_again_only_when_it_has_changed(client: TestClient) -> None:
    for path in ("/", "/sql", "/api/", "/api/runs", "/static/lensbase.css"):
        first = client.get(path)
        assert first.status_code == 200
        assert first.headers["cache-control"] == "private, no-cache"
        etag = first.headers["etag"]
        for known in (etag, f'"other", {etag}', "*"):
            again = client.get(path, headers={"If-None-Match": known})
            assert again.status_code == 304
            assert not again.content
            assert again.headers["etag"] == etag
            assert "content-security-policy" in again.headers
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert "etag" not in client.get("/api/nope").headers
    assert client.get("/api/nope").headers["cache-control"] == "no-store"


def test_head_is_get_without_the_body(client: TestClient) -> None:
    for path in ("/", "/api/", "/static/lensbase.css", "/api/nope", "/api/sql?query=SELECT+1"):
        got, head = client.get(path), client.head(path)
        assert head.status_code == got.status_code
        assert not head.content
        assert dict(head.headers) == dict(got.headers)


def test_long_texts_go_compressed_to_whoever_takes_them(client: TestClient) -> None:
    plain = client.get("/api/openapi.json", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept-Encoding"
    with client.stream("GET", "/api/openapi.json", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["etag"] == plain.headers["etag"]
    assert len(raw) < len(plain.content) / 4
    assert gzip.decompress(raw) == plain.content
    for refused in ("gzip;q=0", "br", ""):
        answer = client.get("/api/openapi.json", headers={"Accept-Encoding": refused})
        assert "content-encoding" not in answer.headers
    short = client.get("/api/sql?query=SELECT+1", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in short.headers


def test_rows_come_in_pages_with_the_way_to_the_others(client: TestClient) -> None:
    query = "SELECT image_id, key FROM images ORDER BY image_id"
    pages = [client.get("/api/sql", params={"query": query, "limit": 40}).json()]
    while pages[-1]["next"] is not None:
        pages.append(client.get(pages[-1]["next"]).json())
    assert [page["offset"] for page in pages] == [0, 40, 80, 120]
    assert {page["total"] for page in pages} == {150}
    ids = [row["image_id"] for page in pages for row in page["rows"]]
    assert ids == sorted(set(ids))
    assert len(ids) == 150
    assert pages[0]["prev"] is None
    for page, back in zip(pages[1:], pages[:-1], strict=True):
        assert client.get(page["prev"]).json() == back
    past = client.get("/api/sql", params={"query": query, "limit": 40, "offset": 1000}).json()
    assert past["rows"] == []
    assert past["next"] is None
    assert client.get(past["prev"]).json()["offset"] == 110


def test_rows_are_csv_too(client: TestClient) -> None:
    query = (
        "SELECT 'a,\"b\"' AS text, [1, 2] AS list, NULL AS none, 0.5 AS number, TRUE AS yes, 'é'"
    )
    answer = client.get("/api/sql", params={"query": query, "format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="sql.csv"'
    names, row = csv.reader(io.StringIO(answer.text))
    assert names == ["text", "list", "none", "number", "yes", "'é'"]
    assert row == ['a,"b"', "[1, 2]", "", "0.5", "true", "é"]
    posted = client.post("/api/sql?format=csv", json={"query": "SELECT 7 AS n"})
    assert posted.text == "n\r\n7\r\n"
    twice = client.get("/api/sql?query=SELECT+1+AS+a,+2+AS+a&format=csv")
    assert twice.text == "a,a_1\r\n1,2\r\n"
    assert client.get("/api/runs?format=csv").text.startswith("run,model,")
    assert client.get("/api/runs?format=xls").status_code == 422


def test_the_document_says_what_is_answered(client: TestClient) -> None:
    document = client.get("/api/openapi.json").json()
    listed = client.get("/api").json()
    assert listed["openapi"] == "/api/openapi.json"
    assert {one["path"] for one in listed["addresses"]} == set(document["paths"])
    names: list[str] = []
    for path, asked in document["paths"].items():
        assert path == "/api" or path.startswith("/api/")
        for operation in asked.values():
            assert operation["summary"]
            assert operation["description"].rstrip().endswith((".", "`")), path
            assert operation["tags"]
            names.append(operation["operationId"])
            for status in ("401", "403", "404", "413", "414", "422", "503"):
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}
    assert len(names) == len(set(names))
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "securitySchemes" not in document["components"]


def test_a_pool_that_is_not_there_is_told(client: TestClient) -> None:
    assert client.get("/api/texts?pool=few").json()["total"] == 4
    answer = client.get("/api/texts?pool=many")
    assert answer.status_code == 404
    assert answer.json()["error"] == "UnknownPool"


def test_the_document_of_a_locked_server_says_so(world_store: Path) -> None:
    header = {"Authorization": "Bearer a-token-of-twenty-letters"}
    with client_of(world_store, token="a-token-of-twenty-letters") as client:
        document = client.get("/api/openapi.json", headers=header).json()
        assert client.get("/api/runs", headers=header).status_code == 200
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name]["scheme"] == "bearer"
    operations = [one for asked in document["paths"].values() for one in asked.values()]
    assert all(one["security"] == [{name: []}] for one in operations)


def test_work_for_a_request_shows_no_bar_to_whoever_serves(
    world_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def work() -> str:
        with stage(logging.getLogger(__name__), "work", unit="step") as found:
            found.tell(1, 2)
        return "done"

    monkeypatch.setattr("sys.stderr", shown := Terminal())
    work()
    assert "1 of 2 steps" in shown.getvalue()
    with client_of(world_store) as client:
        cast("FastAPI", client.app).get("/api/work")(work)
        monkeypatch.setattr("sys.stderr", shown := Terminal())
        assert client.get("/api/work").json() == "done"
        assert shown.getvalue() == ""


def test_a_new_generation_is_there_at_the_next_request(world_store: Path, tmp_path: Path) -> None:
    from lensbase.api.pools import add_pool

    store = Path(shutil.copytree(world_store, tmp_path / "s.lens", symlinks=True))
    with client_of(store) as client:
        asked = {"query": "SELECT pool FROM pools ORDER BY pool"}
        before = client.get("/api").json()["generation"]
        page = client.get("/")
        assert [one["pool"] for one in client.get("/api/sql", params=asked).json()["rows"]] == [
            "few"
        ]
        add_pool(store, name="noise", random=5)
        assert client.get("/api").json()["generation"] == before + 1
        rows = client.get("/api/sql", params=asked).json()["rows"]
        assert [one["pool"] for one in rows] == ["few", "noise"]
        again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
        assert again.status_code == 200


def test_texts_may_be_those_that_are_stored_alone(world_store: Path) -> None:
    from lensbase.api.store import Store
    from lensbase.schema.snapshot import open_snapshot

    with Store(open_snapshot(world_store), load_models=False) as store:
        run = store.run()
        assert len(run.encode_text("a red circle"))
        with pytest.raises(TextNotStored, match="from what is stored alone"):
            run.encode_text("a text that nobody stored")
    with open_store(world_store) as store:
        run = store.run()
        assert len(run.encode_text("a thing over the water in this picture"))
        taught = "was never taught 'zebra', so it cannot embed 'A zebra, 7 stars'"
        with pytest.raises(TextNotStored, match=taught):
            run.encode_text(["a red circle", "A zebra, 7 stars"])
        with pytest.raises(TextNotStored, match="never taught 'zebra'"):
            run.classifier(["circle", "zebra"], templates="a bad drawing of a {}")
