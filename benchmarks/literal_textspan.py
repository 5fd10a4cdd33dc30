"""TEXTSPAN as Algorithm 1 of the thesis prints it: contributions and texts, and nothing known.

What `lensbase.queries.textspan` is compared with. Every step takes R C^T of all texts and all
images again, and the variance of each of its rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating[Any]]

_TEXTS = 256  # rows of R C^T at a time, so that it fits into memory and cache


@dataclass(frozen=True)
class Literal:
    """What Algorithm 1 picked, and how long it took to prepare and for each of its steps."""

    picks: list[int]
    prepared: float
    steps: list[float]

    def seconds(self, m: int) -> float:
        """How long `m` steps take: all of them do the same work."""
        return self.prepared + m * sum(self.steps) / len(self.steps)


def algorithm_1(contributions: Numbers, texts: Numbers, m: int, *, span: Numbers) -> Literal:
    """Pick `m` texts for contributions C [K, E] out of R [M, E]; C is centered, as in T2.7.

    `span` [n, E] are rows that span what the head can write to: texts are first projected onto
    that space. Computes in the type of `contributions`, which are overwritten.
    """
    start = time.perf_counter()
    c = contributions
    c -= c.mean(0)
    explained = np.zeros_like(c)
    r = _projected(texts, span).astype(c.dtype)
    picks: list[int] = []
    prepared, steps = time.perf_counter() - start, list[float]()
    for _ in range(m):
        start = time.perf_counter()
        j = int(np.argmax(_variances(r, c)))
        picks.append(j)
        pick = r[j].copy()
        squared = pick @ pick
        part = np.outer(c @ pick / squared, pick)
        explained += part
        c -= part
        r -= np.outer(r @ pick / squared, pick)
        steps.append(time.perf_counter() - start)
    return Literal(picks, prepared, steps)


def _projected(texts: Numbers, span: Numbers) -> Numbers:
    rows = np.asarray(span, np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    _, singular, right = np.linalg.svd(rows, full_matrices=False)
    right = right[singular > 1e-12]
    return np.asarray(texts, np.float64) @ right.T @ right


def _variances(r: Numbers, c: Numbers) -> Numbers:
    """The variance over images of every row of D = R C^T."""
    found = np.empty(len(r), r.dtype)
    for start in range(0, len(r), _TEXTS):
        found[start : start + _TEXTS] = (r[start : start + _TEXTS] @ c.T).var(axis=1)
    return found
