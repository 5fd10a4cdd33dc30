"""How close images are to others: PSNR, SSIM and LPIPS, by torchmetrics (thesis Table 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...schema.errors import WeightsNotFound
from ...schema.zoo_errors import BadTarget

if TYPE_CHECKING:
    from torch import nn

Images = Tensor | npt.NDArray[Any]
Scores = npt.NDArray[np.float32]
Network = Literal["alex", "vgg", "squeeze"]

_SSIM_WINDOW = 11


def psnr(images: Images, others: Images) -> Scores:
    """Peak signal-to-noise ratio [n] in dB: 10 log10(1 / mean squared difference), range 1.

    Images are uint8 [n, H, W, 3], or floats [n, 3, H, W] in [0, 1]; equal ones give infinity.
    Raises `BadTarget` where shapes or ranges are others.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    first, second = _two(images, others)
    found = peak_signal_noise_ratio(first, second, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return found.cpu().numpy()


def ssim(images: Images, others: Images) -> Scores:
    """Structural similarity [n]: a Gaussian window of 11 pixels, sigma 1.5, range 1.

    Images as in `psnr`. Raises `BadTarget`, also for images smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    first, second = _two(images, others)
    if min(first.shape[2:]) < _SSIM_WINDOW:
        msg = (
            f"images of {first.shape[2]} x {first.shape[3]} pixels have no SSIM; its window takes "
            f"{_SSIM_WINDOW} x {_SSIM_WINDOW}."
        )
        raise BadTarget(msg)
    found = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    return cast(Tensor, found).reshape(-1).cpu().numpy()


def lpips(images: Images, others: Images, *, network: Network = "alex") -> Scores:
    """Learned perceptual distance [n] (LPIPS); its network's weights come by torchvision.

    Images as in `psnr`. Raises `BadTarget`, and `WeightsNotFound` where the weights are neither on
    disk nor to be downloaded.
    """
    first, second = _two(images, others)
    with torch.no_grad():
        found = lpips_network(network)(first.float(), second.float(), normalize=True)
    return found.reshape(-1).cpu().numpy()


def lpips_network(network: Network = "alex") -> nn.Module:
    """The network of LPIPS: called with images in [0, 1] and `normalize=True`, differentiable.

    Raises `WeightsNotFound`, with what to do.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        made = LearnedPerceptualImagePatchSimilarity(network)
    except (OSError, RuntimeError, ModuleNotFoundError) as error:
        folder = f"{torch.hub.get_dir()}/checkpoints"
        msg = (
            f"LPIPS needs the weights of torchvision's {network!r} network, which are not in "
            f"{folder} and could not be downloaded ({error}); put their file there, or ask for "
            "loss='perceptual', which compares a discriminative model's own maps."
        )
        raise WeightsNotFound(msg) from error
    return made.net.eval().requires_grad_(False)


def to_tensor(values: Images) -> Tensor:
    """Values as a tensor that shares no memory with an array (which may be read-only)."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def unit_images(images: Images) -> Tensor:
    """Images as floats [n, 3, H, W] in [0, 1], from uint8 [n, H, W, 3] or from floats as they are.

    Raises `BadTarget` for other shapes, types or ranges, and for values that are no numbers.
    """
    given = to_tensor(images)
    if given.dtype == torch.uint8 and given.ndim == 4 and given.shape[3] == 3:
        return given.permute(0, 3, 1, 2).float() / 255
    if not given.is_floating_point() or given.ndim != 4 or given.shape[1] != 3:
        msg = (
            f"images of shape {tuple(given.shape)} and type {given.dtype} are neither uint8 [n, H, "
            "W, 3] nor floats [n, 3, H, W] in [0, 1]."
        )
        raise BadTarget(msg)
    if not len(given) or not bool(((given >= 0) & (given <= 1)).all()):
        msg = "images as floats must hold values from 0 to 1 alone, and at least one image."
        raise BadTarget(msg)
    return given.detach()


def _two(images: Images, others: Images) -> tuple[Tensor, Tensor]:
    first, second = unit_images(images), unit_images(others)
    if first.shape != second.shape:
        sizes = " and ".join(
            f"{len(one)} of {one.shape[2]} x {one.shape[3]}" for one in (first, second)
        )
        msg = f"images must be as many and of the same size to be compared, not {sizes}."
        raise BadTarget(msg)
    return first, second.to(first)
