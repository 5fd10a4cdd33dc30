"""Which device runs the model, with how many threads, and how many images at a time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from ..schema.errors import DeviceNotFound
from .free_memory import free_memory
from .neuron_layers import trace_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .models import LoadedModel

_MOST = 256


def choose_device(choice: str) -> str:
    """Resolve `auto`, `cpu`, `cuda`, `cuda:1`, `1` or `mps` to a device of torch.

    Raises `DeviceNotFound` for one that is not here.
    """
    if choice == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    name = f"cuda:{choice}" if choice.isdigit() else choice
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        count = torch.cuda.device_count()
        msg = f"device {choice!r} is not here; there is the cpu, and {count} CUDA devices from 0."
        raise DeviceNotFound(msg) from error
    return str(device)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Threads for the forward pass where none are asked for."""
    return cores()


def default_workers() -> int:
    """Decoding processes where none are asked for: they share the cores with the forward pass."""
    return max(1, min(8, cores() - 1))


def fix_threads(threads: int) -> None:
    """Use that many threads in the forward pass; the number changes the last bits of a sum."""
    torch.set_num_threads(threads)


def neuron_memory(model: LoadedModel) -> int:
    """Bytes that fitting neurons may take where nothing is said: a quarter of what is free."""
    device = next(model.model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 4
    return free_memory() // 4


def free_batch_size(model: LoadedModel, neuron_layers: Sequence[int] = ()) -> int:
    """The largest power of two, at most 256, whose activations fit in a fraction of free memory."""
    info = model.info
    tokens = info.patches + 1
    # An MLP's hidden layer, the residual stream, queries, keys and values, in float32.
    per_image = 4 * tokens * info.width * 12
    if neuron_layers:
        per_image += trace_bytes(model.visual, neuron_layers)
    budget = 256 << 20
    device = next(model.model.parameters()).device
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 4
    size = _MOST
    while size > 8 and size * per_image > budget:
        size //= 2
    return size
