"""Sparse codes in texts (T3.4): orthogonal matching pursuit of many targets at once.

A target y, such as a neuron's direction, becomes `sum_j gamma_j t_j` of at most m texts of a pool.
Every step adds the text of largest `|<r, t>|`, r being what is left of y, and fits all coefficients
anew by least squares. The residuals of many targets meet the pool in one product a step, and the
texts picked for a target are kept as an orthonormal basis, so the pool's Gram matrix, 7 GB of
float64 for 30,000 texts, is never formed. See `docs/mathematics.md`, "Sparse texts".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_EPSILON = float(np.finfo(np.float64).eps)
_HALF_UNIT = float(np.finfo(np.float32).eps) / 2
# Where scikit-learn stops: the residual's largest product with an atom, for targets of unit length.
_VANISHED = _EPSILON**0.5
# Below this, of the target's length, a residual is rounding whatever tolerance is asked for.
_ROUNDING = 1e-14
# Products in float64 that agree this well, relative to the residual's length, are a tie.
_TIE = 1e-12
# How far from 1 the length of an atom may be: embeddings kept as float16 are off by 1e-4.
_UNIT = 1e-3
# Targets in one product: more make it no faster, and the bases fall out of the cache.
_TARGETS = 256
_ROWS = 4096  # of the pool, at a time in float64


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Texts and coefficients of n targets, in the order in which they were picked.

    `picks` [n, m] are rows of the pool, `coefficients` [n, m] belong to them; `counts` [n] of them
    are real and the rest is -1 and 0: a target stops before m once no text is left that adds to it.
    `residual` [n, m] is the length of what the first 1, 2, ..., m texts leave and `cosine` [n, m]
    the cosine between target and reconstruction; past a target's count both stay what they were.
    `along` [n, m] and `triangle` [n, m, m] are the least-squares problem, `triangle @ coefficients
    = along`, whose leading corners are those of fewer texts; `triangle` is None unless asked for.
    """

    picks: I64
    coefficients: F64
    counts: I64
    residual: F64
    cosine: F64
    along: F64
    triangle: F64 | None

    def prefix(self, m: int) -> SparseCodes:
        """The codes of the first `m` texts, coefficients fitted to these alone: those of a run
        that stops at `m`.

        Raises `ValueError` for an `m` that was not computed or where no triangle was kept.
        """
        if not 1 <= m <= self.picks.shape[1]:
            msg = f"These codes have 1 to {self.picks.shape[1]} texts, not m = {m}; ask for more."
            raise ValueError(msg)
        if self.triangle is None:
            msg = "No triangle was kept to fit fewer texts; call sparse_codes with path=True."
            raise ValueError(msg)
        triangle, along = self.triangle[:, :m, :m], self.along[:, :m]
        return replace(
            self,
            picks=self.picks[:, :m],
            coefficients=_solved(triangle, along),
            counts=np.minimum(self.counts, m),
            residual=self.residual[:, :m],
            cosine=self.cosine[:, :m],
            along=along,
            triangle=triangle,
        )


def sparse_codes(
    targets: Numbers,
    atoms: Numbers,
    *,
    m: int,
    tolerance: float = _VANISHED,
    path: bool = True,
    memory: int = 1 << 30,
    progress: Callable[[int, int], None] | None = None,
) -> SparseCodes:
    """Orthogonal matching pursuit of `targets` [n, E] in `atoms` [M, E] of unit length (T3.4).

    Picks and coefficients are those of scikit-learn's `orthogonal_mp_gram` on the same atoms in
    float64: the one product in float32 only narrows the choice, and atoms within its largest
    possible error of the leader are compared in float64. Ties go to the first text. A target stops
    where the residual's largest `|<r, t>|` is at most `tolerance` of the target's length, or its
    atom is a combination of those picked. `path` keeps the triangle that `SparseCodes.prefix`
    needs, 8 m^2 bytes a target. `memory` bounds the bytes used beside arguments and results.
    `progress` is told targets done and in all.

    Raises `ValueError` for targets and atoms of different widths, atoms that are not of unit
    length, NaN or infinity, no atoms, an `m` below 1, a negative tolerance or too little memory.
    """
    _check(targets, atoms, m=m, tolerance=tolerance)
    count = len(targets)
    steps = min(m, *atoms.shape)
    block = _block(atoms, steps, memory=memory)
    pool = _Pool.of(atoms)
    picks = np.full((count, m), -1, dtype=np.int64)
    counts = np.zeros(count, dtype=np.int64)
    coefficients, residual = np.zeros((count, m)), np.zeros((count, m))
    cosine, along = np.zeros((count, m)), np.zeros((count, m))
    triangle = np.zeros((count, m, m)) if path else None
    if progress is not None:
        progress(0, count)
    for start in range(0, count, block):
        part = slice(start, start + block)
        given = np.asarray(targets[part], dtype=np.float64)
        length = _lengths(given)
        scaled = given / np.where(length > 0, length, 1)[:, None]
        found = _pursue(scaled, pool, steps, max(tolerance, _ROUNDING))
        picks[part, :steps] = found.picks
        counts[part] = (found.picks >= 0).sum(axis=1)
        coefficients[part, :steps] = _solved(found.triangle, found.along) * length[:, None]
        along[part, :steps] = found.along * length[:, None]
        residual[part, :steps] = found.residual * length[:, None]
        cosine[part, :steps] = np.minimum(np.sqrt(np.cumsum(found.along**2, axis=1)), 1)
        residual[part, steps:] = residual[part, steps - 1 : steps]
        cosine[part, steps:] = cosine[part, steps - 1 : steps]
        if triangle is not None:
            triangle[part, :steps, :steps] = found.triangle
            triangle[part, range(steps, m), range(steps, m)] = 1
        if progress is not None:
            progress(min(start + block, count), count)
    return SparseCodes(picks, coefficients, counts, residual, cosine, along, triangle)


