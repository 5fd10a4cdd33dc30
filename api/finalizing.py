"""Completing a run whose segments were ingested in parts; no model is needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from ..schema.layout import Layout
from ..schema.stages import Progress, stage
from .store import open_store

_LOG = logging.getLogger(__name__)


def finalize_run(
    store: str | os.PathLike[str],
    run: str | None = None,
    *,
    notice: Callable[[str], None] | None = None,
    progress: Progress = None,
) -> str:
    """Complete a run, by default the only one, and publish it; return its name.

    Summaries, effects and TEXTSPAN are computed once every segment is committed; a run that is
    complete stays as it is. `notice` is told what is waited for; `progress=False` shows no bar.
    Raises `RunIncomplete` where segments are missing, `UnknownRun` or `AmbiguousRun`.
    """
    with open_store(store) as opened:
        name = opened.run(run).name
        ((number,),) = (
            row.values() for row in opened.sql("SELECT run_id FROM run WHERE name = ?", [name])
        )
    from ..ingest.finalize import finalize

    what = f"completing run {name}"
    with stage(_LOG, what, unit="neuron", progress=progress, notice=notice) as work:
        finalize(Layout(Path(store)), number, notice=work.say)
    return name
