"""Copying a store: whole, or some runs, some images, or without the large arrays."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.factors import head_factors, moments
from ..schema import durable, manifest
from ..schema.arrays import RunShape, run_arrays
from ..schema.catalog import adopt, current_generation, publishing
from ..schema.derived import derived_results
from ..schema.errors import BadSelection, NotAStore, RunIncomplete, UnknownRun
from ..schema.layout import Layout
from ..schema.manifest import read_manifest
from ..schema.role_files import ANNOTATION
from ..schema.runs import drop_run, uncommit_segments
from ..schema.snapshot import Snapshot, open_snapshot, read_static, run_shape
from ..schema.tables import Run
from .console import Console
from .copying_zoos import copy_zoos
from .leaving_out import check_leavable, forget, is_left_out, shape_without
from .pictures import RunPictures
from .where import Where, rows_where

# Rows of the run that a neuron's fit rests on: another run's, in a copy of some of its images.
_REFERENCE_ROWS = ("neuron_reference", "neuron_reference_top")


def copy_store(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    runs: Sequence[str] | None = None,
    where: Where = None,
    without: Sequence[str] = (),
) -> Path:
    """Copy the published generation of a store to a new folder, which appears whole or not at all.

    `runs` names the runs to take (None: all), `where` the images, as an expression over the view
    `images`; zoos go along where neither is given. `without` leaves out "token", "head_token",
    "thumbnail", "neuron" (all there is of neurons) or "neuron_input". A copy of all images has the
    same bytes; of some, its values are the stored ones, and moments are taken of those. Neurons
    keep the directions, means and thresholds that the original run's reference set gave them;
    which images those were is left out of a copy of some, as its rows are others.
    Raises `NotAStore` where `dest` is taken, `UnknownRun`, `BadSelection`, `BadQuestion`, and
    `RunIncomplete` for `where` on a run that is not complete.
    """
    target = Path(dest)
    _check(target, without)
    snapshot = open_snapshot(Path(source))
    chosen = _chosen(snapshot, runs)
    partial = target.with_name(f"{target.name}.{os.getpid()}{durable.PARTIAL}")
    layout = Layout(partial)
    try:
        adopt(snapshot.layout, snapshot.generation, layout)
        for run in snapshot.run_rows():
            if run["name"] not in chosen:
                drop_run(layout, run["name"], keep_roles=False)
        _copy_pools(snapshot, layout)
        copy_zoos(snapshot.layout, layout, keep=runs is None and where is None)
        for run in chosen.values():
            if where is None:
                _copy_files(snapshot, layout, run, without=without)
            else:
                _rewrite(snapshot, layout, run, where=where, without=without)
        _copy_derived(snapshot.layout, layout, chosen)
        _forget_earlier(layout)
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    durable.sync_directory(target.parent)
    return target


def _forget_earlier(layout: Layout) -> None:
    """Leave one generation: earlier ones list runs, images and arrays that were not copied."""
    current = layout.catalog(current_generation(layout)).parent
    for folder in layout.catalogs.iterdir():
        if folder != current:
            shutil.rmtree(folder)


def _check(target: Path, without: Sequence[str]) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        msg = f"{target} exists; name a new folder for the copy."
        raise NotAStore(msg)
    check_leavable(without)


def _chosen(snapshot: Snapshot, runs: Sequence[str] | None) -> dict[str, dict[str, Any]]:
    known = {run["name"]: run for run in snapshot.run_rows()}
    missing = [name for name in runs or () if name not in known]
    if missing:
        msg = f"the store holds no run {missing[0]!r}; its runs: {', '.join(known) or 'none'}."
        raise UnknownRun(msg)
    return {name: run for name, run in known.items() if runs is None or name in runs}


def _copy_files(
    snapshot: Snapshot, layout: Layout, run: dict[str, Any], *, without: Sequence[str]
) -> None:
    """Copy a run's committed files as they are, and its manifests without what is left out."""
    origin, folder = snapshot.layout, run["folder"]
    committed = snapshot.rows("SELECT segment FROM segment WHERE run_id = ?", [run["run_id"]])
    paths = [origin.manifest(folder, row["segment"]) for row in committed]
    paths.append(origin.static_manifest(folder))
    if "neuron" not in without:
        paths += _neuron_manifests(origin, run)
    sizes: dict[int, int] = {}
    for path in paths:
        known = read_manifest(path)
        kept = [entry for entry in known.files if not is_left_out(entry, without)]
        for entry in kept:
            _copy_file(origin.root / entry.path, layout.root / entry.path)
        place = layout.root / path.relative_to(origin.root)
        written = manifest.commit(layout, place, files=kept, facts=known.facts)
        if "segment" in known.facts:
            sizes[known.facts["segment"]] = written.bytes
    _leave_out(layout, run, without, sizes=sizes)


