"""Second moments of heads against sums written out."""

from __future__ import annotations

import numpy as np
import torch
from vision_reference import off

from lensbase.ingest.moments import head_moments


def test_moments_are_sums_of_products_without_rejected_images() -> None:
    generator = torch.Generator().manual_seed(3)
    u = torch.randn((7, 2, 3, 4), generator=generator)
    scale = torch.rand((7, 4), generator=generator) + 0.5
    u[2] = torch.nan
    scale[2] = torch.nan
    wanted = np.zeros((2, 2, 3, 8, 8))
    for k in (0, 1, 3, 4, 5, 6):
        mu, sigma, norm = (float(value) for value in scale[k, :3])
        for layer in range(2):
            for head in range(3):
                value = [float(x) / sigma for x in u[k, layer, head]]
                f = np.array([*value, mu / sigma, 1 / sigma, 1.0])
                for which, w in enumerate((1.0, 1 / norm)):
                    g = np.array([*(w * f), 1.0])
                    wanted[which, layer, head] += np.outer(g, g)
    found = head_moments(u, scale)
    assert found.dtype == np.float64
    assert off(found, wanted) < 1e-14
    assert (found[..., -1, -1] == 6).all()


def test_moments_of_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(4)
    u = torch.randn((9, 1, 2, 3), generator=generator)
    scale = torch.rand((9, 4), generator=generator) + 0.5
    parts = head_moments(u[:4], scale[:4]) + head_moments(u[4:], scale[4:])
    assert off(parts, head_moments(u, scale)) < 1e-14
    assert (head_moments(u[:0], scale[:0]) == 0).all()
