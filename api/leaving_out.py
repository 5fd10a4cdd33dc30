"""What a copy of a store may leave out: which files, which settings of a run, which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..schema.arrays import RunShape
from ..schema.catalog import Draft
from ..schema.errors import BadQuestion
from ..schema.manifest import FileEntry
from ..schema.runs import NEURON_TABLES
from ..schema.tables import Run

LEAVABLE = ("token", "head_token", "thumbnail", "neuron", "neuron_input")


def check_leavable(without: Sequence[str]) -> None:
    """Raise `BadQuestion` for what no copy can leave out."""
    unknown = sorted(set(without) - set(LEAVABLE))
    if unknown:
        msg = f"a copy cannot leave out {', '.join(unknown)}; only {', '.join(LEAVABLE)}."
        raise BadQuestion(msg)


def is_left_out(entry: FileEntry, without: Sequence[str]) -> bool:
    """Whether a file of a run belongs to what is left out."""
    parts = Path(entry.path).parts
    if parts[0] == "thumbnails":
        return "thumbnail" in without
    if parts[0] == "segments":
        return "neuron" in without and entry.path.endswith(".peaks.parquet")
    array = parts[2] if parts[0] == "runs" and len(parts) > 2 else ""
    return (
        ("token" in without and array == "token")
        or ("head_token" in without and array.startswith("head_token"))
        or ("neuron" in without and (array.startswith("neuron_") or array == "by_neuron"))
        or ("neuron_input" in without and array == "neuron_input")
    )


def shape_without(shape: RunShape, without: Sequence[str]) -> RunShape:
    """The shape of a run's arrays once that is left out."""
    if "token" in without:
        shape = replace(shape, tokens=False)
    if "head_token" in without:
        shape = replace(shape, head_token_layers=())
    if "neuron" in without:
        shape = replace(shape, neuron_layers=(), neurons=0)
    if {"neuron", "neuron_input"} & set(without):
        shape = replace(shape, neuron_input=False)
    return shape


def forget(draft: Draft, run: Run, without: Sequence[str]) -> None:
    """Say in the catalogue what a copy of a run lacks."""
    if "token" in without:
        run.tokens = False
    if "head_token" in without:
        run.head_token_layers = "[]"
    if "thumbnail" in without:
        run.thumbnails = False
    if {"neuron", "neuron_input"} & set(without):
        run.neuron_input = False
    if "neuron" in without:
        run.neuron_layers = run.neuron_passes = "[]"
        run.neurons = run.reference = 0
        run.by_neuron, run.neuron_peak_complete = None, False
        draft.session.flush()
        for table in NEURON_TABLES:
            draft.connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run.run_id])
            draft.connection.execute(
                """DELETE FROM derived
                   WHERE relation = ? AND json_extract_string(parameters, '$.run') = ?""",
                [table, run.name],
            )
    draft.session.flush()
