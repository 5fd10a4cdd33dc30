"""Taking committed segments into the catalogue, and readers with it, to the next generation."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..schema.catalog import Draft, publishing
from ..schema.errors import UnknownRun
from ..schema.layout import Layout
from ..schema.manifest import committed_segments, read_manifest
from ..schema.snapshot import open_snapshot
from ..schema.tables import Run, Segment


def publish_segments(layout: Layout, run_id: int) -> int:
    """Publish a generation with every segment of a run committed so far; return how many."""
    with publishing(layout) as draft:
        run = draft.session.get_one(Run, run_id)
        take_in(draft, layout, run)
        return len(committed_segments(layout, run.folder))


def take_in(draft: Draft, layout: Layout, run: Run) -> None:
    """Bring a run's committed segments into a draft; those already there are left alone."""
    known = {
        segment for (segment,) in draft.session.query(Segment.segment).filter_by(run_id=run.run_id)
    }
    new = [one for one in committed_segments(layout, run.folder) if one not in known]
    for segment in new:
        manifest = read_manifest(layout.manifest(run.folder, segment))
        draft.session.add(
            Segment(
                run_id=run.run_id,
                segment=segment,
                first_row=manifest.facts["first_row"],
                rows=manifest.facts["rows"],
                rejected=manifest.facts["rejected"],
                bytes=manifest.bytes,
                max_residual=manifest.facts["max_residual"],
            )
        )
    draft.session.flush()
    if new:
        _take_image_rows(draft, layout, run, segments=new)


def published_segments(layout: Layout, run_id: int) -> int | None:
    """How many segments of a run the published generation has; None once it is complete.

    Raises `UnknownRun` for a run that is no longer there.
    """
    snapshot = open_snapshot(layout.root)
    try:
        found = snapshot.rows(
            """SELECT status, (SELECT count(*) FROM segment s WHERE s.run_id = r.run_id) AS segments
               FROM run r WHERE run_id = ?""",
            [run_id],
        )
    finally:
        snapshot.connection.close()
    if not found:
        raise run_gone()
    return None if found[0]["status"] == "complete" else found[0]["segments"]


def run_gone() -> UnknownRun:
    """The error for a run that was there a moment ago."""
    return UnknownRun("the run was dropped, or the store rolled back, meanwhile; ingest it again.")


def due(published: int, committed: int) -> bool:
    """Whether committed segments have grown by a tenth since the last generation."""
    return committed - published >= max(1, math.ceil(published / 10))


def _take_image_rows(draft: Draft, layout: Layout, run: Run, *, segments: Iterable[int]) -> None:
    from pyarrow import concat_tables, parquet

    files = [layout.image_rows(run.folder, segment) for segment in segments]
    rows = concat_tables([parquet.read_table(path) for path in files])
    draft.connection.register("incoming", rows)
    draft.connection.execute(
        """UPDATE run_image SET status = incoming.status, reason = incoming.reason
           FROM incoming WHERE run_image.run_id = ? AND run_image.row = incoming.row""",
        [run.run_id],
    )
    draft.connection.execute(
        """UPDATE image SET sha256 = coalesce(seen.sha256, image.sha256),
                  width = coalesce(seen.width, image.width),
                  height = coalesce(seen.height, image.height)
           FROM (SELECT image_id, incoming.* FROM incoming JOIN run_image
                 ON run_image.run_id = ? AND run_image.row = incoming.row) seen
           WHERE image.image_id = seen.image_id""",
        [run.run_id],
    )
    draft.connection.unregister("incoming")
