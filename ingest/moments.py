"""Sums over images, made before anything is rounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor


@torch.inference_mode()
def head_moments(head_value: Tensor, scale: Tensor) -> npt.NDArray[np.float64]:
    """Sum g g^T over images, with g = [w f, 1] and f = [u/sigma, mu/sigma, 1/sigma, 1].

    Takes u [K, Lh, H, e] and scale [K, 4] = mu, sigma, ||M||, residual as the forward pass gives
    them, before any rounding; gives [2, Lh, H, e+4, e+4]: w = 1, then w = 1/||M||. Products and
    sums are float64; rejected images (NaN rows) are skipped, so [..., -1, -1] counts the images
    used (docs/mathematics.md).
    """
    device = "cpu" if head_value.device.type == "mps" else head_value.device
    valid = scale.isfinite().all(1) & head_value.isfinite().flatten(1).all(1)
    u = head_value[valid].to(device, torch.float64)
    mu, sigma, norm = scale[valid, :3].to(device, torch.float64).unbind(1)
    count, layers, heads, width = u.shape
    factors = u.new_ones((layers, heads, count, width + 4))
    factors[..., :width] = (u / sigma[:, None, None, None]).permute(1, 2, 0, 3)
    factors[..., width] = mu / sigma
    factors[..., width + 1] = 1 / sigma
    plain = factors.transpose(2, 3) @ factors
    factors[..., : width + 3] /= norm[:, None]
    return torch.stack((plain, factors.transpose(2, 3) @ factors)).cpu().numpy()


@torch.inference_mode()
def layer_totals(layer: Tensor, cls_token: Tensor) -> npt.NDArray[np.float64]:
    """Sum the terms [K, 2L+1, E] and the class token's part [K, E] over images, in float64.

    Gives [2L+2, E], the class token's last; rejected images (NaN rows) are skipped.
    """
    valid = layer.isfinite().flatten(1).all(1)
    terms = torch.cat((layer, cls_token[:, None]), dim=1)[valid].cpu()
    return terms.sum(0, dtype=torch.float64).numpy()
