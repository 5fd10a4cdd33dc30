"""First-order, second-order and indirect effects of a layer's neurons, compared (Table 3.1)."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..schema.components import Neuron
from ..schema.derived import read_derived, write_derived
from ..schema.errors import BadQuestion
from ..schema.stages import Progress, stage
from .accuracy import Change, classify
from .classifier import Classifier, check_classifier
from .labels import labelled
from .neuron_changes import LayerEffects, MeanAblation, one_layer, reference_rows
from .open_run import OpenRun
from .printing import counted
from .result import Result, Thumbnails
from .run_model import run_model
from .selection import Images
from .where import Where
from .whole_numbers import whole

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

    from ..ingest.effects_again import EffectsAgain, KnownPictures

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_LOG = logging.getLogger(__name__)
_BY_IMAGE, _BY_NEURON = "neuron_effect_image", "neuron_effect"
# Part of every fingerprint: to be raised when the same question gets another answer.
_VERSION = 2


class NeuronEffects(Result):
    """Rows `effect`, `accuracy`, `baseline`, `explained_variance`.

    `neurons` has a row a neuron, `directions` what its indirect effects have in common.
    """

    def __init__(
        self,
        table: pa.Table,
        *,
        note: str | None = None,
        thumbnails: Thumbnails | None = None,
        neurons: Result | None = None,
        directions: Mapping[str, F32] | None = None,
    ) -> None:
        super().__init__(table, note=note, thumbnails=thumbnails)
        self._neurons = neurons
        self._directions = directions

    @property
    def neurons(self) -> Result:
        """A row a neuron that was measured, in the order of their numbers.

        Columns `component`, `direct_norm` and `indirect_norm` (mean lengths of its first-order and
        indirect effects over the images), `indirect_explained` and `second_order_explained`.
        """
        if self._neurons is None:
            msg = "a part of the table knows no neurons; ask the whole one."
            raise BadQuestion(msg)
        return self._neurons

    @property
    def directions(self) -> dict[str, F32]:
        """The direction [d'] of each neuron's indirect effects, by address, of unit length.

        The first principal component of the 100 largest, less their mean. A neuron whose indirect
        effect never varies has none. For `spurious_texts(..., directions=...)`.
        """
        if self._directions is None:
            msg = "a part of the table knows no directions; ask the whole one."
            raise BadQuestion(msg)
        return dict(self._directions)

    def plot(self, *, ax: Axes | None = None, limit: int = 20) -> Axes:
        """Bars of the accuracy after each ablation and of the variance that one direction explains.

        The accuracy before is dashed; `limit` says nothing here.
        """
        from .plots import new_axes

        ax = ax or new_axes(5, 3)
        places = np.arange(len(self))
        ax.bar(places - 0.2, self["accuracy"], width=0.4, label="accuracy after mean-ablation")
        shares = self["explained_variance"]
        ax.bar(places + 0.2, shares, width=0.4, label="variance explained by first PC")
        if len(self):
            ax.axhline(self["baseline"][0], linestyle="--", color="0.6", label="accuracy before")
        ax.set_xticks(places, [str(effect) for effect in self["effect"]])
        ax.set_ylim(0, 1)
        ax.legend()
        return ax


@dataclass(frozen=True, eq=False)
class _Measured:
    """Effects as they are kept: by row of the run, ascending, and by neuron of the layer."""

    rows: I64
    first_order: F32
    ablated: F32
    by_neuron: dict[str, F64]
    directions: F32


@dataclass(frozen=True, eq=False)
class _WithoutFirstOrder:
    """First-order effects of a layer's neurons replaced by their means."""

    component: str
    measured: _Measured

    @property
    def addresses(self) -> tuple[str, ...]:
        """The layer's neurons, as one."""
        return (self.component,)

    def apply(self, representation: F32, rows: I64, *, out: F32) -> F32:
        """Change representations [k, d'] of these rows; fills the first k rows of `out`."""
        places = np.searchsorted(self.measured.rows, rows)
        return np.subtract(representation, self.measured.first_order[places], out=out[: len(rows)])


@dataclass(frozen=True, eq=False)
class _WithoutIndirect:
    """Activations of a layer's neurons replaced by their means in a forward pass."""

    component: str
    measured: _Measured

    @property
    def addresses(self) -> tuple[str, ...]:
        """The layer's neurons, as one."""
        return (self.component,)

    def apply(self, representation: F32, rows: I64, *, out: F32) -> F32:
        """Representations [k, d'] of these rows from that pass; fills the first k of `out`."""
        places = np.searchsorted(self.measured.rows, rows)
        out = out[: len(representation)]
        out[...] = self.measured.ablated[places]
        return out


def neuron_effects(
    run: OpenRun,
    c: Classifier,
    *,
    layer: int,
    neurons: int | Sequence[str] = 100,
    label: str = "label",
    images: Images = None,
    where: Where = None,
    seed: int = 0,
    progress: Progress = None,
) -> NeuronEffects:
    """First-order, second-order and indirect effects; see `RunView.neuron_effects`."""
    check_classifier(run, c)
    layer = one_layer(run, layer)
    means = _reference(run)
    seed = whole(seed, "seed", least=0, of="draws")
    numbers = _numbers(run, layer, neurons, seed=seed)
    found = labelled(run, c, run.images.select(images, where), label=label)
    measured = _measured(
        run,
        np.unique(found.rows),
        layer=layer,
        numbers=numbers,
        reference=means,
        progress=progress,
    )
    effects = LayerEffects(run, layer)
    changes: list[Change | None] = [
        None,
        _WithoutFirstOrder(effects.component, measured),
        MeanAblation(effects, "all"),
        _WithoutIndirect(effects.component, measured),
    ]
    before, *after = classify(run, c, found, ablations=changes)
    second = run.neurons.explained[effects.place, numbers].astype(np.float64)
    indirect = measured.by_neuron["indirect_explained"]
    columns = {
        "effect": ["first-order", "second-order", "indirect"],
        "accuracy": np.array([one.overall for one in after]),
        "baseline": np.full(3, before.overall),
        "explained_variance": np.array([1.0, second.mean(), indirect.mean()]),
    }
    drawn = f", drawn with seed {seed}" if _is_drawn(run, neurons) else ""
    reference = counted(len(means), "reference image")
    note = (
        f"layer {layer}, {counted(len(numbers), 'neuron')}{drawn}; means are over the {reference} "
        "of the run, as is the variance explained of second-order effects; that of indirect ones "
        f"is over {counted(len(measured.rows), 'image')}"
    )
    addresses = [str(Neuron(layer, number)) for number in numbers.tolist()]
    by_neuron = {
        "component": addresses,
        **measured.by_neuron,
        "second_order_explained": second,
    }
    return NeuronEffects(
        Result.of(columns).arrow(),
        note="; ".join(filter(None, [note, found.note])),
        neurons=Result.of(by_neuron, note=note),
        directions={
            address: direction
            for address, direction in zip(addresses, measured.directions, strict=True)
            if direction.any()
        },
    )


def _is_drawn(run: OpenRun, neurons: int | Sequence[str]) -> bool:
    return isinstance(neurons, int | np.integer) and neurons < run.neurons.count


def _numbers(run: OpenRun, layer: int, neurons: int | Sequence[str], *, seed: int) -> I64:
    """Neurons of the layer by number, ascending: drawn ones, or those with some addresses."""
    given: Any = neurons
    if not isinstance(given, Iterable):
        count = min(whole(given, "neurons", least=1, of="neurons"), run.neurons.count)
        return np.sort(np.random.default_rng(seed).permutation(run.neurons.count)[:count])
    listed: list[Any] = [given] if isinstance(given, str) else list(given)
    if not listed or not all(isinstance(one, str) for one in listed):
        msg = f"neurons={neurons!r}: give a number of neurons, or addresses as in ['L{layer}.N3']."
        raise BadQuestion(msg)
    found = [run.neurons.find(address).address for address in listed]
    others = [str(one) for one in found if one.layer != layer]
    if others:
        msg = f"{others[0]} is of another layer than layer={layer}; ask for one layer at a time."
        raise BadQuestion(msg)
    return np.unique([one.neuron for one in found])


def _reference(run: OpenRun) -> I64:
    """The rows whose mean activations the ablations take."""
    rows = reference_rows(run)
    if rows is None:
        msg = (
            f"run {run.name!r} is a copy of some images, without the reference images over which "
            "first-order and indirect effects take their means; ask the store that it was copied "
            "from."
        )
        raise BadQuestion(msg)
    return rows


def _measured(
    run: OpenRun, rows: I64, *, layer: int, numbers: I64, reference: I64, progress: Progress
) -> _Measured:
    """Effects as they were kept, or measured now and kept."""
    parameters = _parameters(run, rows, layer)
    # What is said of images is of all the layer's neurons.
    own = {**parameters, "neurons": numbers.tolist()}
    by_image = read_derived(run.layout, _BY_IMAGE, parameters)
    by_neuron = read_derived(run.layout, _BY_NEURON, own)
    if by_image is None or by_neuron is None:
        again = _again(
            run, rows, layer=layer, numbers=numbers, reference=reference, progress=progress
        )
        by_image, by_neuron = _image_rows(rows, again), _neuron_rows(numbers, again)
        if run.row["status"] == "complete":
            write_derived(run.layout, _BY_IMAGE, parameters, rows=by_image)
            write_derived(run.layout, _BY_NEURON, own, rows=by_neuron)
    names = ("direct_norm", "indirect_norm", "indirect_explained")
    return _Measured(
        by_image.column("row").to_numpy(),
        _vectors_of(by_image, "first_order"),
        _vectors_of(by_image, "ablated"),
        {name: by_neuron.column(name).to_numpy() for name in names},
        _vectors_of(by_neuron, "indirect_direction"),
    )


def _parameters(run: OpenRun, rows: I64, layer: int) -> dict[str, Any]:
    return run.facts | {
        "query": "neuron_effects",
        "version": _VERSION,
        "weights_sha256": run.row["weights_sha256"],
        "layer": layer,
        "rows_sha256": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
    }


def _again(
    run: OpenRun, rows: I64, *, layer: int, numbers: I64, reference: I64, progress: Progress
) -> EffectsAgain:
    """Measure effects with the run's model on its pictures."""
    model = run_model(
        run,
        to="to measure first-order and indirect effects",
        otherwise="Asked once where it is at hand, the answer is kept in the store.",
    )
    from ..ingest.effects_again import effects_again

    what = f"effects of {len(numbers)} neurons of layer {layer} in {len(rows):,} images"
    with stage(_LOG, what, unit="image", progress=progress) as work:
        return effects_again(
            model,
            _pictures(run, rows),
            reference=_pictures(run, np.sort(reference)),
            layer=layer,
            neurons=numbers.tolist(),
            progress=work.tell,
        )


def _pictures(run: OpenRun, rows: I64) -> KnownPictures:
    from ..ingest.effects_again import KnownPictures

    image_ids = run.images.ids(rows)
    known = {
        number: (key, sha256)
        for number, key, sha256 in run.console.rows(
            "SELECT image_id, key, sha256 FROM image "
            "WHERE image_id IN (SELECT unnest(?::BIGINT[]))",
            [image_ids],
        )
    }
    keys, hashes = zip(*(known[number] for number in image_ids.tolist()), strict=True)
    return KnownPictures(run.pictures.source, keys, hashes)


def _image_rows(rows: I64, again: EffectsAgain) -> pa.Table:
    import pyarrow as pa

    columns = {"first_order": again.first_order, "ablated": again.ablated}
    return pa.table(
        {
            "row": rows,
            **{name: _vectors(values) for name, values in columns.items()},
        }
    )


def _neuron_rows(numbers: I64, again: EffectsAgain) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "neuron": numbers.astype(np.int32),
            "direct_norm": again.direct_norm,
            "indirect_norm": again.indirect_norm,
            "indirect_explained": again.indirect_explained,
            "indirect_direction": _vectors(again.indirect_direction),
        }
    )


def _vectors(values: F32) -> pa.FixedSizeListArray:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])


def _vectors_of(table: pa.Table, name: str) -> F32:
    vectors = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(vectors, np.float32).reshape(table.num_rows, -1)
