"""What must hold among stored values: sums, norms, effects and moments, recomputed from disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.completeness import head_residual, layer_residual, token_residual
from ..queries.factors import head_factors, head_norms, head_share, moments
from ..schema.arrays import RunShape
from ..schema.shards import RowArray
from ..schema.snapshot import Snapshot, read_static, run_shape
from .neuron_identities import check_neurons, inconsistent_neurons, sampled_neurons

# What rounding to float16 may leave: of sums over a few hundred terms, and of one number.
SUM_TOLERANCE = 2e-3
VALUE_TOLERANCE = 2e-3

Arrays = dict[str, RowArray]


@dataclass
class Findings:
    """How many images (and neurons) were recomputed, and what did not hold."""

    images: int = 0
    neurons: int = 0
    problems: list[str] = field(default_factory=list[str])

    def check(self, what: str, residual: npt.ArrayLike, *, limit: float) -> None:
        """Note a residual that exceeds its limit; NaN does."""
        worst = float(np.max(np.asarray(residual, np.float64), initial=0.0))
        if not worst <= limit:
            self.problems.append(f"{what}: {worst:.1e}, allowed are {limit:.0e}")


def inconsistent_rows(snapshot: Snapshot, run: dict[str, Any]) -> list[str]:
    """What is wrong with a run's rows in the catalogue: duplicates, gaps, missing facts."""
    counted = snapshot.rows(
        """SELECT count(*) AS rows, count(DISTINCT "row") AS distinct_rows,
                  count(DISTINCT image_id) AS images, count(*) FILTER (status = 'ok') AS ok
           FROM run_image WHERE run_id = ?""",
        [run["run_id"]],
    )[0]
    problems: list[str] = []
    if not counted["rows"] == counted["distinct_rows"] == counted["images"] == run["images"]:
        problems.append(f"run_image has {counted['rows']} rows for {run['images']} images")
    if run["head_effect_complete"]:
        facts = snapshot.rows(
            """SELECT count(*) AS rows, count(DISTINCT (image_id, layer, head)) AS distinct_rows
               FROM head_effect WHERE run_id = ?""",
            [run["run_id"]],
        )[0]
        expected = counted["ok"] * len(run["head_layers"]) * run["heads"]
        if not facts["rows"] == facts["distinct_rows"] == expected:
            problems.append(f"head_effect has {facts['rows']} rows, not {expected}")
    return problems + inconsistent_neurons(snapshot, run)


def broken_identities(
    snapshot: Snapshot, run: dict[str, Any], *, sample: int, seed: int
) -> Findings:
    """Recompute, on a sample of a run's images and neurons, what must hold among its arrays.

    Terms, tokens and heads add up (T2.4-T2.6), head-tokens add up to u, norms and effects
    follow, rejected rows are NaN and no others; a segment's moments are those of its rows; and
    neurons' columns, thresholds, peaks and sums follow from their norms (T3.3).
    """
    shape, arrays, found = run_shape(run), snapshot.row_arrays(run), Findings()
    rows = _sampled(snapshot, run, status="ok", sample=sample, seed=seed)
    found.images = len(rows)
    values = {name: array.read(rows) for name, array in arrays.items()}
    for name, stored in values.items():
        if not np.isfinite(stored).all():
            found.problems.append(f"{name} has NaN in the row of an image that was read")
    if not len(rows) or found.problems:
        return found
    _check_sums(found, values)
    if shape.layer_sums:
        _check_layer_sums(found, snapshot, run, values=values, arrays=arrays)
    if shape.head_layers:
        basis = read_static(snapshot.layout, run["folder"], "head_basis")
        _check_heads(found, values, shape, basis=basis)
        _check_effects(found, snapshot, run, rows=rows, values=values, basis=basis)
        _check_moments(found, snapshot, run, arrays=arrays)
    if shape.neuron_layers:
        which = sampled_neurons(shape, sample=sample, seed=seed)
        found.neurons = len(which)
        check_neurons(found, snapshot, run, rows=rows, values=values, neurons=which)
    rejected = _sampled(snapshot, run, status="rejected", sample=sample, seed=seed)
    for name, array in arrays.items():
        if not np.isnan(array.read(rejected)).all():
            found.problems.append(f"{name} has numbers in the row of a rejected image")
    return found


def _check_sums(found: Findings, values: dict[str, npt.NDArray[Any]]) -> None:
    whole, layer = values["representation"], values["layer"]
    found.check("layer terms miss M(I)", layer_residual(layer, whole), limit=SUM_TOLERANCE)
    norms = np.linalg.norm(whole.astype(np.float64), axis=1)
    off = np.abs(values["scale"][:, 2] / norms - 1)
    found.check("||M(I)|| differs from the representation's length", off, limit=1e-5)
    if "token" in values:
        left = token_residual(values["token"], values["cls_token"], layer, representation=whole)
        found.check("tokens, EMBED and MLP terms miss M(I)", left, limit=SUM_TOLERANCE)


