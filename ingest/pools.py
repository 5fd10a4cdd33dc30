"""Text pools: named lists of texts, embedded once by each model that uses them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from ..schema import durable, manifest
from ..schema.arrays import write_static
from ..schema.catalog import Draft, publish_lock
from ..schema.components import check_name
from ..schema.errors import BadPool, ExtraMissing
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
    kind: ClassVar[str] = "texts"

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


@dataclass(frozen=True)
class WordPool(TextPool):
    """Words of a language."""

    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class VectorPool(TextPool):
    """Random vectors that stand for no text: the thesis' baseline (its appendix A).

    Components are standard normal, as drawn: the lengths are about sqrt(d') and differ by some
    percent. They depend on `seed`, how many they are and d', on nothing else.
    """

    seed: int = 0
    kind: ClassVar[str] = "vectors"

    @property
    def sha256(self) -> str:
        """Hash of what they are drawn from: the names of two draws are the same."""
        facts = f"standard normal, PCG64, seed {self.seed}, {len(self.texts)}"
        return hashlib.sha256(facts.encode()).hexdigest()

    def draw(self, width: int) -> npt.NDArray[np.float32]:
        """The vectors [n, width]."""
        random = np.random.Generator(np.random.PCG64(self.seed))
        return random.standard_normal((len(self.texts), width)).astype(np.float32)


def random_pool(count: int, *, name: str, seed: int = 0) -> VectorPool:
    """A pool of `count` random vectors, called "vector 0" and so on; raises `BadPool`."""
    if count < 1 or seed < 0:
        msg = f"{count} random vectors from seed {seed} make no pool: ask for 1 or more, seed >= 0."
        raise BadPool(msg)
    return VectorPool(name, tuple(f"vector {number}" for number in range(count)), seed)


def word_pool(count: int, *, name: str) -> WordPool:
    """A pool of the `count` most frequent English words, as the package wordfreq ranks them.

    Raises `ExtraMissing` without that package, and `BadPool` for more words than it knows.
    """
    try:
        import wordfreq
    except ImportError as error:
        msg = (
            "the most frequent words come from the package wordfreq, which is not installed: "
            "`pip install lensbase[ingest]` brings it. A file of words works without it."
        )
        raise ExtraMissing(msg) from error
    words = wordfreq.top_n_list("en", count) if count > 0 else []
    if len(words) < count or not words:
        msg = f"{count} words make no pool: ask for 1 to {len(words) or 'some hundred thousand'}."
        raise BadPool(msg)
    return WordPool(name, tuple(words))


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
    return commit_vectors(
        layout, pool, model.info.weights_sha256, make=lambda: model.encode_text(pool.texts)
    )


def commit_vectors(
    layout: Layout,
    pool: TextPool,
    weights_sha256: str,
    *,
    make: Callable[[], npt.NDArray[np.float32]],
) -> npt.NDArray[np.float32]:
    """Commit the vectors [texts, d'] that a pool has in a model's joint space, made if need be.

    Raises `BadPool` where the name stands for other texts.
    """
    check_free(layout, pool)
    path = layout.pool_vectors(pool.name, weights_sha256)
    committed = layout.pool_manifest(pool.name, weights_sha256)
    if committed.exists() and manifest.read_manifest(committed).facts["sha256"] == pool.sha256:
        return read_pool_vectors(layout, pool.name, weights_sha256)
    vectors = make()
    partial = path.with_name(f"{path.name}.{os.getpid()}{durable.PARTIAL}")
    write_static(partial, vectors)
    for file in partial.rglob("*"):
        if file.is_file():
            durable.sync_file(file)
    with publish_lock(layout):
        # Of two parts that embed the same pool at once, the second finds it done.
        if committed.exists():
            shutil.rmtree(partial)
            return read_pool_vectors(layout, pool.name, weights_sha256)
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