def centered_atoms(atoms: Numbers) -> F64:
    """Atoms [M, E] less the pool's mean and of unit length again.

    Raises `ValueError` where an atom is the mean, to rounding, and so has no direction left.
    """
    pool = np.asarray(atoms, dtype=np.float64)
    centered = pool - pool.mean(axis=0)
    length = _lengths(centered)
    # What rounding of the mean and of float32 embeddings leaves is no direction.
    nothing = np.flatnonzero(length <= 4 * _HALF_UNIT * _lengths(pool))
    if nothing.size:
        msg = (
            f"Text {nothing[0]} of the pool is the pool's mean, and nothing of it is left without "
            "that; leave it out, or do not center."
        )
        raise ValueError(msg)
    return centered / length[:, None]


class _Pool(NamedTuple):
    """Atoms [M, E] as given, which decide, and in float32, which narrow the choice."""

    given: Numbers
    rounded: F32
    slack: float  # by how much rounded products of a unit residual can be out of order

    @classmethod
    def of(cls, atoms: Numbers) -> _Pool:
        # Rounding both factors and adding E products: at most E + 2 half units of the factors'
        # lengths, however the sum is ordered. The leader can be too high and another too low.
        error = (atoms.shape[1] + 2) * _HALF_UNIT * (1 + 2 * _UNIT)
        return cls(atoms, np.asarray(atoms, dtype=np.float32), 2 * error)

    def rows(self, which: I64) -> F64:
        return np.asarray(self.given[which], dtype=np.float64)


class _Found(NamedTuple):
    """A block's pursuit, with targets of length 1."""

    picks: I64  # [B, m]
    along: F64  # [B, m]
    residual: F64  # [B, m]
    triangle: F64  # [B, m, m], with a diagonal of 1 past a target's count


def _pursue(targets: F64, pool: _Pool, m: int, tolerance: float) -> _Found:
    """The pursuit of one block of targets [B, E], each of length 1 or 0."""
    count, width = targets.shape
    picks = np.full((count, m), -1, dtype=np.int64)
    along = np.zeros((count, m))
    residual = np.zeros((count, m))
    triangle = np.zeros((count, m, m))
    frames = np.empty((count, m, width))
    scores = np.empty((count, len(pool.given)), dtype=np.float32)
    left = targets.copy()
    length = _lengths(left)
    alive = np.flatnonzero(length)
    for step in range(m):
        chosen, value = _best(left[alive], length[alive], pool, scores[: len(alive)])
        real = value > tolerance
        alive, chosen = alive[real], chosen[real]
        kept = np.ones(len(alive), dtype=np.bool_)
        for i, (target, atom) in enumerate(zip(alive, pool.rows(chosen), strict=True)):
            frame = frames[target]
            shares, rest = _orthogonal(frame[:step], atom)
            if rest <= _VANISHED:
                kept[i] = False
                continue
            triangle[target, :step, step] = shares
            triangle[target, step, step] = rest
            frame[step] = atom
            product = atom @ left[target]
            along[target, step] = product
            left[target] -= product * atom
        alive, chosen = alive[kept], chosen[kept]
        picks[alive, step] = chosen
        length[alive] = _lengths(left[alive])
        residual[:, step] = length
        if not alive.size:
            residual[:, step:] = length[:, None]
            break
    ended = picks < 0
    triangle[:, np.arange(m), np.arange(m)] += ended
    return _Found(picks, along, residual, triangle)


def _best(left: F64, length: F64, pool: _Pool, scores: F32) -> tuple[I64, F64]:
    """The atom of largest |<r, t>| for each residual [B, E] and that product, first on ties."""
    # BLAS kernels read past the end of short rows, and what they meet there may set the flag.
    with np.errstate(invalid="ignore"):
        np.matmul(left.astype(np.float32), pool.rounded.T, out=scores)
    np.abs(scores, out=scores)
    every = np.arange(len(scores))
    leader = scores.argmax(axis=1)
    lowest = scores[every, leader] - pool.slack * length
    chosen = leader.astype(np.int64)
    value = np.abs(np.einsum("be,be->b", left, pool.rows(chosen)))
    # Most leaders are alone: their runner-up tells.
    scores[every, leader] = -1
    contested = np.flatnonzero(scores.max(axis=1) >= lowest)
    for target in contested:
        scores[target, leader[target]] = np.inf
        near = np.flatnonzero(scores[target] >= lowest[target])
        exact = np.concatenate(
            [
                np.abs(pool.rows(near[start : start + _ROWS]) @ left[target])
                for start in range(0, len(near), _ROWS)
            ]
        )
        first = int(np.argmax(exact >= exact.max() - _TIE * length[target]))
        chosen[target], value[target] = near[first], exact[first]
    return chosen, value


