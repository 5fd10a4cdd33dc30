"""Undoing: a run dropped, segments taken back; always as a new generation."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from sqlalchemy import delete

from .catalog import Draft, check_format, publishing
from .durable import sync_directory
from .errors import UnknownRun
from .layout import Layout
from .locks import lock_segments
from .manifest import forget_passes
from .role_files import write_back
from .snapshot import open_snapshot
from .tables import Dataset, HeadRow, HeadText, Layer, Model, PoolModel, Run, Segment
from .views import MANIFEST

_DERIVED = (Layer, HeadRow, HeadText)
NEURON_TABLES = ("neuron", "neuron_peak", "neuron_top", "neuron_text")


def drop_run(layout: Layout, name: str, *, keep_roles: bool = True) -> None:
    """Publish a generation without a run, and without images that no other run uses.

    Its files stay until no kept generation refers to them, so that `rollback` can undo this; so
    do its components' roles, which the same ingest again finds there. Raises `UnknownRun`,
    `AnnotationNotKept`, and `RunBusy` while a process writes it.
    """
    check_format(layout)
    with _locked(layout, name), publishing(layout) as draft:
        run = find_run(draft, name)
        if keep_roles:
            write_back(layout, draft.connection, name)
        for table in (*_DERIVED, Segment):
            draft.session.execute(delete(table).where(table.run_id == run.run_id))
        dataset_id, model_id = run.dataset_id, run.model_id
        draft.session.delete(run)
        draft.session.flush()
        for fact in ("run_image", "head_effect", "annotation", *NEURON_TABLES):
            draft.connection.execute(f"DELETE FROM {fact} WHERE run_id = ?", [run.run_id])
        _forget_derived(draft, name)
        if not draft.session.query(Run).filter_by(dataset_id=dataset_id).count():
            _drop_dataset(draft, dataset_id)
        if not draft.session.query(Run).filter_by(model_id=model_id).count():
            draft.session.execute(delete(PoolModel).where(PoolModel.model_id == model_id))
            draft.session.execute(delete(Model).where(Model.model_id == model_id))


@contextmanager
def _locked(layout: Layout, name: str) -> Generator[None]:
    """Own every segment of a run until the generation without it is published."""
    snapshot = open_snapshot(layout.root)
    try:
        found = snapshot.rows("SELECT folder, segments FROM run WHERE name = ?", [name])
    finally:
        snapshot.connection.close()
    if not found:
        yield
        return
    # One byte more than segments: who fits the run's neurons, or completes it.
    with lock_segments(layout.run_lock(found[0]["folder"]), name, range(found[0]["segments"] + 1)):
        yield


def uncommit_segments(layout: Layout, name: str, segments: Sequence[int]) -> None:
    """Take segments out of a run, so that the same ingest again redoes them.

    What was derived from the whole run goes with them, also where `segments` is empty: `finalize`
    then makes it anew. Raises `UnknownRun` or `RunBusy`.
    """
    with publishing(layout) as draft:
        run = find_run(draft, name)
        # With the byte of whoever completes it, who reads all segments.
        with lock_segments(layout.run_lock(run.folder), name, [*segments, run.segments]):
            for segment in segments:
                layout.manifest(run.folder, segment).unlink(missing_ok=True)
                forget_passes(layout, run.folder, segment)
                rows = draft.session.get(Segment, (run.run_id, segment))
                if rows is None:
                    continue
                draft.session.delete(rows)
                draft.session.flush()
                draft.connection.execute(
                    """UPDATE run_image SET status = 'pending', reason = NULL
                       WHERE run_id = ? AND "row" >= ? AND "row" < ?""",
                    [run.run_id, rows.first_row, rows.first_row + rows.rows],
                )
            if layout.segment_dir(run.folder).exists():
                sync_directory(layout.segment_dir(run.folder))
            for table in _DERIVED:
                draft.session.execute(delete(table).where(table.run_id == run.run_id))
            for fact in ("head_effect", *NEURON_TABLES):
                draft.connection.execute(f"DELETE FROM {fact} WHERE run_id = ?", [run.run_id])
            _forget_derived(draft, name)
            run.status, run.finished_at, run.by_neuron = "ingesting", None, None
            run.head_effect_complete = run.neuron_peak_complete = False


def find_run(draft: Draft, name: str) -> Run:
    """The row of a run in a draft; raises `UnknownRun`, naming those there are."""
    run = draft.session.query(Run).filter_by(name=name).one_or_none()
    if run is None:
        names = ", ".join(one.name for one in draft.session.query(Run)) or "none"
        msg = f"the store holds no run {name!r}; its runs: {names}."
        raise UnknownRun(msg)
    return run


def _forget_derived(draft: Draft, name: str) -> None:
    draft.connection.execute(
        "DELETE FROM derived WHERE json_extract_string(parameters, '$.run') = ?", [name]
    )


def _drop_dataset(draft: Draft, dataset_id: int) -> None:
    dataset = draft.session.get_one(Dataset, dataset_id)
    draft.connection.execute(f'DROP TABLE IF EXISTS "{MANIFEST}{dataset.name}"')
    draft.connection.execute("DELETE FROM image WHERE dataset_id = ?", [dataset_id])
    draft.session.delete(dataset)
