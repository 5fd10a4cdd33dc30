"""Text pools: named lists of texts, embedded once by each model that uses them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..schema import durable, manifest
from ..schema.arrays import write_static
from ..schema.catalog import Draft, publish_lock
from ..schema.components import check_name
from ..schema.errors import BadPool
from ..schema.layout import Layout
from ..schema.snapshot import open_snapshot, read_pool_vectors
from ..schema.tables import Model, Pool, PoolModel

if TYPE_CHECKING:
    from .models import LoadedModel


@dataclass(frozen=True)
class TextPool:
    """A pool's name and its texts, in order; duplicates are kept, as in the published lists."""

    name: str
    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise `BadName` or `BadPool` for what cannot be a pool."""
        check_name(self.name, kind="pool")
        if not self.texts:
            msg = f"pool {self.name!r} has no texts; give a file with one text a line."
            raise BadPool(msg)

    @property
    def sha256(self) -> str:
        """Hash of the texts in order."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()


def read_pool(path: Path, *, name: str) -> TextPool:
    """Read a pool from a UTF-8 file, one text a line; empty lines are skipped.

    Raises `BadPool` for a file that is missing, empty or not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read as a text pool ({error}); it takes UTF-8, one text a line."
        raise BadPool(msg) from error
    return TextPool(name, tuple(line.strip() for line in lines if line.strip()))


def check_free(layout: Layout, pool: TextPool) -> None:
    """Raise `BadPool` where the store has a pool of this name with other texts."""
    snapshot = open_snapshot(layout.root)
    try:
        known = snapshot.rows("SELECT sha256, texts FROM pool WHERE name = ?", [pool.name])
    finally:
        snapshot.connection.close()
    if known and known[0]["sha256"] != pool.sha256:
        raise _taken(pool.name, known[0]["texts"])


def embed(layout: Layout, pool: TextPool, model: LoadedModel) -> npt.NDArray[np.float32]:
    """Embed a pool with a model's text tower and commit the vectors [texts, d'], unit length.

    What is already there is read instead. Raises `BadPool` where the name stands for other texts,
    whose vectors lie in the same place.
    """
    check_free(layout, pool)
    path = layout.pool_vectors(pool.name, model.info.weights_sha256)
    committed = layout.pool_manifest(pool.name, model.info.weights_sha256)
    if committed.exists() and manifest.read_manifest(committed).facts["sha256"] == pool.sha256:
        return read_pool_vectors(layout, pool.name, model.info.weights_sha256)
    vectors = model.encode_text(pool.texts)
    partial = path.with_name(f"{path.name}.{os.getpid()}{durable.PARTIAL}")
    write_static(partial, vectors)
    for file in partial.rglob("*"):
        if file.is_file():
            durable.sync_file(file)
    with publish_lock(layout):
        # Of two parts that embed the same pool at once, the second finds it done.
        if committed.exists():
            shutil.rmtree(partial)
            return read_pool_vectors(layout, pool.name, model.info.weights_sha256)
        shutil.rmtree(path, ignore_errors=True)
        partial.replace(path)
        files = [file for file in path.rglob("*") if file.is_file()]
        entries = [manifest.entry(layout.root, file) for file in files]
        manifest.commit(layout, committed, files=entries, facts={"sha256": pool.sha256})
    return vectors


def recorded(layout: Layout, pool: TextPool, *, run_id: int) -> bool:
    """Whether the published catalogue has a pool for a run's model, and a default pool for it."""
    snapshot = open_snapshot(layout.root)
    try:
        found = snapshot.rows(
            """SELECT 1 FROM run r JOIN pool_model m USING (model_id) JOIN pool p USING (pool_id)
               WHERE r.run_id = ? AND p.name = ? AND r.default_pool IS NOT NULL""",
            [run_id, pool.name],
        )
    finally:
        snapshot.connection.close()
    return bool(found)


def record(draft: Draft, pool: TextPool, *, kind: str, models: Sequence[Model]) -> Pool:
    """Write a pool's rows, and which models have embedded it, into a draft.

    Raises `BadPool` where the name already stands for other texts.
    """
    import pyarrow as pa

    known = draft.session.query(Pool).filter_by(name=pool.name).one_or_none()
    if known is None:
        taken = {one.pool_id for one in draft.session.query(Pool)}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        known = Pool(
            pool_id=number, name=pool.name, kind=kind, sha256=pool.sha256, texts=len(pool.texts)
        )
        draft.session.add(known)
        draft.insert(
            "text",
            pa.table(
                {
                    "pool_id": pa.array([number] * len(pool.texts), pa.int32()),
                    "position": pa.array(range(len(pool.texts)), pa.int32()),
                    "text": list(pool.texts),
                }
            ),
        )
    elif known.sha256 != pool.sha256:
        raise _taken(pool.name, known.texts)
    embedded = {
        one.model_id for one in draft.session.query(PoolModel).filter_by(pool_id=known.pool_id)
    }
    for model in models:
        if model.model_id not in embedded:
            draft.session.add(PoolModel(pool_id=known.pool_id, model_id=model.model_id))
    draft.session.flush()
    return known


def _taken(name: str, texts: int) -> BadPool:
    msg = (
        f"the store has a pool {name!r} of {texts} other texts; results refer to it, so it is "
        "never replaced. Add these under another name."
    )
    return BadPool(msg)
