"""What stands still while a generation is served, made once for it; and a run's inner side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ..open_run import OpenRun
from ..run import RunView

Made = TypeVar("Made")

_MADE: WeakKeyDictionary[RunView, dict[str, Any]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def inside(run: RunView) -> OpenRun:
    """What a run's view looks at: shape, arrays, pictures."""
    return run._run  # pyright: ignore[reportPrivateUsage]


def made_once(run: RunView, name: str, make: Callable[[], Made]) -> Made:
    """What `make` gives, kept as long as this generation's run is; two may make it at once."""
    with _LOCK:
        made = _MADE.setdefault(run, {})
    if name not in made:
        made[name] = make()
    return made[name]
