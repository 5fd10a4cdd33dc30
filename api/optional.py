"""Libraries that only some answers need: imported when asked for, and named when missing."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str) -> Any:
    """Import a library; raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name not in (None, name):
            raise
        msg = f"{name} is not installed; `pip install {name}` adds it."
        raise ImportError(msg, name=name) from error
