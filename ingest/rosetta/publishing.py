"""Publishing a zoo: from the kept arrays to rows, as one generation of the catalogue.

Publishing it again, as when a model joins, replaces its rows and keeps its arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...queries.best_buddies import Buddies, best_buddies
from ...queries.rosetta_tuples import (
    Concepts,
    RosettaTuples,
    best_tuples,
    rosetta_concepts,
    strongest_tuples,
    units_in_tuples,
)
from ...schema import manifest, zoo_files
from ...schema.catalog import Draft, now, publishing, version
from ...schema.components import check_name
from ...schema.errors import BadName
from ...schema.layout import Layout
from ...schema.rosetta_tables import RosettaModel, RosettaPair, RosettaRun
from ...schema.unit_addresses import neuron_of
from ...schema.zoo_errors import ZooIncomplete, ZooMismatch
from ...schema.zoo_files import KeptStatistics, manifest_of, zoo_folder
from ...schema.zoos import forget_zoo
from .zoo_arrays import (
    Examples,
    ModuleMaps,
    keep_examples,
    keep_pair,
    keep_statistics,
    kept_pair,
    kept_statistics,
)
from .zoo_records import Zoo, ZooModel

__all__ = [
    "Examples",
    "ModuleMaps",
    "Zoo",
    "concept_units",
    "keep_examples",
    "keep_pair",
    "keep_statistics",
    "kept_pair",
    "kept_statistics",
    "matched_units",
    "publish_zoo",
]

_MANIFEST_SUFFIX = ".json"


def publish_zoo(
    layout: Layout, zoo: Zoo, *, members: Sequence[ZooModel], label: int | None = None
) -> None:
    """Publish a generation in which a zoo has these models, and every pair kept among them.

    Rows that the zoo has are replaced; `label` names its examples. Raises `BadName`, or
    `ZooIncomplete` where the statistics of a model, or the anchor's pair with another or itself,
    are not kept, and `ZooMismatch` where the published zoo is of other pictures or neighbors.
    """
    names, folder = _checked_names(zoo, members), zoo_folder(layout, zoo.name)
    pairs = _complete_pairs(layout, folder, names, anchor=zoo.anchor)
    with publishing(layout) as draft:
        known = draft.session.query(RosettaRun).filter_by(name=zoo.name).one_or_none()
        created = zoo.created_at or now()
        if known is not None:
            _check_same(known, zoo)
            created = known.created_at
        number = _number(draft, known)
        if known is not None:
            draft.session.expunge(known)
            forget_zoo(draft, zoo.name)
        groups = [layout.zoo_model(folder, name) for name in names]
        groups += [layout.zoo_pair(folder, *pair) for pair in pairs]
        groups += [] if label is None else [layout.zoo_examples(folder, label)]
        draft.session.add(
            RosettaRun(
                rosetta_id=number,
                name=zoo.name,
                folder=folder,
                anchor=zoo.anchor,
                images=zoo.images,
                dataset=zoo.dataset,
                keys_sha256=zoo.keys_sha256,
                neighbors=zoo.neighbors,
                label=label,
                settings=json.dumps(dict(zoo.settings), sort_keys=True),
                versions=json.dumps({"lensbase": version()} | dict(zoo.versions), sort_keys=True),
                bytes=sum(manifest.read_manifest(manifest_of(one)).bytes for one in groups),
                created_at=created,
                finished_at=now(),
            )
        )
        for position, member in enumerate(members):
            draft.session.add(_model_row(number, position, member))
            statistics = zoo_files.read_statistics(layout, folder, member.name)
            draft.insert("rosetta_unit", _unit_rows(number, position, member, statistics))
        found = {pair: _buddies(layout, folder, pair, k=zoo.neighbors) for pair in pairs}
        for (first, second), buddies in found.items():
            kept = buddies.where(buddies.first < buddies.second) if first == second else buddies
            places = {"first": names.index(first), "second": names.index(second)}
            draft.session.add(RosettaPair(rosetta_id=number, matches=len(kept), **places))
            draft.insert("rosetta_match", _match_rows(kept, {"rosetta_id": number} | places))
        draft.insert("rosetta_concept", _concept_rows(number, _merged(found, names, zoo.anchor)))


def matched_units(
    layout: Layout,
    zoo: Zoo,
    *,
    members: Sequence[ZooModel],
    most: int = 4096,
) -> dict[str, npt.NDArray[np.int64]]:
    """Units by model, ascending, that are in tuples of all models: those to keep maps of.

    Of at most `most` matches, each concept's strongest before all others. Raises as `publish_zoo`
    does.
    """
    names, folder = _checked_names(zoo, members), zoo_folder(layout, zoo.name)
    pairs = _complete_pairs(layout, folder, names, anchor=zoo.anchor)
    found = {
        pair: _buddies(layout, folder, pair, k=zoo.neighbors)
        for pair in pairs
        if zoo.anchor in pair
    }
    order, others = _tuple_order(names, zoo.anchor), _from_anchor(found, names, zoo.anchor)
    best, concepts = _merged(found, names, zoo.anchor)
    units = units_in_tuples(others, best, concepts, most=most)
    return dict(zip(order, units, strict=True))


def concept_units(
    layout: Layout, zoo: Zoo, *, members: Sequence[ZooModel]
) -> npt.NDArray[np.int64]:
    """The anchor's unit of each concept's strongest tuple, in the concepts' order.

    Raises as `publish_zoo` does.
    """
    names, folder = _checked_names(zoo, members), zoo_folder(layout, zoo.name)
    pairs = _complete_pairs(layout, folder, names, anchor=zoo.anchor)
    found = {
        pair: _buddies(layout, folder, pair, k=zoo.neighbors)
        for pair in pairs
        if zoo.anchor in pair
    }
    best, concepts = _merged(found, names, zoo.anchor)
    return best.units[strongest_tuples(best, concepts), 0]


def _checked_names(zoo: Zoo, members: Sequence[ZooModel]) -> list[str]:
    check_name(zoo.name, kind="zoo")
    names = [check_name(member.name, kind="model") for member in members]
    for name in [zoo.name, *names]:
        if name.endswith(_MANIFEST_SUFFIX):
            msg = f"{name!r} would be taken for a manifest's name; leave out {_MANIFEST_SUFFIX}."
            raise BadName(msg)
    if len(set(names)) < len(names):
        msg = f"two models of the zoo have the same name: {', '.join(names)}."
        raise BadName(msg)
    if zoo.anchor not in names:
        msg = f"the anchor {zoo.anchor!r} is none of the zoo's models: {', '.join(names)}."
        raise BadName(msg)
    return names


def _complete_pairs(
    layout: Layout, folder: str, names: Sequence[str], *, anchor: str
) -> list[tuple[str, str]]:
    """Pairs of these models that are kept; raises `ZooIncomplete` where a needed one is not."""
    every = [(first, second) for first in names for second in names]
    pairs = [one for one in every if manifest_of(layout.zoo_pair(folder, *one)).exists()]
    lacking = [
        f"the statistics of {name}"
        for name in names
        if not manifest_of(layout.zoo_model(folder, name)).exists()
    ]
    lacking += [
        f"the pair {anchor}, {name}"
        for name in names
        if (anchor, name) not in pairs and (name, anchor) not in pairs
    ]
    if lacking:
        msg = (
            f"zoo {folder!r} cannot be published: it lacks {', '.join(lacking)}. The same "
            "`lensbase rosetta mine` again goes on from what is kept."
        )
        raise ZooIncomplete(msg)
    return pairs


def _check_same(known: RosettaRun, zoo: Zoo) -> None:
    own = (known.keys_sha256, known.images, known.neighbors)
    if own != (zoo.keys_sha256, zoo.images, zoo.neighbors):
        msg = (
            f"zoo {zoo.name!r} was mined on {known.images:,} pictures of {known.dataset} with "
            f"{known.neighbors} neighbors, not on these {zoo.images:,} of {zoo.dataset} with "
            f"{zoo.neighbors}; mine under another name, or `lensbase rosetta drop` it first."
        )
        raise ZooMismatch(msg)


def _number(draft: Draft, known: RosettaRun | None) -> int:
    if known is not None:
        return known.rosetta_id
    taken = [one.rosetta_id for one in draft.session.query(RosettaRun)]
    return max(taken, default=-1) + 1


def _model_row(number: int, position: int, member: ZooModel) -> RosettaModel:
    modules = [[one.name, one.channels, *one.grid] for one in member.modules]
    return RosettaModel(
        rosetta_id=number,
        position=position,
        name=member.name,
        kind=member.kind,
        source=member.source,
        spec=member.spec,
        weights_sha256=member.weights_sha256,
        input_size=member.input_size,
        preprocessing=json.dumps(dict(member.preprocessing), sort_keys=True),
        units=sum(one.channels for one in member.modules),
        modules=json.dumps(modules),
    )


def _unit_rows(number: int, position: int, member: ZooModel, statistics: KeptStatistics) -> Any:
    import pyarrow as pa

    channels = [range(module.channels) for module in member.modules]
    per_module = [len(one) for one in channels]
    units = sum(per_module)
    if len(statistics.mean) != units:
        msg = (
            f"the statistics of {member.name} are of {len(statistics.mean):,} units, but its "
            f"modules have {units:,} channels; mine it again under another name."
        )
        raise ZooMismatch(msg)
    neurons = [
        None if (neuron := neuron_of(module.name, channel)) is None else str(neuron)
        for module, numbers in zip(member.modules, channels, strict=True)
        for channel in numbers
    ]
    grids = np.array([module.grid for module in member.modules], np.int32).reshape(-1, 2)
    return pa.table(
        {
            "rosetta_id": pa.array(np.full(units, number, np.int32)),
            "position": pa.array(np.full(units, position, np.int32)),
            "unit": pa.array(np.arange(units, dtype=np.int32)),
            "module": pa.array(np.repeat([one.name for one in member.modules], per_module)),
            "channel": pa.array([channel for numbers in channels for channel in numbers]),
            "grid_height": pa.array(np.repeat(grids[:, 0], per_module)),
            "grid_width": pa.array(np.repeat(grids[:, 1], per_module)),
            "mean": pa.array(statistics.mean),
            "variance": pa.array(statistics.variance),
            "dead": pa.array(statistics.dead),
            "component": pa.array(neurons, pa.string()),
        }
    )


def _buddies(layout: Layout, folder: str, pair: tuple[str, str], *, k: int) -> Buddies:
    kept = zoo_files.read_pair(layout, folder, first=pair[0], second=pair[1])
    return best_buddies(kept.index_first, kept.index_second, k, correlation=kept.correlation_first)


def _tuple_order(names: Sequence[str], anchor: str) -> list[str]:
    """The models in the order of a tuple's units: the anchor, then the others."""
    return [anchor, *(name for name in names if name != anchor)]


