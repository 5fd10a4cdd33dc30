"""Beginning a run, or finding the one to go on with: rows and images are fixed here."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema import durable, manifest
from ..schema.arrays import RunShape, declare, run_arrays, write_static
from ..schema.catalog import Draft, now, publishing
from ..schema.errors import RunMismatch
from ..schema.layout import Layout
from ..schema.records import ModelInfo
from ..schema.snapshot import run_shape
from ..schema.tables import Dataset, Model, Run
from ..schema.views import MANIFEST, RESERVED_COLUMNS
from .settings import Settings, fingerprint, versions

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_COLUMNS = ("key", "label", "subgroup")
# Settings whose option on the command line is not called after them.
_OPTIONS = {
    "head_layers": "--heads",
    "head_token_layers": "--head-tokens",
    "neuron_layers": "--neurons",
    "device": "--devices",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a caller wants a run to be."""

    run: str
    dataset: str
    kind: str
    root: str
    table: pa.Table
    model: ModelInfo
    settings: Settings


class RunBegun(Exception):
    """Another process has begun a run of this name meanwhile: the one to go on with."""


@dataclass(frozen=True)
class BegunRun:
    """A run that the store knows: its number, its folder and its settings."""

    run_id: int
    folder: str
    settings: Settings


def requested_shape(model: ModelInfo, settings: Settings, images: int) -> RunShape:
    """The shape of the arrays of a run that is about to begin, or to go on."""
    return run_shape(asdict(model) | asdict(settings) | {"images": images, "layer_sums": True})


def keys_sha256(table: pa.Table) -> str:
    """Hash the image keys in row order."""
    digest = hashlib.sha256()
    for key in table["key"].to_pylist():
        digest.update(key.encode() + b"\0")
    return digest.hexdigest()


def begin_run(layout: Layout, request: Request, *, static: dict[str, npt.NDArray[Any]]) -> BegunRun:
    """Publish a new run with its images, all of them pending.

    `static` are the arrays that are written once: weights and bases that queries need. Raises
    `RunBegun` where another process was quicker, and `RunMismatch` where the data set's name
    stands for another place.
    """
    with publishing(layout) as draft:
        if draft.session.query(Run).filter_by(name=request.run).count():
            raise RunBegun(request.run)
        run_id = draft.info.next_run_id
        draft.info.next_run_id += 1
        folder = request.run
        if layout.arrays(folder).exists():
            # A dropped run of this name still belongs to a kept generation.
            folder = f"{request.run}~{run_id}"
        dataset_id = _dataset(draft, request)
        image_ids = _images(draft, request, dataset_id)
        settings, shape = (
            request.settings,
            requested_shape(request.model, request.settings, request.table.num_rows),
        )
        draft.session.add(
            Run(
                run_id=run_id,
                name=request.run,
                folder=folder,
                model_id=_model(draft, request.model),
                dataset_id=dataset_id,
                status="ingesting",
                fingerprint=fingerprint(request.model, settings),
                keys_sha256=keys_sha256(request.table),
                images=shape.images,
                segments=shape.segments,
                layer_sums=shape.layer_sums,
                versions=json.dumps(versions()),
                head_effect_complete=False,
                created_at=now(),
                **(
                    asdict(settings)
                    | {
                        name: json.dumps(value)
                        for name, value in asdict(settings).items()
                        if isinstance(value, tuple)
                    }
                ),
            )
        )
        _rows(draft, run_id, image_ids)
        write_arrays(layout, folder, shape, static=static, run=request.run)
    return BegunRun(run_id, folder, settings)


def check_same(known: Mapping[str, Any], request: Request) -> None:
    """Raise `RunMismatch`, naming the differences, unless a run is the one that was begun.

    `known` is a row of `Snapshot.run_rows`.
    """
    differences: list[str] = []
    if known["weights_sha256"] != request.model.weights_sha256:
        differences.append(
            f"weights {known['weights_sha256'][:12]} ({known['model_name']}), "
            f"now {request.model.weights_sha256[:12]} ({request.model.name})"
        )
    if known["keys_sha256"] != keys_sha256(request.table):
        differences.append(f"{known['images']} images, now {request.table.num_rows} other ones")
    for name, value in asdict(request.settings).items():
        before = _tuples(known[name])
        if before != value and name not in _implied(known, request.settings):
            option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
            differences.append(f"{option} {_told(before)}, now {_told(value)}")
    then, today = known["versions"], versions()
    differences += [
        f"{library} {then.get(library)}, now {today.get(library)}"
        for library in sorted({*then, *today})
        if then.get(library) != today.get(library)
    ]
    if not differences and known["fingerprint"] != fingerprint(request.model, request.settings):
        differences.append("another preprocessing or architecture")
    if differences:
        msg = (
            f"run {known['name']!r} was begun with {'; '.join(differences)}. Go on with what it "
            "was begun with, choose another name with --run, or `lensbase run drop` it first."
        )
        raise RunMismatch(msg)


