"""Mining as the published scripts do it: layer by layer, interpolated maps formed, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from lensbase.ingest.rosetta.mining import Batches
    from lensbase.ingest.rosetta.units import Member


@torch.no_grad()
def literal_correlations(first: Member, second: Member, batches: Batches) -> Tensor:
    """Pearson's correlation of all units, float64 [N, N'], one pair of layers after the other.

    For each batch and each pair of layers both maps are interpolated to the larger grid and
    multiplied. Unlike the scripts' mean over batches, sums run over all images, so that the matches
    are those of T4.2; each member runs once a batch.
    """
    sizes = [[module.channels for module in member.modules] for member in (first, second)]
    products = torch.zeros((sum(sizes[0]), sum(sizes[1])), dtype=torch.float64)
    layers = [[*one.split(sizes[1], 1)] for one in products.split(sizes[0])]
    moments: dict[tuple[int, int], list[Tensor]] = {}
    for batch in batches.from_image(0):
        maps, others = first.maps(batch), second.maps(batch)
        for i, one in enumerate(maps):
            for j, other in enumerate(others):
                x, y = _at_larger_grid(one, other)
                layers[i][j] += x @ y.T
                found = [x.sum(1), (x * x).sum(1), y.sum(1), (y * y).sum(1)]
                before = moments.get((i, j))
                moments[i, j] = (
                    found if before is None else [a + b for a, b in zip(before, found, strict=True)]
                )
    for (i, j), (sum_x, square_x, sum_y, square_y) in moments.items():
        grids = first.modules[i].grid, second.modules[j].grid
        places = len(batches) * max(grids[0][0], grids[1][0]) * max(grids[0][1], grids[1][1])
        block = layers[i][j]
        block -= torch.outer(sum_x, sum_y) / places
        block /= (square_x - sum_x**2 / places).sqrt()[:, None]
        block /= (square_y - sum_y**2 / places).sqrt()
    return products.nan_to_num_(nan=-2.0)


def literal_neighbors(correlations: Tensor, neighbors: int) -> tuple[Sequence[Tensor], ...]:
    """Correlations and indices of the nearest, both ways."""
    return correlations.topk(neighbors, 1), correlations.topk(neighbors, 0)


def _at_larger_grid(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    target = [max(one.shape[axis], other.shape[axis]) for axis in (2, 3)]
    x, y = (
        F.interpolate(maps.double(), target, mode="bilinear", align_corners=False)
        .transpose(0, 1)
        .flatten(1)
        for maps in (one, other)
    )
    return x, y