def _neuron_manifests(layout: Layout, run: dict[str, Any]) -> Iterator[Path]:
    """Of what was fitted, where it is by now, and of what was written by neuron at the end."""
    if layout.fitted_manifest(run["folder"]).exists():
        yield layout.fitted_manifest(run["folder"])
    if run["by_neuron"] is not None:
        yield layout.by_neuron_manifest(run["folder"], run["by_neuron"])


def _leave_out(
    layout: Layout, run: dict[str, Any], without: Sequence[str], *, sizes: dict[int, int]
) -> None:
    """Say in the catalogue what a copy of a run lacks, and its smaller size."""
    if not without:
        return
    with publishing(layout) as draft:
        row = draft.session.get_one(Run, run["run_id"])
        forget(draft, row, without)
        for segment, size in sizes.items():
            draft.connection.execute(
                "UPDATE segment SET bytes = ? WHERE run_id = ? AND segment = ?",
                [size, row.run_id, segment],
            )


def _copy_pools(snapshot: Snapshot, layout: Layout) -> None:
    pools = snapshot.rows(
        """SELECT p.name, m.weights_sha256 FROM pool p JOIN pool_model USING (pool_id)
           JOIN model m USING (model_id)"""
    )
    for pool in pools:
        path = snapshot.layout.pool_manifest(pool["name"], pool["weights_sha256"])
        known = read_manifest(path)
        for entry in known.files:
            _copy_file(snapshot.layout.root / entry.path, layout.root / entry.path)
        place = layout.pool_manifest(pool["name"], pool["weights_sha256"])
        manifest.commit(layout, place, files=known.files, facts=known.facts)


