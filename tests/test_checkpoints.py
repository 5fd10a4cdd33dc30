"""Local checkpoints: every format is the same model, and nothing in one is ever run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from tiny_clip import VISION, assert_same_weights, name_tiny_models, trained

from lensbase.ingest.models import load_model, weights_sha256
from lensbase.schema.errors import (
    ActivationMismatch,
    CheckpointMismatch,
    UnsafeCheckpoint,
)


@pytest.fixture(scope="module", autouse=True)
def tiny_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    name_tiny_models(tmp_path_factory.mktemp("configs"))


def save_training_checkpoint(model: Any, path: Path) -> None:
    """What open_clip's trainer leaves: prefixes of DistributedDataParallel, NumPy scalars, ..."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.zeros(1, 3, 32, 32), torch.ones(1, 16, dtype=torch.long))[0].sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "name": "run",
        "best": np.float64(0.25),
        "loss": np.float32(1.5),
        "steps": np.int64(77),
        "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)


def test_a_checkpoint_is_the_same_model_in_every_format(tmp_path: Path) -> None:
    model = trained()
    torch.manual_seed(0)
    save_training_checkpoint(model, tmp_path / "epoch_3.pt")
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": model.state_dict(), "step": 5}, tmp_path / "nested.bin")
    compiled = {f"_orig_mod.module.{key}": value for key, value in model.state_dict().items()}
    torch.save(compiled, tmp_path / "compiled.pth")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for path in files:
        loaded = load_model("ViT-Tiny", pretrained=str(path))
        assert_same_weights(loaded, model)
        assert loaded.info.weights_sha256 == weights_sha256(model), path.name
        assert loaded.info.source == "file"
        assert loaded.info.pretrained == str(path)


def test_a_text_tower_of_its_own_loads_from_both_layouts(tmp_path: Path) -> None:
    model = trained()
    save_file(model.state_dict(), tmp_path / "old.safetensors")
    loaded = load_model("ViT-Tiny-custom-text", pretrained=str(tmp_path / "old.safetensors"))
    assert isinstance(loaded.model, CustomTextCLIP)
    texts = ["a red circle", "two dogs"]
    with torch.inference_mode():
        wanted = model.encode_text(open_clip.tokenize(texts, context_length=16), normalize=True)
    assert np.abs(loaded.encode_text(texts) - wanted.numpy()).max() < 1e-6
    save_file(loaded.model.state_dict(), tmp_path / "new.safetensors")
    again = load_model("ViT-Tiny-custom-text", pretrained=str(tmp_path / "new.safetensors"))
    assert again.info.weights_sha256 == loaded.info.weights_sha256


def test_openai_state_dicts_need_quickgelu(tmp_path: Path) -> None:
    model = trained(quick_gelu=True)
    sizes = {"input_resolution": 32, "context_length": 16, "vocab_size": 49408}
    numbers = {key: torch.tensor(value) for key, value in sizes.items()}
    torch.save(model.half().state_dict() | numbers, tmp_path / "clip.pt")
    with pytest.raises(
        ActivationMismatch, match=r"--model ViT-Tiny-quickgelu --pretrained .*clip\.pt"
    ):
        load_model("ViT-Tiny", pretrained=str(tmp_path / "clip.pt"))
    with pytest.raises(ActivationMismatch, match="quick_gelu"):
        load_model("ViT-Tiny-custom-text", pretrained=str(tmp_path / "clip.pt"))
    loaded = load_model("ViT-Tiny-quickgelu", pretrained=str(tmp_path / "clip.pt"))
    assert_same_weights(loaded, model.float())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_openai_archives_are_read_without_running_them(tmp_path: Path) -> None:
    model = trained(quick_gelu=True).requires_grad_(requires_grad=False)
    traced = torch.jit.trace(
        model, (torch.zeros(1, 3, 32, 32), torch.ones(1, 16, dtype=torch.long)), check_trace=False
    )
    path = tmp_path / "ViT-Tiny.pt"
    torch.jit.save(traced, path)
    with pytest.raises(ActivationMismatch, match="ViT-Tiny-quickgelu"):
        load_model("ViT-Tiny", pretrained=str(path))
    assert_same_weights(load_model("ViT-Tiny-quickgelu", pretrained=str(path)), model)


# Nothing is ever unpickled


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (Path.touch, (self.marker,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"state_dict": trained().state_dict(), "x": _Payload(marker)}, tmp_path / "a.pt")
    torch.save({"x": _Payload(marker)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(_Payload(marker)))
    with zipfile.ZipFile(tmp_path / "d.pt", "w") as archive:
        archive.writestr("d/constants.pkl", pickle.dumps(()))
        archive.writestr("d/data.pkl", pickle.dumps(_Payload(marker), protocol=2))
    for name in "abcd":
        with pytest.raises((UnsafeCheckpoint, CheckpointMismatch), match=f"{name}.pt"):
            load_model("ViT-Tiny", pretrained=str(tmp_path / f"{name}.pt"))
        assert not marker.exists()
    with pytest.raises(UnsafeCheckpoint, match="safetensors"):
        load_model("ViT-Tiny", pretrained=str(tmp_path / "a.pt"))


@pytest.mark.parametrize("name", ["whole.pt", "old.pt", "whole.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_damaged_checkpoints_are_named(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    if path.suffix == ".pt":
        zipped = name == "whole.pt"
        torch.save(trained().state_dict(), path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(trained().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointMismatch, match=name):
        load_model("ViT-Tiny", pretrained=str(path))


def test_weights_of_another_model_are_refused_by_the_tensors_that_differ(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(trained(vision_cfg=VISION | {"image_size": 40}).state_dict(), path)
    with pytest.raises(CheckpointMismatch, match=r"visual.positional_embedding is \(26, 32\)"):
        load_model("ViT-Tiny", pretrained=str(path))
    save_file(trained(vision_cfg=VISION | {"layers": 3}).state_dict(), path)
    with pytest.raises(CheckpointMismatch, match=r"resblocks\.2\.\S+ is not in the model"):
        load_model("ViT-Tiny", pretrained=str(path))
    with pytest.raises(CheckpointMismatch, match=r"ls_1.gamma is missing"):
        load_model("ViT-Tiny-scaled", pretrained=str(path))
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    with pytest.raises(CheckpointMismatch, match="no state dict"):
        load_model("ViT-Tiny", pretrained=str(tmp_path / "none.pt"))