def _implied(known: Mapping[str, Any], settings: Settings) -> tuple[str, ...]:
    """Settings whose difference another difference explains."""
    if known["neuron_layers"] and settings.neuron_layers:
        return ("neurons",)
    return ("neurons", "neuron_passes", "neuron_input", "reference")


def _tuples(value: Any) -> Any:
    """JSON's lists, at any depth, as the tuples that settings hold."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _told(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _dataset(draft: Draft, request: Request) -> int:
    found = draft.session.query(Dataset).filter_by(name=request.dataset).one_or_none()
    if found is None:
        number = draft.session.query(Dataset).count()
        taken = {one.dataset_id for one in draft.session.query(Dataset)}
        number = next(n for n in range(number + 1) if n not in taken)
        draft.session.add(
            Dataset(dataset_id=number, name=request.dataset, kind=request.kind, root=request.root)
        )
        return number
    if (found.kind, found.root) != (request.kind, request.root):
        msg = (
            f"data set {request.dataset!r} of this store is the {found.kind} at {found.root}, not "
            f"the {request.kind} at {request.root}; give this one another name with --dataset."
        )
        raise RunMismatch(msg)
    return found.dataset_id


def _model(draft: Draft, info: ModelInfo) -> int:
    for known in draft.session.query(Model).filter_by(weights_sha256=info.weights_sha256):
        if (known.name, known.activation) == (info.name, info.activation):
            return known.model_id
    taken = {one.model_id for one in draft.session.query(Model)}
    number = next(n for n in range(len(taken) + 1) if n not in taken)
    fields = asdict(info)
    height, width = fields.pop("grid")
    fields["preprocessing"] = json.dumps(fields["preprocessing"])
    draft.session.add(Model(model_id=number, grid_height=height, grid_width=width, **fields))
    return number


def _images(draft: Draft, request: Request, dataset_id: int) -> npt.NDArray[np.int64]:
    """Give every row an image id: the known one of its key, or a new one."""
    import pyarrow as pa

    known = draft.connection.execute(
        "SELECT key, image_id FROM image WHERE dataset_id = ?", [dataset_id]
    ).fetchall()
    ids = dict(known)
    keys: list[str] = request.table["key"].to_pylist()
    info = draft.info
    new = [row for row, key in enumerate(keys) if key not in ids]
    fresh = np.arange(info.next_image_id, info.next_image_id + len(new), dtype=np.int64)
    info.next_image_id += len(new)
    table = request.table.take(pa.array(new, pa.int64()))
    rows = table.select([name for name in _ROW_COLUMNS if name in table.column_names])
    rows = rows.append_column("image_id", pa.array(fresh))
    rows = rows.append_column("dataset_id", pa.array([dataset_id] * len(new), pa.int32()))
    draft.insert("image", rows)
    _further_columns(draft, request, table=table, image_ids=fresh)
    ids |= dict(zip((keys[row] for row in new), fresh.tolist(), strict=True))
    return np.array([ids[key] for key in keys], np.int64)


def _further_columns(
    draft: Draft, request: Request, *, table: pa.Table, image_ids: npt.NDArray[np.int64]
) -> None:
    import pyarrow as pa

    further = [name for name in table.column_names if name not in _ROW_COLUMNS]
    if not further or not table.num_rows:
        return
    renamed = [f"manifest_{name}" if name.lower() in RESERVED_COLUMNS else name for name in further]
    rows = table.select(further).rename_columns(renamed)
    rows = rows.append_column("image_id", pa.array(image_ids))
    draft.extend_by_name(MANIFEST + request.dataset, rows)


def _rows(draft: Draft, run_id: int, image_ids: npt.NDArray[np.int64]) -> None:
    import pyarrow as pa

    count = len(image_ids)
    draft.insert(
        "run_image",
        pa.table(
            {
                "run_id": pa.array([run_id] * count, pa.int32()),
                "row": pa.array(np.arange(count, dtype=np.int64)),
                "image_id": pa.array(image_ids),
                "status": ["pending"] * count,
            }
        ),
    )


def write_arrays(
    layout: Layout,
    folder: str,
    shape: RunShape,
    *,
    static: dict[str, npt.NDArray[Any]],
    run: str,
) -> None:
    """Declare a run's arrays, write the static ones, and commit both."""
    group = layout.arrays(folder)
    declare(group, run_arrays(shape), segment_rows=shape.segment_rows, attributes={"run": run})
    for name, values in static.items():
        write_static(group / name, values)
    _commit(layout, group.rglob("*"), place=layout.static_manifest(folder))


def commit_fitted(layout: Layout, folder: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write what a run's reference set said of its neurons, and commit it."""
    group = layout.arrays(folder)
    for name, values in arrays.items():
        write_static(group / name, values)
    written = (path for name in arrays for path in (group / name).rglob("*"))
    _commit(layout, written, place=layout.fitted_manifest(folder))


def _commit(layout: Layout, paths: Iterable[Path], *, place: Path) -> None:
    files = [path for path in paths if path.is_file()]
    for path in files:
        durable.sync_file(path)
    entries = [manifest.entry(layout.root, path) for path in files]
    manifest.commit(layout, place, files=entries)
