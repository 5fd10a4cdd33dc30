"""What must hold among a run's stored neurons: columns, thresholds, peaks, sums, recomputed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.arrays import RunShape
from ..schema.by_neuron import QUANTITIES, TOP, ByNeuron, Quantity
from ..schema.snapshot import Snapshot, read_static, run_shape

if TYPE_CHECKING:
    from .identities import Findings

Values = dict[str, npt.NDArray[Any]]
F64 = npt.NDArray[np.float64]

# What rounding a number for storage may move it by, relative to its size; a margin is in it.
_ROUNDING = {"float16": 1e-3, "float32": 1e-5}
# In bfloat16 an image's norms depend on the batch that it came in.
_REDUCED = 5e-2
# Norms that are small beside their layer's largest are sums that nearly cancel, in float32.
_CANCELLATION = 1e-5
_TINY = 2.0**-24  # float16's smallest number
_PERCENTILE = 98.0


def inconsistent_neurons(snapshot: Snapshot, run: dict[str, Any]) -> list[str]:
    """What is wrong with the rows of a complete run's neurons: duplicates, gaps."""
    if run["status"] != "complete" or not run["neuron_layers"]:
        return []
    expected = len(run["neuron_layers"]) * run["neurons"]
    (facts,) = snapshot.rows(
        """SELECT count(*) AS rows, count(DISTINCT (layer, neuron)) AS distinct_rows,
                  coalesce(sum(active), 0) AS active
           FROM neuron WHERE run_id = ?""",
        [run["run_id"]],
    )
    problems: list[str] = []
    if not facts["rows"] == facts["distinct_rows"] == expected:
        problems.append(f"neuron has {facts['rows']} rows, not {expected}")
    (tops,) = snapshot.rows(
        """SELECT count(*) AS rows, count(DISTINCT (layer, neuron, rank)) AS ranks,
                  count(DISTINCT (layer, neuron, image_id)) AS images,
                  coalesce(max(rank), 0) AS most
           FROM neuron_top WHERE run_id = ?""",
        [run["run_id"]],
    )
    if not tops["rows"] == tops["ranks"] == tops["images"] == tops["most"] * expected:
        problems.append(f"neuron_top has {tops['rows']} rows, not {tops['most']} a neuron")
    if run["neuron_peak_complete"]:
        (peaks,) = snapshot.rows(
            """SELECT count(*) AS rows, count(DISTINCT (image_id, layer, neuron)) AS distinct_rows
               FROM neuron_peak WHERE run_id = ?""",
            [run["run_id"]],
        )
        if not peaks["rows"] == peaks["distinct_rows"] == facts["active"]:
            problems.append(f"neuron_peak has {peaks['rows']} rows, not {facts['active']}")
    return problems


def check_neurons(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    rows: npt.NDArray[np.int64],
    values: Values,
    neurons: npt.NDArray[np.int64],
) -> None:
    """Recompute what follows from a run's stored neurons (T3.3).

    `values` are the row arrays of the images in `rows`; `neurons` count over all kept layers, and
    are looked at in all images.
    """
    fitted = {
        name: read_static(snapshot.layout, run["folder"], f"neuron_{name}").astype(np.float64)
        for name in ("mean", "direction", "threshold", "explained")
    }
    _check_fitted(found, fitted)
    _check_effects(found, values, fitted, rounding=_ROUNDING[run["storage"]])
    if run["neuron_peak_complete"]:
        _check_peaks(found, snapshot, run, rows=rows, values=values, threshold=fitted["threshold"])
    if run["by_neuron"] is not None:
        shape = run_shape(run)
        by_neuron = ByNeuron(snapshot.layout, run["folder"], shape, run["by_neuron"])
        columns: dict[Quantity, npt.NDArray[Any]] = {
            name: np.stack([by_neuron.column(name, one) for one in neurons.tolist()])
            for name in QUANTITIES
        }
        _check_columns(found, values, columns, rows=rows, neurons=neurons)
        _check_tops(found, snapshot, run, by_neuron=by_neuron, norms=columns["norm"], which=neurons)
        _check_summaries(found, snapshot, run, norms=columns["norm"], which=neurons, fitted=fitted)
        _check_thresholds(found, snapshot, run, norms=columns["norm"], which=neurons)


