"""`lensbase serve`: where it listens, what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from commands import PROGRAM, call, invoke, start
from served import served

BLOCKED = "import sys; sys.modules['uvicorn'] = None\n"


def test_a_server_answers_and_ends_quietly(world_store: Path) -> None:
    with served(world_store) as (address, process):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        with urllib.request.urlopen(f"{address}/api/sql?query=SELECT+run+FROM+runs") as answer:
            assert b'"r"' in answer.read()
            assert "server" not in answer.headers
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2  # queries run there
        # As a terminal does it: everybody of the group hears it.
        for child in children:
            child.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out == ""
        assert err == "Stopped.\n"
        assert not psutil.wait_procs(children, timeout=5)[1]


@pytest.mark.slow
def test_processes_of_queries_end_with_a_server_that_is_killed(world_store: Path) -> None:
    with served(world_store) as (address, process):
        with urllib.request.urlopen(f"{address}/api/sql?query=SELECT+1"):
            pass
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_port_that_is_taken_is_one_line(world_store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = invoke("serve", world_store, "--port", port)
    assert answer.exit_code == 2
    assert re.fullmatch(
        rf"Error: cannot listen on port {port} of 127\.0\.0\.1 \(.*\); --port takes another.*\n",
        answer.stderr,
    )
    assert answer.stdout == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_others_are_served_only_with_a_token(world_store: Path, host: str) -> None:
    answer = invoke("serve", world_store, "--host", host, "--port", 0)
    assert answer.exit_code == 2
    assert answer.stderr.startswith(f"Error: others can reach {host}, so a token is needed")
    assert answer.stderr.count("\n") == 1
    short = invoke("serve", world_store, "--host", host, "--token", "short")
    assert short.exit_code == 2
    assert "16 or more" in short.stderr


def test_a_token_comes_from_the_environment(
    world_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "a-token-of-twenty-letters"
    monkeypatch.setenv("LENSBASE_TOKEN", token)
    with served(world_store) as (address, process):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/api/")
        asked = urllib.request.Request(
            f"{address}/api/", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(asked) as answer:
            assert answer.status == 200
        assert token not in " ".join(psutil.Process(process.pid).cmdline())


def test_what_cannot_be_served_is_one_line(world_store: Path, tmp_path: Path) -> None:
    answer = invoke("serve", tmp_path / "nothing.lens")
    assert answer.exit_code == 2
    assert answer.stderr.startswith("Error: ")
    assert answer.stderr.count("\n") == 1
    without = [sys.executable, "-c", BLOCKED + PROGRAM[2]]
    answer = call("serve", world_store, program=without)
    assert answer.returncode == 2
    assert answer.stderr == (
        "Error: serving needs uvicorn, which is not installed; "
        '`pip install "lensbase[serve]"` installs it.\n'
    )


@pytest.mark.slow
def test_a_terminated_server_leaves_nothing(world_store: Path) -> None:
    process = start("serve", world_store, "--port", 0)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Serving ")
    time.sleep(2)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert not psutil.wait_procs(children, timeout=10)[1]
