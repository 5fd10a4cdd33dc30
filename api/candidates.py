"""What heads may be explained with: a stored pool, a list of texts, or vectors without texts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.errors import BadQuestion
from .open_run import OpenRun
from .values import Values

Numbers = npt.NDArray[np.floating[Any]]

_SMALLEST, _LARGEST = 1e-60, 1e60

Pool: TypeAlias = str | Sequence[str] | Numbers | Values | None
"""A pool's name, a list of texts, vectors [M, d'] or `Values` of texts; None for the default."""


class Candidates:
    """Texts to pick from, known by a hash; their vectors are read or embedded only when needed.

    `size` is how many they are; `name` and `pool_id` are those of a stored pool, None for anything
    else.
    """

    def __init__(
        self,
        *,
        sha256: str,
        size: int,
        vectors: Callable[[], Numbers],
        texts_at: Callable[[Sequence[int]], list[str]],
        name: str | None = None,
        pool_id: int | None = None,
    ) -> None:
        self.name = name
        self.pool_id = pool_id
        self.sha256 = sha256
        self.size = size
        self._vectors = vectors
        self._texts_at = texts_at
        self._known: dict[int, str] = {}

    def texts_at(self, places: Sequence[int]) -> list[str]:
        """The texts at some places, in that order; those asked for before are remembered."""
        new = sorted(set(places) - self._known.keys())
        if new:
            self._known |= zip(new, self._texts_at(new), strict=True)
        return [self._known[place] for place in places]

    @cached_property
    def vectors(self) -> Numbers:
        """The candidates in the joint space [M, d']; raises `TextNotStored`."""
        return self._vectors()


def candidates_of(run: OpenRun, pool: Pool) -> Candidates:
    """Find out what `pool` stands for.

    Raises `UnknownPool` for a name, and `BadQuestion` for what is neither texts nor vectors of
    the run's width.
    """
    if pool is None or isinstance(pool, str):
        return _stored(run, pool)
    if isinstance(pool, Values):
        return _vectors(run, pool.values, texts=pool.texts)
    given: Any = pool
    if isinstance(given, os.PathLike):
        msg = (
            "pool= takes no file; store its texts once: "
            f"`lensbase pool add {run.layout.root} {given} --name NAME`, then ask with the name."
        )
        raise BadQuestion(msg)
    if hasattr(given, "__array__"):
        array = np.asarray(given)
        if array.ndim == 2 and array.dtype.kind in "fiu":
            return _vectors(run, array, texts=None)
        given = array.tolist()
    listed = list(given) if isinstance(given, Iterable) else [given]
    texts = [text for text in listed if isinstance(text, str)]
    if not texts or len(texts) < len(listed):
        msg = (
            "pool= takes a pool's name, a list of texts, or an array of vectors "
            f"[M, {run.shape.embed_dim}], and at least one of them."
        )
        raise BadQuestion(msg)
    return Candidates(
        sha256=hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        size=len(texts),
        vectors=lambda: run.texts.encode(texts),
        texts_at=lambda places: [texts[place] for place in places],
    )


def _stored(run: OpenRun, name: str | None) -> Candidates:
    known = run.texts.pool(name)
    ((sha256,),) = run.console.rows("SELECT sha256 FROM pool WHERE pool_id = ?", [known.pool_id])
    return Candidates(
        name=known.name,
        pool_id=known.pool_id,
        sha256=sha256,
        size=len(known.vectors),
        vectors=lambda: known.vectors,
        texts_at=lambda places: run.texts.texts_at(known, places),
    )


def _vectors(run: OpenRun, array: npt.NDArray[Any], *, texts: list[str] | None) -> Candidates:
    kept = np.ascontiguousarray(array, np.result_type(array.dtype, np.float32))
    width = run.shape.embed_dim
    fits = kept.ndim == 2 and kept.shape[1] == width and len(kept) > 0
    largest = float(np.abs(kept).max()) if fits else 0.0
    # Beyond these, squares of float64 overflow or vanish.
    if not fits or not _SMALLEST < largest < _LARGEST:
        msg = (
            f"an array of shape {array.shape}, with numbers up to {largest:.3g}, is no pool of "
            f"run {run.name!r}: it takes "
            f"finite vectors [M, {width}], not all of them 0, as clip.encode_text(texts) gives."
        )
        raise BadQuestion(msg)
    facts = json.dumps([kept.dtype.str, kept.shape, texts]).encode()
    return Candidates(
        sha256=hashlib.sha256(facts + kept.tobytes()).hexdigest(),
        size=len(kept),
        vectors=lambda: kept,
        texts_at=lambda places: [
            f"vector {place}" if texts is None else texts[place] for place in places
        ],
    )
