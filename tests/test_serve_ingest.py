"""A server goes on answering while a real ingest writes into its store."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from commands import start
from served import served

PATHS = ("/", "/api/", "/sql", "/runs/r", "/runs/r/heads/L3.H1", "/runs/r/images")
COUNT = "/api/sql?query=SELECT+run,committed,status+FROM+runs+ORDER+BY+run"


@pytest.mark.slow
def test_a_server_follows_an_ingest_without_a_single_failure(
    world_store: Path, scenes: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copytree(world_store, tmp_path / "s.lens", symlinks=True))
    statuses: list[tuple[str, int]] = []
    seen: list[list[dict[str, object]]] = []
    done = threading.Event()

    def get(address: str, path: str) -> bytes:
        try:
            with urllib.request.urlopen(address + path, timeout=30) as answer:
                statuses.append((path, answer.status))
                return answer.read()
        except urllib.error.HTTPError as error:
            statuses.append((path, error.code))
            return error.read()

    def ask(address: str) -> None:
        while not done.is_set():
            for path in PATHS:
                get(address, path)
            rows = json.loads(get(address, COUNT))["rows"]
            if not seen or seen[-1] != rows:
                seen.append(rows)

    with served(store) as (address, server):
        asking = threading.Thread(target=ask, args=(address,))
        asking.start()
        try:
            options = ("--model", "world", "--run", "second", "--heads", "all", "--workers", 0)
            small = ("--batch-size", 25, "--segment-rows", 64, "--threads", 1)
            manifest = scenes / "manifest.csv"
            job = start("ingest", store, manifest, *options, *small)
            _, told = job.communicate(timeout=200)
            assert job.returncode == 0, told
            end = time.monotonic() + 20
            while seen[-1][-1].get("status") != "complete" and time.monotonic() < end:
                time.sleep(0.1)
        finally:
            done.set()
            asking.join()
        assert get(address, "/runs/second")
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=20)
    assert len(statuses) > 30
    assert [one for one in statuses if one[1] != 200] == []
    assert seen[0] == [{"run": "r", "committed": 150, "status": "complete"}]
    assert seen[-1][1] == {"run": "second", "committed": 150, "status": "complete"}
    # What was seen between is always a whole state of the ingest: segments of 64.
    assert {row["committed"] for rows in seen for row in rows} <= {None, 64, 128, 150}
    assert err == "Stopped.\n"