def _from_anchor(
    found: Mapping[tuple[str, str], Buddies], names: Sequence[str], anchor: str
) -> list[Buddies]:
    """The anchor's best buddies in every other model."""
    return [
        found[anchor, name] if (anchor, name) in found else found[name, anchor].reversed()
        for name in _tuple_order(names, anchor)[1:]
    ]


def _merged(
    found: Mapping[tuple[str, str], Buddies], names: Sequence[str], anchor: str
) -> tuple[RosettaTuples, Concepts]:
    """The strongest tuples over all models through the anchor, and the concepts (T4.4)."""
    best = best_tuples(_from_anchor(found, names, anchor))
    return best, rosetta_concepts(best, found[anchor, anchor])


def _match_rows(found: Buddies, same: Mapping[str, int]) -> Any:
    import pyarrow as pa

    columns = {
        "unit_first": pa.array(found.first.astype(np.int32)),
        "unit_second": pa.array(found.second.astype(np.int32)),
        "correlation": pa.array(found.correlation),
        "rank_first": pa.array(found.rank_first.astype(np.int32)),
        "rank_second": pa.array(found.rank_second.astype(np.int32)),
    }
    for name, value in same.items():
        columns[name] = pa.array(np.full(len(found), value, np.int32))
    return pa.table(columns)


def _concept_rows(number: int, merged: tuple[RosettaTuples, Concepts]) -> Any:
    import pyarrow as pa

    _, concepts = merged
    order = np.argsort(concepts.concept, kind="stable")
    return pa.table(
        {
            "rosetta_id": pa.array(np.full(len(order), number, np.int32)),
            "concept": pa.array(concepts.concept[order].astype(np.int32)),
            "unit": pa.array(concepts.units[order].astype(np.int32)),
        }
    )
