"""Local checkpoints: tensors out of files, and never any code.

Safetensors; torch files through the weights-only loader (NumPy scalars, as training scripts leave
them, are let in); and OpenAI's TorchScript archives, whose tensors are read without running them.
"""

from __future__ import annotations

import codecs
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..schema.errors import CheckpointMismatch, UnsafeCheckpoint

if TYPE_CHECKING:
    import io
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor, nn

_CONTAINERS = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# OpenAI's releases carry these beside the weights; open_clip's own checkpoints do not.
_OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
_NUMBERS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of a file; `openai` where it is one of OpenAI's own releases."""

    tensors: dict[str, Tensor]
    openai: bool


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the state dict in a `.safetensors` or torch file, without wrappers' prefixes.

    A training checkpoint's `state_dict` is taken out of it. Raises UnsafeCheckpoint where the
    file holds objects other than tensors and numbers, CheckpointMismatch where it is damaged or
    holds no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            return _checkpoint(load_file(path), path)
        except SafetensorError as error:
            msg = f"{path} is not a whole safetensors file ({error}); copy it again"
            raise CheckpointMismatch(msg) from error
    try:
        if zipfile.is_zipfile(path) and _is_torchscript(path):
            return Checkpoint(_torchscript_tensors(path), openai=True)
        with torch.serialization.safe_globals(_numpy_scalars()):
            mapped = zipfile.is_zipfile(path)  # only the tensors that are used leave the disk
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)|Unsupported (?:global|class) ([\w.]+)", str(error))
        if found is None and "weights_only" not in str(error).lower():
            raise _damaged(path, error) from error
        what = f" ({found[1] or found[2]})" if found else ""
        msg = (
            f"{path} holds objects that only running its code could rebuild{what}, and lensbase "
            "never does; where you trust the file, save the weights alone: "
            "safetensors.torch.save_model(model, 'weights.safetensors')"
        )
        raise UnsafeCheckpoint(msg) from error
    except (EOFError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
    return _checkpoint(content, path)


def load_into(model: nn.Module, checkpoint: Checkpoint, *, source: str) -> None:
    """Copy a checkpoint's tensors into a model of open_clip's; every one must fit.

    Nothing is resized: weights for another image size belong under another model name. Raises
    CheckpointMismatch, naming the first keys that are missing, left over or of another shape.
    """
    state = cast(
        "dict[str, Tensor]", convert_state_dict(cast("Any", model), dict(checkpoint.tensors))
    )
    if isinstance(model, CustomTextCLIP):
        state = cast("dict[str, Tensor]", convert_to_custom_text_state_dict(state))
    for key in ("logit_scale", "logit_bias"):
        parameter = cast("Tensor | None", getattr(model, key, None))
        if key in state and parameter is not None:
            state[key] = state[key].reshape(parameter.shape)
    state.pop("text.transformer.embeddings.position_ids", None)
    expected = model.state_dict()
    missing = [f"{key} is missing" for key in expected if key not in state]
    extra = [f"{key} is not in the model" for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems := [*shapes, *missing, *extra]:
        listed = "; ".join(problems[:3]) + ("" if len(problems) < 4 else "; ...")
        msg = (
            f"{source} does not fit this model in {len(problems)} of {len(expected)} tensors: "
            f"{listed}. Name the model that it was trained as"
        )
        raise CheckpointMismatch(msg)
    model.load_state_dict(state)


def _damaged(path: Path, error: Exception) -> CheckpointMismatch:
    first = str(error).strip().partition("\n")[0]
    return CheckpointMismatch(f"{path} cannot be read as a checkpoint ({first}); copy it again")


def _checkpoint(content: object, path: Path) -> Checkpoint:
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = cast("Mapping[str, object]", content)[key]
    entries = cast("Mapping[object, object]", content) if isinstance(content, Mapping) else {}
    tensors = {str(k): v for k, v in entries.items() if isinstance(v, torch.Tensor)}
    while prefix := next((p for p in _WRAPPERS if _all_start_with(tensors, p)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if not tensors:
        msg = f"{path} holds no state dict (named tensors, or a dictionary with 'state_dict')"
        raise CheckpointMismatch(msg)
    openai = any(key in entries for key in _OPENAI_KEYS)
    tensors = {key: value for key, value in tensors.items() if key not in _OPENAI_KEYS}
    return Checkpoint(tensors, openai)


def _all_start_with(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(tensors) and all(key.startswith(prefix) for key in tensors)


def _numpy_scalars() -> list[Any]:
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    names = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # NumPy 2 and 1
    return [
        *((scalar, name) for name in names),
        (codecs.encode, "_codecs.encode"),
        np.dtype,
        *(type(np.dtype(number)) for number in _NUMBERS),
    ]


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Read a TorchScript archive's parameters and buffers without loading it as a program."""
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        with archive.open(name) as stream:
            reader = _ModuleReader(cast("io.BufferedReader", stream), archive)
            root: object = reader.load()
    if not isinstance(root, _Attributes):
        msg = f"{path} is a TorchScript archive without a module"
        raise CheckpointMismatch(msg)
    return {
        key: value
        for key, value in root.tensors("").items()
        if key.rpartition(".")[2] not in ("attn_mask", *_OPENAI_KEYS)
    }


class _Attributes:
    """A scripted module as its attributes, whatever class it had."""

    def __init__(self) -> None:
        self.content: dict[str, object] = {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.content = state

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in self.content.items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value
            elif isinstance(value, _Attributes):
                found |= value.tensors(f"{prefix}{name}.")
        return found


class _ModuleReader(pickle.Unpickler):
    """Builds tensors and attribute dictionaries; any other name in the stream is refused."""

    def __init__(self, stream: io.BufferedReader, archive: zipfile.ZipFile) -> None:
        super().__init__(stream)
        self._archive = archive
        self._prefix = str(stream.name).removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., object]:
        if module_name == "__torch__" or module_name.startswith("__torch__."):
            return _Attributes
        known: dict[tuple[str, str], Callable[..., object]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _strided,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): _untagged,
        }
        if module_name == "torch.jit._pickle" and global_name.startswith("build_"):
            return list
        if (module_name, global_name) in known:
            return known[module_name, global_name]
        if module_name == "torch" and global_name in _STORAGES:
            return _STORAGES[global_name]
        msg = f"Unsupported global {module_name}.{global_name}"
        raise pickle.UnpicklingError(msg)

    def persistent_load(self, pid: Any) -> Tensor:
        _, storage, key, _, _ = pid
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=storage.dtype)
        return self._storages[key]


class _Storage:
    """Stands for a storage class: all that is needed of one is its number type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self) -> object:
        msg = "Unsupported global torch storage outside a tensor"
        raise pickle.UnpicklingError(msg)


_STORAGES = {
    "HalfStorage": _Storage(torch.float16),
    "BFloat16Storage": _Storage(torch.bfloat16),
    "FloatStorage": _Storage(torch.float32),
    "DoubleStorage": _Storage(torch.float64),
    "LongStorage": _Storage(torch.int64),
    "IntStorage": _Storage(torch.int32),
    "BoolStorage": _Storage(torch.bool),
    "ByteStorage": _Storage(torch.uint8),
}


def _strided(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _untagged(value: object, _: str) -> object:
    return value
