"""Adding text pools to a store: each of its models embeds the texts once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schema.catalog import publishing
from ..schema.errors import BadPool, LensbaseError, UnknownRun, WeightsNotFound
from ..schema.layout import Layout
from ..schema.snapshot import open_snapshot

if TYPE_CHECKING:
    from ..ingest.models import LoadedModel
    from ..ingest.pools import TextPool


@dataclass(frozen=True)
class PoolAdded:
    """A pool's name, how many texts it has, and the models that embedded it.

    `skipped` says of each of the store's other models why it could not; `published` is false where
    the store had all of it already.
    """

    name: str
    texts: int
    models: list[str]
    skipped: dict[str, str]
    published: bool = True


def add_pool(
    store: str | os.PathLike[str],
    texts: str | os.PathLike[str] | Sequence[str] | None = None,
    *,
    name: str,
    words: int | None = None,
    random: int | None = None,
    seed: int = 0,
) -> PoolAdded:
    """Embed texts with every model of a store and publish them as a pool.

    `texts` is a UTF-8 file, one text a line, or a list of texts; `words=10000` takes that many of
    the most frequent English words instead (package wordfreq), and `random=3498` that many
    standard normal vectors from `seed`, called "vector 0" and so on, which need no model (the
    thesis' two baselines; its appendix A). Models that came as modules cannot be loaded again and
    are passed over. The pool becomes the default of runs that have none, unless it is random, and
    complete runs get their heads' TEXTSPAN over it. The same call again publishes nothing. Raises
    `BadPool` for texts that are none or where the name stands for others, `BadName`, `UnknownRun`
    for a store without models, `WeightsNotFound` where no model can be loaded, and ImportError
    without `lensbase[ingest]`.
    """
    from ..ingest.pools import VectorPool, check_free, commit_vectors, embed

    layout = Layout(Path(store))
    models = _models(layout)
    pool = _pool(texts, name=name, words=words, random=random, seed=seed)
    check_free(layout, pool)
    skipped: dict[str, str] = {}
    embedded: list[int] = []
    for model in models:
        if isinstance(pool, VectorPool):
            draw = partial(pool.draw, model["embed_dim"])
            commit_vectors(layout, pool, model["weights_sha256"], make=draw)
        else:
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
    published = not _is_published(layout, pool, embedded)
    if published:
        _publish(layout, pool, embedded)
    names = [_title(model) for model in models if model["model_id"] in embedded]
    return PoolAdded(pool.name, len(pool.texts), names, skipped, published)


def _pool(
    texts: str | os.PathLike[str] | Sequence[str] | None,
    *,
    name: str,
    words: int | None,
    random: int | None,
    seed: int,
) -> TextPool:
    from ..ingest.pools import TextPool, random_pool, read_pool, word_pool

    if sum(one is not None for one in (texts, words, random)) != 1:
        msg = (
            f"what is in pool {name!r}? Give one of: texts (a file, one a line, or a list), a "
            "number of words, or a number of random vectors: "
            f"`lensbase pool add STORE FILE --name {name}`, or --words or --random for FILE."
        )
        raise BadPool(msg)
    if words is not None:
        return word_pool(words, name=name)
    if random is not None:
        return random_pool(random, name=name, seed=seed)
    if isinstance(texts, str | os.PathLike):
        return read_pool(Path(texts), name=name)
    return TextPool(name, tuple(texts or ()))


def _models(layout: Layout) -> list[dict[str, Any]]:
    snapshot = open_snapshot(layout.root)
    found = snapshot.rows(
        "SELECT model_id, name, source, pretrained, weights_sha256, embed_dim "
        "FROM model ORDER BY model_id"
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


def _is_published(layout: Layout, pool: TextPool, embedded: Sequence[int]) -> bool:
    """Whether `_publish` would change nothing."""
    from ..ingest.pools import VectorPool

    snapshot = open_snapshot(layout.root)
    try:
        rows = snapshot.rows(
            """SELECT m.model_id, r.default_pool IS NOT NULL AS has_default,
                      r.status = 'complete' AND r.head_layers <> '[]' AND NOT EXISTS (
                          SELECT 1 FROM head_text t
                          WHERE t.run_id = r.run_id AND t.pool_id = p.pool_id) AS lacks_texts
               FROM pool p JOIN pool_model m USING (pool_id) LEFT JOIN run r USING (model_id)
               WHERE p.name = ? AND m.model_id IN (SELECT unnest(?::INTEGER[]))""",
            [pool.name, list(embedded)],
        )
    finally:
        snapshot.connection.close()
    needs_default = not isinstance(pool, VectorPool)
    return {row["model_id"] for row in rows} == set(embedded) and not any(
        row["lacks_texts"] or (needs_default and row["has_default"] is False) for row in rows
    )


def _publish(layout: Layout, pool: TextPool, embedded: Sequence[int]) -> None:
    from ..ingest.finalize import find_texts
    from ..ingest.pools import VectorPool, record
    from ..schema.tables import Model, Run

    with publishing(layout) as draft:
        session = draft.session
        models = [session.get_one(Model, number) for number in embedded]
        known = record(draft, pool, kind=pool.kind, models=models)
        for run in session.query(Run).filter(Run.model_id.in_(embedded)).order_by(Run.run_id):
            if not isinstance(pool, VectorPool):
                run.default_pool = run.default_pool or pool.name
            if run.status == "complete":
                find_texts(draft, layout, run, pool=known)


def _title(model: Mapping[str, Any]) -> str:
    return f"{model['name']} {model['pretrained']}" if model["pretrained"] else model["name"]
