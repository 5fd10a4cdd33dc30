"""Adding text pools to a store: each of its models embeds the texts once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.catalog import publishing
from ..schema.errors import LensbaseError, UnknownRun, WeightsNotFound
from ..schema.layout import Layout
from ..schema.snapshot import open_snapshot

if TYPE_CHECKING:
    from ..ingest.models import LoadedModel
    from ..ingest.pools import TextPool


@dataclass(frozen=True)
class PoolAdded:
    """A pool's name, how many texts it has, and the models that embedded it.

    `skipped` says of each of the store's other models why it could not.
    """

    name: str
    texts: int
    models: list[str]
    skipped: dict[str, str]


def add_pool(
    store: str | os.PathLike[str], texts: str | os.PathLike[str] | Sequence[str], *, name: str
) -> PoolAdded:
    """Embed texts with every model of a store and publish them as a pool.

    `texts` is a UTF-8 file, one text a line, or a list of texts. Models that came as modules
    cannot be loaded again and are passed over. The pool becomes the default of runs that have
    none, and complete runs get their heads' TEXTSPAN over it. The same call again changes
    nothing. Raises `BadPool` for texts that are none or where the name stands for others,
    `BadName`, `UnknownRun` for a store without models, `WeightsNotFound` where no model can be
    loaded, and ImportError without `lensbase[ingest]`.
    """
    from ..ingest.pools import TextPool, check_free, embed, read_pool

    layout = Layout(Path(store))
    models = _models(layout)
    if isinstance(texts, str | os.PathLike):
        pool = read_pool(Path(texts), name=name)
    else:
        pool = TextPool(name, tuple(texts))
    check_free(layout, pool)
    skipped: dict[str, str] = {}
    embedded: list[int] = []
    for model in models:
        try:
            loaded = _load(model)
        except LensbaseError as error:
            skipped[_title(model)] = str(error)
            continue
        embed(layout, pool, loaded)
        embedded.append(model["model_id"])
    if not embedded:
        reasons = "; ".join(f"{title}: {reason}" for title, reason in skipped.items())
        msg = f"no model of {layout.root} can be loaded to embed the texts ({reasons})."
        raise WeightsNotFound(msg)
    _publish(layout, pool, embedded)
    names = [_title(model) for model in models if model["model_id"] in embedded]
    return PoolAdded(pool.name, len(pool.texts), names, skipped)


def _models(layout: Layout) -> list[dict[str, Any]]:
    snapshot = open_snapshot(layout.root)
    found = snapshot.rows(
        "SELECT model_id, name, source, pretrained, weights_sha256 FROM model ORDER BY model_id"
    )
    snapshot.connection.close()
    if not found:
        msg = (
            f"{layout.root} holds no model to embed texts with; "
            f"`lensbase ingest {layout.root} IMAGES --model MODEL` brings one."
        )
        raise UnknownRun(msg)
    return found


def _load(model: Mapping[str, Any]) -> LoadedModel:
    if model["source"] == "module":
        msg = "it was ingested from a module in memory, which no store can load again"
        raise WeightsNotFound(msg)
    from ..ingest.models import load_model

    loaded = load_model(model["name"], pretrained=model["pretrained"])
    if loaded.info.weights_sha256 != model["weights_sha256"]:
        msg = (
            f"the weights found are {loaded.info.weights_sha256[:12]}, "
            f"those of the store {model['weights_sha256'][:12]}"
        )
        raise WeightsNotFound(msg)
    return loaded


def _publish(layout: Layout, pool: TextPool, embedded: Sequence[int]) -> None:
    from ..ingest.finalize import find_texts
    from ..ingest.pools import record
    from ..schema.tables import Model, Run

    with publishing(layout) as draft:
        session = draft.session
        models = [session.get_one(Model, number) for number in embedded]
        known = record(draft, pool, kind="texts", models=models)
        for run in session.query(Run).filter(Run.model_id.in_(embedded)).order_by(Run.run_id):
            run.default_pool = run.default_pool or pool.name
            if run.status == "complete":
                find_texts(draft, layout, run, pool=known)


def _title(model: Mapping[str, Any]) -> str:
    return f"{model['name']} {model['pretrained']}" if model["pretrained"] else model["name"]