def refitted(targets: Numbers, atoms: Numbers, picks: I64) -> F64:
    """Coefficients [n, m] of `targets` [n, E] in atoms picked before (-1: none), by least squares.

    With the first m picks of a longer pursuit they are those of one that stops at m. Picks as
    `sparse_codes` makes them: each adds to those before it.
    """
    out = np.zeros(picks.shape)
    for start in range(0, len(picks), _TARGETS):
        part = slice(start, start + _TARGETS)
        real = picks[part] >= 0
        rows = np.where(real[..., None], np.asarray(atoms[picks[part]], np.float64), 0)
        # An orthonormal frame first: normal equations would square the condition.
        frame, triangle = np.linalg.qr(rows.transpose(0, 2, 1))
        triangle += np.eye(picks.shape[1]) * ~real[:, None]
        along = np.einsum("nem,ne->nm", frame, np.asarray(targets[part], np.float64))
        out[part] = np.where(real, _solved(triangle, np.where(real, along, 0)), 0)
    return out


def _orthogonal(frame: F64, atom: F64) -> tuple[F64, float]:
    """Take an orthonormal frame [k, E] out of `atom`, in place, and bring what is left to length 1.

    Gives the shares [k] of the frame in it and the length of what was left, as shares of one.
    """
    shares = np.zeros(len(frame))
    # Once leaves an error of the rounding unit over what is left; twice is enough.
    for _ in range(2):
        more = frame @ atom
        atom -= more @ frame
        shares += more
    rest = float(np.linalg.norm(atom))
    if rest > 0:
        atom /= rest
    return shares, rest


def _solved(triangle: F64, along: F64) -> F64:
    """Coefficients [B, m] of `triangle @ coefficients = along`.

    An upper triangle needs no elimination, so the general solver only substitutes back.
    """
    return np.asarray(np.linalg.solve(triangle, along[..., None])[..., 0], dtype=np.float64)


def _lengths(rows: Numbers) -> F64:
    return np.sqrt(np.einsum("ne,ne->n", rows, rows, dtype=np.float64))


def _block(atoms: Numbers, m: int, *, memory: int) -> int:
    """Targets in one product, so that everything beside arguments and results fits `memory`."""
    count, width = atoms.shape
    shared = 0 if atoms.dtype == np.float32 else 4 * atoms.size
    shared += 2 * 8 * min(_ROWS, count) * width
    # Scores and their comparison, the frame, triangle and its copy to solve, and rows of E.
    each = 6 * count + 8 * m * width + 3 * 8 * m * m + 8 * 8 * width
    block = (memory - shared) // each
    if block < 1:
        msg = (
            f"{memory} bytes are too few for a pursuit in {count} atoms of width {width} with "
            f"m = {m}; give at least memory={shared + each}."
        )
        raise ValueError(msg)
    return min(block, _TARGETS)


def _check(targets: Numbers, atoms: Numbers, *, m: int, tolerance: float) -> None:
    if m < 1:
        msg = f"m = {m} texts cannot be picked; ask for 1 or more."
        raise ValueError(msg)
    if not tolerance >= 0:
        msg = f"A tolerance of {tolerance} is none; give 0 or more."
        raise ValueError(msg)
    if atoms.ndim != 2 or not len(atoms):
        msg = f"A pool of shape {atoms.shape} holds no atoms; give [M, E] with a row for each text."
        raise ValueError(msg)
    if targets.ndim != 2 or targets.shape[1] != atoms.shape[1]:
        msg = (
            f"Targets of shape {targets.shape} cannot be made of atoms of width {atoms.shape[1]}; "
            "embed the pool with the run's own model."
        )
        raise ValueError(msg)
    for name, rows in (("targets", targets), ("pool's embeddings", atoms)):
        bad = np.flatnonzero(~np.isfinite(_lengths(rows)))
        if bad.size:
            msg = f"The {name} hold NaN or infinity, first in row {bad[0]}; compute them again."
            raise ValueError(msg)
    length = _lengths(atoms)
    wrong = np.flatnonzero(np.abs(length - 1) > _UNIT)
    if wrong.size:
        msg = (
            f"{wrong.size} of {len(atoms)} atoms are not of unit length; the first is row "
            f"{wrong[0]}, of length {length[wrong[0]]:.4g}. Divide each atom by its length."
        )
        raise ValueError(msg)