def _check_fitted(found: Findings, fitted: Values) -> None:
    length = np.linalg.norm(fitted["direction"], axis=-1)
    off = np.where(length == 0, 0, np.abs(length - 1))
    found.check("neurons' directions are not of unit length", off, limit=1e-5)
    share = fitted["explained"]
    off = np.maximum(np.maximum(-share, share - 1), 0)
    found.check("neurons' explained variance is outside 0 to 1", off, limit=1e-5)


def _check_effects(found: Findings, values: Values, fitted: Values, *, rounding: float) -> None:
    """The projection on r is no longer than phi; sums no longer than their terms' lengths."""
    norm, x = (values[name].astype(np.float64) for name in ("neuron_norm", "neuron_coefficient"))
    mean, direction = fitted["mean"], fitted["direction"]
    offset = np.einsum("lne,lne->ln", mean, direction)
    largest = norm.max(axis=2, keepdims=True)
    slack = rounding * (norm + np.abs(x) + np.abs(offset)) + _CANCELLATION * largest + _TINY
    excess = (np.abs(x + offset) - norm) / slack
    found.check("neurons' projections are longer than their effects", excess, limit=1.0)

    # Of a whole vector [d'], the length of as many smallest numbers.
    smallest = _TINY * np.sqrt(mean.shape[-1])
    large = norm > fitted["threshold"]
    whole, above = values["neuron_sum"], values["neuron_sum_large"].astype(np.float64)
    parts = {"all": (whole, norm), "large": (above, norm * large), "small": (whole - above, None)}
    size = np.linalg.norm(whole.astype(np.float64), axis=-1) + np.linalg.norm(above, axis=-1)
    for name, (total, lengths) in parts.items():
        most = (norm * ~large if lengths is None else lengths).sum(2)
        slack = rounding * (most + size) + _CANCELLATION * norm.sum(2) + smallest
        excess = (np.linalg.norm(total.astype(np.float64), axis=-1) - most) / slack
        found.check(f"sums of {name} neurons are longer than their terms", excess, limit=1.0)

    again = np.einsum("kln,lne->kle", large.astype(np.float64), mean)
    terms = np.einsum("kln,ln->kl", large, np.linalg.norm(mean, axis=-1))
    stored = values["neuron_mean_large"]
    rounded = again.astype(stored.dtype)
    unit = np.spacing(np.maximum(np.abs(stored), np.abs(rounded))).astype(np.float64)
    slack = unit + _CANCELLATION * terms[..., None]
    left = np.abs(stored.astype(np.float64) - rounded.astype(np.float64)) / slack
    found.check("sums of large neurons' means differ", left, limit=1.0)


def _check_peaks(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    rows: npt.NDArray[np.int64],
    values: Values,
    threshold: F64,
) -> None:
    facts = snapshot.rows(
        """SELECT r."row", layer, neuron, norm, coefficient
           FROM neuron_peak e JOIN run_image r USING (run_id, image_id)
           WHERE run_id = ? AND r."row" IN (SELECT unnest(?::BIGINT[]))
           ORDER BY r."row", layer, neuron""",
        [run["run_id"], rows.tolist()],
    )
    norm, coefficient = values["neuron_norm"], values["neuron_coefficient"]
    peak = norm.astype(np.float64) > threshold
    place, layer, neuron = np.nonzero(peak)
    layers = np.asarray(run["neuron_layers"])[layer]
    again = [rows[place], layers, neuron, norm[peak], coefficient[peak]]
    names = ("row", "layer", "neuron", "norm", "coefficient")
    stored = [np.array([fact[name] for fact in facts]) for name in names]
    if not all(np.array_equal(a, b) for a, b in zip(stored, again, strict=True)):
        found.problems.append("neuron_peak has other facts than norms above their thresholds")


def _check_columns(
    found: Findings,
    values: Values,
    columns: dict[Quantity, npt.NDArray[Any]],
    *,
    rows: npt.NDArray[np.int64],
    neurons: npt.NDArray[np.int64],
) -> None:
    for name, column in columns.items():
        by_row = values[f"neuron_{name}"].reshape(len(rows), -1)[:, neurons]
        if not np.array_equal(column[:, rows], by_row.T):
            found.problems.append(f"neuron_{name} differs from what is stored by neuron")