def _copy_derived(origin: Layout, layout: Layout, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy roles that people gave, and classifiers: their prompts may need a model at hand."""
    models = {run["weights_sha256"] for run in runs.values()}
    wanted = [
        *(r for r in derived_results(origin, ANNOTATION) if r.parameters.get("run") in runs),
        *(
            r
            for r in derived_results(origin, "classifier")
            if r.parameters.get("weights_sha256") in models
        ),
    ]
    for result in wanted:
        _copy_file(result.path, layout.root / result.path.relative_to(origin.root))


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    durable.sync_file(target)


def _rewrite(
    snapshot: Snapshot,
    layout: Layout,
    run: dict[str, Any],
    *,
    where: Where,
    without: Sequence[str],
) -> None:
    """Write new segments that hold some of a run's images, and complete the run anew."""
    from ..ingest.begin import commit_fitted
    from ..ingest.finalize import finalize
    from ..ingest.segment import RunFiles, SegmentBuffer

    if run["status"] != "complete":
        msg = f"run {run['name']!r} is not complete; copy it without where=, or finish it first."
        raise RunIncomplete(msg)
    rows = np.sort(rows_where(Console(snapshot.connection), run["name"], where))
    if not len(rows):
        msg = f"where={where!r} holds for no image of run {run['name']!r}; nothing was copied."
        raise BadSelection(msg)
    shape = shape_without(replace(run_shape(run), images=len(rows)), without)
    static, fitted = _static_arrays(snapshot.layout, run)
    if not shape.neuron_layers:
        static = {name: array for name, array in static.items() if not name.startswith("neuron_")}
        fitted = {}
    _renumber(layout, run, rows=rows, shape=shape, static=static, without=without)
    if fitted:
        commit_fitted(layout, run["folder"], fitted)
    thresholds = fitted.get("neuron_threshold")
    files = RunFiles(layout, run["folder"], shape, static["head_basis"], thresholds)
    reader = _RowReader(snapshot, run, shape, thumbnails="thumbnail" not in without)
    for segment in range(shape.segments):
        buffer = SegmentBuffer(files, segment)
        reader.fill(buffer, rows)
        buffer.write()
    finalize(layout, run["run_id"])


def _static_arrays(
    layout: Layout, run: dict[str, Any]
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
    """What a run wrote once: as it began, and as its neurons were fitted."""

    def read(path: Path) -> dict[str, npt.NDArray[Any]]:
        names = dict.fromkeys(Path(entry.path).parts[2] for entry in read_manifest(path).files)
        wanted = [name for name in names if name not in leave]
        return {name: read_static(layout, run["folder"], name) for name in wanted}

    leave = {*run_arrays(run_shape(run)), *_REFERENCE_ROWS, "zarr.json"}
    neurons = layout.fitted_manifest(run["folder"])
    return read(layout.static_manifest(run["folder"])), read(neurons) if neurons.exists() else {}


def _renumber(
    layout: Layout,
    run: dict[str, Any],
    *,
    rows: npt.NDArray[np.int64],
    shape: RunShape,
    static: dict[str, npt.NDArray[Any]],
    without: Sequence[str],
) -> None:
    """Leave in the catalogue only the chosen images, on rows counted from 0 again."""
    import pyarrow as pa

    from ..ingest.begin import write_arrays

    uncommit_segments(layout, run["name"], range(run["segments"]))
    with publishing(layout) as draft:
        row = draft.session.get_one(Run, run["run_id"])
        row.images, row.segments = shape.images, shape.segments
        forget(draft, row, without)
        connection, number = draft.connection, [run["run_id"]]
        connection.register("incoming", pa.table({"row": rows, "place": np.arange(len(rows))}))
        connection.execute(
            """DELETE FROM run_image WHERE run_id = ?
               AND "row" NOT IN (SELECT "row" FROM incoming)""",
            number,
        )
        connection.execute(
            """UPDATE run_image SET "row" = place FROM incoming
               WHERE run_id = ? AND run_image."row" = incoming."row" """,
            number,
        )
        connection.unregister("incoming")
        unused = "image_id NOT IN (SELECT image_id FROM run_image)"
        connection.execute(f"DELETE FROM image WHERE {unused}")
        manifests = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE starts_with(table_name, 'manifest_')"
        ).fetchall()
        for (name,) in manifests:
            connection.execute(f'DELETE FROM "{name}" WHERE {unused}')
        write_arrays(layout, run["folder"], shape, static=static, run=run["name"])


class _RowReader:
    """Reads what a run holds of some images, as an ingest would have handed it over."""

    def __init__(
        self, snapshot: Snapshot, run: dict[str, Any], shape: RunShape, *, thumbnails: bool
    ) -> None:
        kept = run_arrays(shape)
        self._arrays = {k: v for k, v in snapshot.row_arrays(run).items() if k in kept}
        self._heads = bool(shape.head_layers)
        self._pictures = RunPictures(snapshot.layout, run, image_root=None) if thumbnails else None
        self._facts = snapshot.rows(
            """SELECT r."row", r.reason, i.sha256, i.width, i.height
               FROM run_image r JOIN image i USING (image_id)
               WHERE r.run_id = ? ORDER BY r."row" """,
            [run["run_id"]],
        )

    def fill(self, buffer: Any, rows: npt.NDArray[np.int64], *, step: int = 256) -> None:
        """Fill a segment's buffer with the images that its rows stand for."""
        from ..ingest.images import ImageRecord

        for start in range(buffer.rows.start, buffer.rows.stop, step):
            places = np.arange(start, min(start + step, buffer.rows.stop))
            old = rows[places]
            facts = [self._facts[row] for row in old.tolist()]
            records = [
                ImageRecord(fact["sha256"], fact["width"], fact["height"], 0, fact["reason"])
                for fact in facts
            ]
            readable = old[[fact["reason"] is None for fact in facts]]
            values = {name: array.read(readable) for name, array in self._arrays.items()}
            buffer.put(
                places,
                records,
                thumbnails=self._thumbnails(old),
                values=values,
                totals=self._totals(values) if len(readable) else {},
            )

    def _thumbnails(self, rows: npt.NDArray[np.int64]) -> list[bytes | None]:
        if self._pictures is None:
            return [None] * len(rows)
        return self._pictures.thumbnails(rows.tolist())

    def _totals(self, values: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float64]]:
        found: dict[str, npt.NDArray[np.float64]] = {}
        if "layer_sum" in values:
            terms = np.concatenate([values["layer"], values["cls_token"][:, None]], axis=1)
            found["layer_total"] = terms.sum(0, dtype=np.float64)
        if self._heads:
            factors = head_factors(values["head_value"], values["scale"])
            found["head_moment"] = moments(factors, values["scale"][:, 2])
        return found
