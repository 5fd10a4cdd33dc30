"""The segmentation protocol's parts by loops in float64."""

from __future__ import annotations

import math

import numpy as np


def literal_upsample(grid: np.ndarray, size: int) -> np.ndarray:
    """Bilinear, pixel centers at half integers, borders clamped."""
    side = len(grid)
    out = np.zeros((size, size))
    for y in range(size):
        for x in range(size):
            v = min(max((y + 0.5) * side / size - 0.5, 0), side - 1)
            u = min(max((x + 0.5) * side / size - 0.5, 0), side - 1)
            top, left = math.floor(v), math.floor(u)
            below, right = min(top + 1, side - 1), min(left + 1, side - 1)
            b, a = v - top, u - left
            out[y, x] = (1 - b) * ((1 - a) * grid[top, left] + a * grid[top, right])
            out[y, x] += b * ((1 - a) * grid[below, left] + a * grid[below, right])
    return out


def literal_precision(positive: list[bool], scores: list[float]) -> float:
    """Sum over thresholds of precision times the gain in recall; equal scores are one threshold."""
    ranked = sorted(zip(scores, positive, strict=True), key=lambda pair: -pair[0])
    total = right = taken = 0
    area = 0.0
    total = sum(positive)
    while taken < len(ranked):
        threshold, before = ranked[taken][0], right
        while taken < len(ranked) and ranked[taken][0] == threshold:
            right += ranked[taken][1]
            taken += 1
        area += (right / taken) * (right - before) / total
    return area
