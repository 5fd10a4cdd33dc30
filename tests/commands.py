"""Running lensbase's command line in tests: in this process, and as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from lensbase.api.cli.app import app

# A shell's background jobs ignore Ctrl-C, and what they start inherits that.
_START = """import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
{before}
from lensbase.api.cli import main
main()
"""
_BLOCK = """for name in ("torch", "torchvision", "open_clip", "safetensors", "timm"):
    sys.modules[name] = None"""
PROGRAM = [sys.executable, "-c", _START.format(before="")]
WITHOUT_TORCH = [sys.executable, "-c", _START.format(before=_BLOCK)]


def invoke(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, list(map(str, arguments)), prog_name="lensbase")


def start(
    *arguments: object, program: list[str] = PROGRAM, **options: Any
) -> subprocess.Popen[str]:
    """Start a command as a process of its own."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "100"}
    return subprocess.Popen(
        [*program, *map(str, arguments)], text=True, env=environment, **(pipes | options)
    )


def call(
    *arguments: object, program: list[str] = PROGRAM, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own and wait for it."""
    process = start(*arguments, program=program, cwd=cwd)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
