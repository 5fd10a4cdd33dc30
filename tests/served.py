"""A store behind HTTP in tests: in this process, and as `lensbase serve` really runs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import start
from fastapi.testclient import TestClient

from lensbase.api.serve.app import create_app

HOST = "http://127.0.0.1"


@contextmanager
def client_of(store: Path, **options: Any) -> Generator[TestClient]:
    """Ask a store's application in this process, as from a browser on this machine."""
    app = create_app(store, loopback=True, **options)
    with TestClient(app, base_url=HOST, follow_redirects=False) as client:
        yield client


@contextmanager
def served(store: Path, *options: object) -> Generator[tuple[str, subprocess.Popen[str]]]:
    """The address and process of a `lensbase serve`, which is interrupted in the end."""
    process = start("serve", store, "--port", 0, *options)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"at (http://\S+)/ ", line)
        assert found, line + process.communicate()[1]
        yield found[1], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