def _check_tops(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    by_neuron: ByNeuron,
    norms: npt.NDArray[Any],
    which: npt.NDArray[np.int64],
) -> None:
    """Rows of largest norm, equal ones by ascending row; the catalogue has the first of them."""
    stored = snapshot.rows(
        """SELECT n.layer, n.neuron, n.rank, r."row", n.norm
           FROM neuron_top n JOIN run_image r USING (run_id, image_id)
           JOIN (SELECT unnest(?::INTEGER[]) AS layer, unnest(?::INTEGER[]) AS neuron) USING
             (layer, neuron)
           WHERE n.run_id = ?""",
        [*_addresses(run, which), run["run_id"]],
    )
    listed: dict[tuple[int, int], dict[int, tuple[int, float]]] = {}
    for one in stored:
        ranks = listed.setdefault((one["layer"], one["neuron"]), {})
        ranks[one["rank"]] = (one["row"], one["norm"])
    for column, neuron, *address in zip(
        norms, which.tolist(), *_addresses(run, which), strict=True
    ):
        finite = np.flatnonzero(np.isfinite(column))
        order = finite[np.argsort(-column[finite].astype(np.float64), kind="stable")][:TOP]
        found_rows, found_norms = by_neuron.top(neuron)
        name = f"L{address[0]}.N{address[1]}"
        if not (np.array_equal(found_rows, order) and np.array_equal(found_norms, column[order])):
            found.problems.append(f"the rows of largest norm of {name} are others")
        ranks = listed.get((address[0], address[1]), {})
        again = zip(order.tolist(), column[order].tolist(), strict=True)
        wanted = dict(enumerate(again, start=1))
        if not ranks.items() <= wanted.items():
            found.problems.append(f"neuron_top has other images of {name}")


def _check_summaries(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    norms: npt.NDArray[Any],
    which: npt.NDArray[np.int64],
    fitted: Values,
) -> None:
    stored = snapshot.rows(
        """SELECT mean_norm, norm_p98, explained_variance, active
           FROM neuron JOIN (SELECT unnest(?::INTEGER[]) AS layer,
                                    unnest(?::INTEGER[]) AS neuron) USING (layer, neuron)
           WHERE run_id = ? ORDER BY layer, neuron""",
        [*_addresses(run, which), run["run_id"]],
    )
    if len(stored) != len(which):
        found.problems.append(f"neuron has {len(stored)} rows of {len(which)} for a sample")
        return
    threshold = fitted["threshold"].reshape(-1)[which]
    exact = norms.astype(np.float64)
    again = {
        "mean_norm": np.nansum(exact, axis=1) / max(int(np.isfinite(exact[0]).sum()), 1),
        "norm_p98": threshold,
        "explained_variance": fitted["explained"].reshape(-1)[which],
        "active": (exact > threshold[:, None]).sum(1),
    }
    for name, numbers in again.items():
        off = np.abs(np.array([one[name] for one in stored]) - numbers)
        found.check(f"neurons' {name} differs", off, limit=1e-6 * max(float(numbers.max()), 1e-9))


def _check_thresholds(
    found: Findings,
    snapshot: Snapshot,
    run: dict[str, Any],
    *,
    norms: npt.NDArray[Any],
    which: npt.NDArray[np.int64],
) -> None:
    """Thresholds are percentiles of the reference set's norms; a copy of some images has none."""
    if not (snapshot.layout.arrays(run["folder"]) / "neuron_reference").exists():
        return
    reference = read_static(snapshot.layout, run["folder"], "neuron_reference")
    stored = read_static(snapshot.layout, run["folder"], "neuron_threshold").reshape(-1)[which]
    chosen = norms[:, reference].astype(np.float64)
    # An image that was fitted to and then rejected has left no norms.
    if not np.isfinite(chosen).all():
        return
    again = np.percentile(chosen, _PERCENTILE, axis=1)
    rounding = _ROUNDING[run["storage"]] if run["precision"] == "fp32" else _REDUCED
    slack = rounding * again + _CANCELLATION * float(again.max()) + _TINY
    found.check("neurons' thresholds differ", np.abs(stored - again) / slack, limit=1.0)


def _addresses(run: dict[str, Any], which: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Layers and neurons of those that count over all kept layers."""
    place, neuron = np.divmod(which, run["neurons"])
    return np.asarray(run["neuron_layers"])[place].tolist(), neuron.tolist()


def sampled_neurons(shape: RunShape, *, sample: int, seed: int) -> npt.NDArray[np.int64]:
    """Some of a run's neurons, counted over all kept layers, ascending."""
    total = len(shape.neuron_layers) * shape.neurons
    chosen = np.random.default_rng(seed).choice(total, min(sample, total), replace=False)
    return np.sort(chosen)
