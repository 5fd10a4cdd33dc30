"""What a server refuses: other sites, other hosts, other files, and whoever has no token."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served import client_of

from lensbase.api.serve.guards import MOST_BODY, MOST_URL
from lensbase.api.serve.hosts import is_loopback_authority

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def client(world_store: Path) -> Generator[TestClient]:
    with client_of(world_store) as client:
        yield client


@pytest.fixture(scope="module")
def locked(world_store: Path) -> Generator[TestClient]:
    with client_of(world_store, token=TOKEN) as client:
        yield client


def refused(answer: Any, status: int, name: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["error"] == name
    assert len(answer.json()["message"]) > 20


def test_every_answer_forbids_a_browser_what_pages_do_not_need(client: TestClient) -> None:
    for path, status in {"/": 200, "/api/": 200, "/nope": 404, "/api/%FF": 400}.items():
        answer = client.get(path)
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; img-src 'self' data:; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fschema/errors.py",
        "/static//etc/passwd",
        "/api/runs/..%2f..%2fCURRENT",
        "/api/runs/%2e%2e/images/0",
        "/runs/../../CURRENT",
        "/api/runs/r/images/..%2f..%2f..%2fetc%2fpasswd",
        "/api/runs/r/images/..%2F..%2Fthumbnail.webp",
    ],
)
def test_no_path_leads_out_of_the_store(client: TestClient, path: str) -> None:
    # httpx takes dots away as browsers do; raw paths are what an attacker sends.
    request = client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = client.send(request)
    assert answer.status_code in (400, 404, 422)
    assert "root:" not in answer.text
    assert "import annotations" not in answer.text


@pytest.mark.parametrize("path", ["/%", "/%zz", "/runs/%C3%28", "/runs/a%00b", "/sql?query=%FF"])
def test_a_malformed_address_is_refused(client: TestClient, path: str) -> None:
    for prefix in ("", "/api"):
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=(prefix + path).encode())
        answer = client.send(request)
        assert answer.status_code == 400
        assert "UTF-8" in answer.text


def test_sizes_are_limited(client: TestClient) -> None:
    refused(client.get("/api/sql?query=" + "x" * MOST_URL), 414, "AddressTooLong")
    refused(client.get("/api/sql?query=" + "x" * 7000), 422, "BadQuestion")
    body = b'{"query": "' + b"x" * MOST_BODY + b'"}'
    refused(client.post("/api/sql", content=body), 413, "BodyTooLarge")
    chunks = (body[at : at + 1000] for at in range(0, len(body), 1000))  # no Content-Length
    refused(client.post("/api/sql", content=chunks), 413, "BodyTooLarge")
    for length in ("99999999", "9" * 5000, "-1", "\u00b2"):
        header = {b"Content-Length": length.encode("latin-1")}
        refused(client.get("/api/", headers=header), 413, "BodyTooLarge")
    refused(client.post("/api/sql", json={"query": "x" * 50_001}), 422, "BadQuestion")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "ODD"])
def test_nothing_can_be_written(client: TestClient, method: str) -> None:
    answer = client.request(method, "/api/")
    refused(answer, 405, "MethodNotAllowed")
    assert answer.headers["allow"] == "GET, HEAD"
    if method != "POST":
        answer = client.request(method, "/api/sql")
        refused(answer, 405, "MethodNotAllowed")
        assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:80", "", "@"])
def test_another_name_for_this_machine_is_refused(client: TestClient, host: str) -> None:
    refused(client.get("/api/", headers={"Host": host}), 403, "UnknownHost")


def test_this_machine_has_several_names() -> None:
    good = ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:8000", "[::1]")
    bad = (
        "::1",
        "localhost.evil",
        "127.0.0.1@evil",
        "[::1",
        "localhost:",
        "[::2]",
        "127.1.evil:80",
    )
    assert all(map(is_loopback_authority, good))
    assert not any(map(is_loopback_authority, bad))


def test_other_sites_may_only_link(client: TestClient) -> None:
    link = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for site in ("cross-site", "same-site"):
        assert client.get("/", headers={"Sec-Fetch-Site": site, **link}).status_code == 200
        frame = {"Sec-Fetch-Site": site, **link, "Sec-Fetch-Dest": "iframe"}
        assert client.get("/", headers=frame).status_code == 403
        for mode in ("cors", "no-cors", "navigate"):
            fetch = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": "document"}
            refused(client.get("/api/", headers=fetch), 403, "CrossSite")
            sent = client.post("/api/sql", headers=fetch, json={"query": "SELECT 1"})
            refused(sent, 403, "CrossSite")
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9", "http://127.0.0.1.evil"):
        answer = client.post("/api/sql", headers={"Origin": origin}, json={"query": "SELECT 1"})
        refused(answer, 403, "CrossSite")
    same = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/", headers=same).status_code == 200
    assert client.get("/api/", headers={"Origin": "http://127.0.0.1"}).status_code == 200


def test_a_form_of_another_site_is_no_question(client: TestClient) -> None:
    # Browsers before Sec-Fetch send forms as text/plain without asking: that is no JSON.
    plain = {"Content-Type": "text/plain"}
    answer = client.post("/api/sql", headers=plain, content=b'{"query": "SELECT 1"}')
    refused(answer, 422, "BadQuestion")


def test_a_token_is_needed_where_there_is_one(locked: TestClient) -> None:
    for path in ("/api/", "/api/openapi.json", "/api/sql?query=SELECT+1", "/api/nope"):
        answer = locked.get(path)
        refused(answer, 401, "TokenNeeded")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    page = locked.get("/")
    assert page.status_code == 401
    assert 'name="token"' in page.text
    assert locked.get("/static/lensbase.css").status_code == 200
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "Bearer \xff", TOKEN):
        header = {b"Authorization": wrong.encode("latin-1")}
        refused(locked.get("/api/", headers=header), 401, "TokenNeeded")
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert locked.get("/api/", headers=right).status_code == 200
    assert "Authorization" in locked.get("/api/", headers=right).headers["vary"]


def test_a_browser_gets_a_cookie_for_the_token(world_store: Path) -> None:
    with client_of(world_store, token=TOKEN) as browser:
        assert browser.get(f"/?token={TOKEN[:-1]}").status_code == 401
        assert browser.get(f"/api/?token={TOKEN}").status_code == 401
        request = browser.build_request("GET", "/")
        path = f"//evil.example/?a=1&token={TOKEN}&b=x+y".encode()
        request.url = request.url.copy_with(raw_path=path)
        answer = browser.send(request)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/evil.example/?a=1&b=x+y"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert browser.get("/api/").status_code == 200
        browser.cookies.set(next(iter(browser.cookies)), "0" * 64)
    with client_of(world_store, token=TOKEN) as other:
        assert other.get("/api/", headers={"Cookie": 'lensbase-80="\\'}).status_code == 401


WRITES = [
    "CREATE TABLE t (a INT)",
    "INSERT INTO run SELECT * FROM run",
    "DROP VIEW runs",
    "ATTACH 'other.duckdb'",
    "COPY runs TO 'out.csv'",
    "EXPORT DATABASE 'out'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "PRAGMA database_list",
    "CHECKPOINT",
    "SELECT 1; DROP VIEW runs",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_parquet('https://example.com/x.parquet')",
    "EXPLAIN ANALYZE COPY runs TO 'out.csv'",
]


@pytest.mark.parametrize("query", WRITES)
def test_sql_reaches_nothing_but_the_store(client: TestClient, query: str) -> None:
    refused(client.post("/api/sql", json={"query": query}), 422, "BadSQL")
    refused(client.get("/api/sql", params={"query": query}), 422, "BadSQL")
    page = client.get("/sql", params={"query": query})
    assert page.status_code == 422
    assert "BadSQL" in page.text
    assert "root:" not in page.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"query": 5}',
        b'{"query": "\\ud800"}',
        b'{"query": "SELECT ?", "params": ["\\ud800"]}',
        b'{"query": "SELECT 1", "seconds": NaN}',
        b'{"query": "SELECT 1", "seconds": 1e999}',
        b'{"query": "SELECT 1", "limit": 0}',
        b'{"query": "SELECT 1", "limit": 1000000}',
        b'{"query": "SELECT 1", "offset": -1}',
        b'{"query": "SELECT 1", "unknown": 1}',
        b'{"query": "SELECT ?"}',
        b'{"query": "SELECT ?", "params": [1, 2]}',
        b'{"query": "SELECT $a", "params": {"b": 1}}',
        b'{"query": "SELECT \\u0000"}',
        b"[" * 60_000,
    ],
)
def test_malformed_questions_are_refused(client: TestClient, body: bytes) -> None:
    header = {"Content-Type": "application/json"}
    answer = client.post("/api/sql", content=body, headers=header)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "name", ["'", '"', "%22", "r'--", "<script>", "😀", "%E2%80%AE", "a" * 3000]
)
def test_odd_names_are_not_there(client: TestClient, name: str) -> None:
    for path in (f"/runs/{name}", f"/api/runs/{name}", f"/api/runs/r/heads/{name}"):
        answer = client.get(path)
        assert answer.status_code in (404, 422), (path, answer.text)
        assert path.startswith("/api/") or "<script>" not in answer.text


def test_what_is_asked_is_escaped(client: TestClient) -> None:
    query = (
        "SELECT '<img src=x onerror=alert(1)>' AS \"<b>\" --</textarea><script>alert(1)</script>"
    )
    page = client.get("/sql", params={"query": query})
    assert page.status_code == 200
    for bad in ("<img src=x", "<b>", "</textarea><script>", "<script>alert"):
        assert bad not in page.text