def _check_layer_sums(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    values: dict[str, npt.NDArray[Any]],
    arrays: Arrays,
) -> None:
    """Compare running sums with the terms, and one segment's totals with its stored rows."""
    layer = values["layer"].astype(np.float64)
    again = np.stack([layer[:, 1::2], layer[:, 2::2]], axis=1).cumsum(axis=2)
    norms = np.linalg.norm(values["representation"].astype(np.float64), axis=1)
    left = np.linalg.norm(values["layer_sum"] - again, axis=-1) / norms[:, None, None]
    found.check("sums over layers miss the terms", left, limit=SUM_TOLERANCE)
    segment = _first_segment(snapshot, run)
    rows = np.array(run_shape(run).rows_of(segment))
    terms = arrays["layer"].read(rows).astype(np.float64)
    cls_token = arrays["cls_token"].read(rows).astype(np.float64)
    total = np.nansum(np.concatenate([terms, cls_token[:, None]], axis=1), axis=0)
    stored = snapshot.segment_array(run, "layer_total").map(segment)
    left = np.linalg.norm(stored - total, axis=-1) / np.linalg.norm(total[:-1].sum(0))
    found.check(f"totals of segment {segment} differ", left, limit=VALUE_TOLERANCE)


def _check_heads(
    found: Findings,
    values: dict[str, npt.NDArray[Any]],
    shape: RunShape,
    *,
    basis: npt.NDArray[Any],
) -> None:
    factors = head_factors(values["head_value"], values["scale"])
    attention = values["layer"][:, [2 * layer + 1 for layer in shape.head_layers]]
    left = head_residual(factors, basis, attention, representation=values["representation"])
    found.check("heads miss their layer's attention term", left, limit=SUM_TOLERANCE)
    for place, layer in enumerate(shape.head_token_layers):
        if layer not in shape.head_layers:
            continue
        weight = values["head_token_weight"][:, place].astype(np.float64)
        value = values["head_token_value"][:, place].astype(np.float64)
        summed = np.einsum("kht,kthe->khe", weight, value)
        u = values["head_value"][:, shape.head_layers.index(layer)].astype(np.float64)
        left = np.linalg.norm(summed - u, axis=-1) / np.linalg.norm(u, axis=(-2, -1))[:, None]
        found.check(f"head-tokens of layer {layer} miss u", left, limit=SUM_TOLERANCE)


def _check_effects(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    rows: npt.NDArray[np.int64],
    values: dict[str, npt.NDArray[Any]],
    basis: npt.NDArray[Any],
) -> None:
    if not run["head_effect_complete"]:
        return
    facts = snapshot.rows(
        """SELECT e.norm, e.share FROM head_effect e JOIN run_image r USING (run_id, image_id)
           WHERE run_id = ? AND r."row" IN (SELECT unnest(?::BIGINT[]))
           ORDER BY r."row", layer, head""",
        [run["run_id"], rows.tolist()],
    )
    factors = head_factors(values["head_value"], values["scale"])
    norm = head_norms(factors, basis).reshape(-1)
    share = head_share(factors, basis, values["representation"]).reshape(-1)
    stored = np.array([(fact["norm"], fact["share"]) for fact in facts]).reshape(-1, 2)
    if len(stored) != len(norm):
        found.problems.append(f"head_effect has {len(stored)} facts of {len(norm)} for a sample")
        return
    found.check("effects' norms differ", np.abs(stored[:, 0] - norm), limit=1e-5 * norm.max())
    found.check("effects' shares differ", np.abs(stored[:, 1] - share), limit=1e-5)


def _check_moments(
    found: Findings, snapshot: Snapshot, run: dict[str, Any], *, arrays: Arrays
) -> None:
    """Compare one segment's moments, made before rounding, with those of its stored rows."""
    segment = _first_segment(snapshot, run)
    rows = np.array(run_shape(run).rows_of(segment))
    values, scale = arrays["head_value"].read(rows), arrays["scale"].read(rows)
    again = moments(head_factors(values, scale), scale[:, 2])
    stored = snapshot.segment_array(run, "head_moment").map(segment)
    size = np.linalg.norm(again, axis=(-2, -1))
    left = np.linalg.norm(stored - again, axis=(-2, -1)) / size
    found.check(f"moments of segment {segment} differ", left, limit=VALUE_TOLERANCE)
    if not np.array_equal(stored[..., -1, -1], again[..., -1, -1]):
        found.problems.append(f"moments of segment {segment} count other images than its rows")


def _first_segment(snapshot: Snapshot, run: dict[str, Any]) -> int:
    """The first segment with an image that could be read."""
    (first,) = snapshot.rows(
        "SELECT min(segment) AS segment FROM segment WHERE run_id = ? AND rejected < rows",
        [run["run_id"]],
    )
    return first["segment"]


def _sampled(
    snapshot: Snapshot, run: dict[str, Any], *, status: str, sample: int, seed: int
) -> npt.NDArray[np.int64]:
    found = snapshot.rows(
        'SELECT "row" FROM run_image WHERE run_id = ? AND status = ? ORDER BY "row"',
        [run["run_id"], status],
    )
    rows = np.array([row["row"] for row in found], np.int64)
    if len(rows) <= sample:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, sample, replace=False))
