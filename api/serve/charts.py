"""Counts as bars, to be drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field


class Bar(BaseModel):
    """How many values lie from `low` to `high`; `height` is what is drawn of 1."""

    low: float
    high: float
    count: int
    height: float


class Histogram(BaseModel):
    """Counts of values in steps of equal width."""

    bars: list[Bar]
    total: int
    limit: float | None = Field(default=None, description="Where a threshold stands, from 0 to 1.")
    logarithmic: bool = Field(
        default=False, description="Whether heights are logarithms of counts."
    )


def histogram(
    values: npt.NDArray[Any],
    *,
    steps: int = 40,
    threshold: float | None = None,
    logarithmic: bool = False,
) -> Histogram:
    """Count finite values; `logarithmic` draws log(1 + count), for long tails."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return Histogram(bars=[], total=0)
    counts, edges = np.histogram(finite, bins=steps)
    drawn = np.log1p(counts) if logarithmic else counts
    bars = [
        Bar(low=low, high=high, count=count, height=height)
        for low, high, count, height in zip(
            edges[:-1].tolist(),
            edges[1:].tolist(),
            counts.tolist(),
            (drawn / drawn.max()).tolist(),
            strict=True,
        )
    ]
    width = float(edges[-1] - edges[0])
    limit = None if threshold is None else (threshold - float(edges[0])) / width
    inside = limit is not None and 0 <= limit <= 1
    return Histogram(
        bars=bars, total=finite.size, limit=limit if inside else None, logarithmic=logarithmic
    )
