"""Orthogonal matching pursuit of one target from its formulas, and pools and targets for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lensbase.queries.sparse_text import SparseCodes

Numbers = npt.NDArray[np.floating[Any]]
F64 = npt.NDArray[np.float64]


def unit(rows: Numbers) -> F64:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_atoms(seed: int, count: int, width: int, *, cone: float = 1.0) -> F64:
    """Unit atoms with a strong common direction and a decaying spectrum, as CLIP's texts have."""
    rng = np.random.default_rng(seed)
    spectrum = np.geomspace(1, 0.1, width)
    return unit((rng.normal(size=(count, width)) + cone * rng.normal(size=width)) * spectrum)


def make_targets(seed: int, count: int, width: int) -> F64:
    rng = np.random.default_rng([seed, 1])
    return unit(rng.normal(size=(count, width)) * np.geomspace(1, 0.1, width))


def dense(codes: SparseCodes, size: int) -> F64:
    """Coefficients [n, M] of the whole pool."""
    out = np.zeros((len(codes.picks), size))
    for row, picks, values, count in zip(
        out, codes.picks, codes.coefficients, codes.counts, strict=True
    ):
        row[picks[:count]] = values[:count]
    return out


def reconstructed(codes: SparseCodes, atoms: Numbers) -> F64:
    """The targets as their texts give them, `sum_j gamma_j t_j`: [n, E]."""
    return dense(codes, len(atoms)) @ np.asarray(atoms, np.float64)


def literal(target: F64, atoms: F64, m: int) -> tuple[list[int], list[F64]]:
    """One target's pursuit from its formulas: picks, and the coefficients after each of them."""
    picks: list[int] = []
    path: list[F64] = []
    left = target
    for _ in range(m):
        products = np.abs(atoms @ left)
        j = int(np.argmax(products >= products.max() - 1e-12 * np.linalg.norm(left)))
        if products[j] <= 1.5e-8 * np.linalg.norm(target):
            break
        picks.append(j)
        fit, *_ = np.linalg.lstsq(atoms[picks].T, target, rcond=None)
        path.append(np.asarray(fit, np.float64))
        left = target - path[-1] @ atoms[picks]
    return picks, path
