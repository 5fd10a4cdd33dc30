"""Models by name, tag, file and module: what loads, what is refused and what the error says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from tiny_clip import TEXT, TINY, VISION, assert_same_weights, name_tiny_models, picture, trained
from torch import nn

from lensbase.ingest.decompose import Decomposer, Kept
from lensbase.ingest.models import load_model, weights_sha256
from lensbase.schema.errors import (
    ActivationMismatch,
    CheckpointMismatch,
    LensbaseError,
    PreprocessMissing,
    UnknownModel,
    UnsafeCheckpoint,
    UnsupportedModel,
    WeightsNotFound,
)


@pytest.fixture(scope="module", autouse=True)
def tiny_names(tmp_path_factory: pytest.TempPathFactory) -> None:
    name_tiny_models(tmp_path_factory.mktemp("configs"))


def test_the_weights_hash_sees_one_changed_bit() -> None:
    model = trained()
    before = weights_sha256(model)
    with torch.no_grad():
        weight = model.visual.class_embedding
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    assert weights_sha256(model) != before
    assert len(before) == 64


def test_a_model_without_weights_is_random_and_always_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = load_model("ViT-Tiny")
    assert torch.equal(torch.rand(1), wanted), "the caller's random numbers moved"
    assert "random weights" in caplog.text
    assert first.info.weights_sha256 == load_model("ViT-Tiny").info.weights_sha256
    assert first.info.pretrained is None
    assert first.info.source == "open_clip"


def test_info_says_what_the_model_is() -> None:
    info = load_model("ViT-Tiny-quickgelu").info
    assert (info.layers, info.heads, info.head_width, info.width, info.embed_dim) == (
        2,
        4,
        8,
        32,
        12,
    )
    assert (info.patches, info.grid, info.patch_size, info.image_size) == (16, (4, 4), 8, 32)
    assert info.activation == "quickgelu"
    assert load_model("ViT-Tiny").info.activation == "gelu"
    assert json.loads(json.dumps(info.preprocessing)) == info.preprocessing
    assert info.preprocessing["size"] == [32, 32]
    assert info.preprocessing["interpolation"] == "bicubic"
    assert info.preprocessing["resize_mode"] == "shortest"
    assert info.preprocessing["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_a_loaded_model_is_ready_to_read() -> None:
    loaded = load_model("ViT-Tiny-scaled")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.preprocess(picture()).shape == (3, 32, 32)
    own: Any = open_clip.image_transform(32, is_train=False)
    assert torch.equal(loaded.preprocess(picture()), own(picture()))
    Decomposer(loaded.visual, Kept((1,)))(loaded.preprocess(picture())[None])


def test_texts_are_embedded_at_unit_length_whatever_the_batch() -> None:
    loaded = load_model("ViT-Tiny")
    model: Any = loaded.model
    texts = ["a red circle", "two dogs", "a photograph of water", "x"]
    found = loaded.encode_text(texts)
    assert found.dtype == np.float32
    assert found.shape == (4, 12)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    with torch.inference_mode():
        wanted = model.encode_text(open_clip.tokenize(texts, context_length=16))
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    assert np.abs(found - wanted.numpy()).max() < 1e-6
    assert np.abs(found - loaded.encode_text(texts, batch_size=3)).max() < 1e-6
    assert loaded.encode_text([]).shape == (0, 12)


def test_a_directory_with_a_configuration_loads(tmp_path: Path) -> None:
    model = trained(vision_cfg=VISION | {"ls_init_value": 0.1})
    config = {
        "model_cfg": TINY | {"vision_cfg": VISION | {"ls_init_value": 0.1}},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    name = f"local-dir:{tmp_path}"
    with pytest.raises(WeightsNotFound, match="open_clip_config"):
        load_model(name)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsNotFound, match="no checkpoint"):
        load_model(name)
    save_file(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    loaded = load_model(name)
    assert_same_weights(loaded, model)
    assert loaded.info.preprocessing["mean"] == [0.5, 0.5, 0.5]
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UnknownModel, match="model_cfg"):
        load_model(name)


def test_the_world_comes_with_weights_and_adds_up() -> None:
    loaded = load_model("world")
    info = loaded.info
    assert (info.source, info.pretrained, info.activation) == ("world", None, "gelu")
    assert info.preprocessing["size"] == [info.image_size] * 2
    assert len(info.preprocessing["mean"]) == 3  # pyright: ignore[reportArgumentType]
    images = torch.stack([loaded.preprocess(picture())] * 2)
    found = Decomposer(loaded.visual, Kept((), tokens=True))(images)
    model: Any = loaded.model
    with torch.inference_mode():
        wanted = model.encode_image(images)
    assert (found.representation - wanted).norm() / wanted.norm() < 1e-5
    assert found.scale[:, 3].max() < 1e-5
    assert loaded.encode_text(["a red circle"]).shape == (1, info.embed_dim)


# What is trained with QuickGELU runs with QuickGELU


@pytest.mark.parametrize(
    ("name", "tag", "right"),
    [
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu"),
        ("ViT-B-16", "dfn2b", "ViT-B-16-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32 "),
    ],
)
def test_a_tag_under_the_wrong_activation_is_refused_before_any_download(
    name: str, tag: str, right: str, offline: None
) -> None:
    with pytest.raises(ActivationMismatch, match=right):
        load_model(name, pretrained=tag)


# Names


@pytest.mark.parametrize(
    ("name", "tag", "nearest"),
    [
        ("ViT-B32", None, "ViT-B-32"),
        ("vit-b-16", None, "ViT-B-16"),
        ("wolrd", None, "world"),
        ("ViT-B-32", "laion2b_s34b", "laion2b_s34b_b79k"),
        ("ViT-B-32", "xyzzy", "openai"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, tag: str | None, nearest: str) -> None:
    with pytest.raises(UnknownModel, match=nearest):
        load_model(name, pretrained=tag)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match=r"absent\.pt"):
        load_model("ViT-Tiny", pretrained=str(tmp_path / "absent.pt"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "tag"),
    [("ViT-B-32-quickgelu", "openai"), ("ViT-B-32", "laion2b_s34b_b79k"), ("hf-hub:a/b", None)],
)
def test_without_a_network_the_error_says_what_to_do(
    name: str, tag: str | None, offline: None
) -> None:
    with pytest.raises(WeightsNotFound, match=r"--pretrained weights\.safetensors"):
        load_model(name, pretrained=tag)


def test_weights_are_not_named_twice(tmp_path: Path) -> None:
    for name in ("world", f"local-dir:{tmp_path}", trained()):
        with pytest.raises(UnknownModel, match="leave out pretrained='openai'"):
            load_model(name, pretrained="openai")


# What is refused


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ViT-B-16-SigLIP", "timm"),
        ("RN50", "ResNet"),
        ("coca_ViT-B-32", "attention pooling"),
        ("ViT-L-14-CLIPA", "average pooling"),
    ],
)
def test_other_architectures_are_refused_by_name(name: str, what: str) -> None:
    with pytest.raises(UnsupportedModel, match=what) as caught:
        load_model(name)
    assert "ViT-B-32, ViT-B-16, ViT-L-14" in str(caught.value)


@pytest.mark.parametrize(
    ("vision", "what"),
    [
        ({"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}, "timm"),
        ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64}, "ResNet"),
        (VISION | {"attentional_pool": True, "attn_pooler_heads": 4}, "attention pooling"),
        (VISION | {"pool_type": "avg"}, "average pooling"),
        (VISION | {"qk_norm": True}, "normalised"),
    ],
)
def test_other_architectures_are_refused_as_modules(vision: dict[str, Any], what: str) -> None:
    model = trained(vision_cfg=vision)
    with pytest.raises(UnsupportedModel, match=what):
        load_model(model, preprocess=lambda image: torch.zeros(3, 32, 32))


def test_modules_that_are_no_clip_are_refused() -> None:
    for module in (nn.Linear(2, 2), trained().visual):
        with pytest.raises(UnsupportedModel, match="encode"):
            load_model(module)


def test_precisions_are_two() -> None:
    with pytest.raises(UnsupportedModel, match="'fp32' or 'bf16'"):
        load_model("ViT-Tiny", precision="fp8")


# Modules


def make_numbers(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32)).permute(2, 0, 1) / 255


def test_a_module_is_copied_and_left_as_it_was() -> None:
    model = trained().train()
    loaded = load_model(model, preprocess=make_numbers)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert_same_weights(loaded, model.eval())
    with torch.no_grad():
        model.visual.proj.zero_()
    copied: Any = loaded.visual
    assert copied.proj.abs().sum() > 0
    assert loaded.info.source == "module"
    assert loaded.info.name == "clip"
    assert loaded.preprocess is make_numbers
    assert loaded.info.preprocessing["size"] == [32, 32]
    assert "make_numbers" in str(loaded.info.preprocessing["transform"])
    assert " at 0x" not in str(loaded.info.preprocessing)
    assert loaded.encode_text(["a dog"]).shape == (1, 12)  # the vocabulary is CLIP's own


def test_wrapped_modules_are_unwrapped() -> None:
    model = trained()
    wrapped = nn.DataParallel(model)
    assert_same_weights(load_model(wrapped, preprocess=make_numbers), model)


def test_a_module_in_half_precision_is_read_in_float32() -> None:
    model = trained().half()
    loaded = load_model(model, preprocess=make_numbers)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}


def test_a_module_of_open_clips_brings_its_preprocessing() -> None:
    loaded = load_model("ViT-Tiny")
    again = load_model(loaded.model)
    assert again.info.preprocessing == loaded.info.preprocessing
    assert again.info.weights_sha256 == loaded.info.weights_sha256
    assert torch.equal(again.preprocess(picture()), loaded.preprocess(picture()))


def test_a_module_that_does_not_say_how_is_refused() -> None:
    with pytest.raises(PreprocessMissing, match="preprocess="):
        load_model(trained())
    model = trained(text_cfg=TEXT | {"vocab_size": 97})
    with pytest.raises(PreprocessMissing, match="tokenizer="):
        load_model(model, preprocess=make_numbers)
    loaded = load_model(
        model,
        preprocess=make_numbers,
        tokenizer=lambda texts: torch.tensor([[len(text) % 97] * 16 for text in texts]),
    )
    assert loaded.encode_text(["a", "bc"]).shape == (2, 12)


class _Changed(CLIP):
    def encode_image(self, image: Any, normalize: bool = False) -> Any:
        return super().encode_image(image, normalize=normalize).roll(1, -1)


def test_a_module_with_a_forward_pass_of_its_own_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="encode_image differs"):
        load_model(_Changed(**TINY), preprocess=make_numbers)


def test_bfloat16_is_of_the_image_tower_and_keeps_the_identity() -> None:
    single, half = load_model("ViT-Tiny"), load_model("ViT-Tiny", precision="bf16")
    assert half.info == single.info
    model: Any = half.model
    assert model.visual.conv1.weight.dtype == torch.bfloat16
    assert model.visual.ln_post.weight.dtype == torch.float32
    images = torch.stack([single.preprocess(picture())] * 2)
    wanted = Decomposer(single.visual, Kept((1,), tokens=True))(images)
    found = Decomposer(half.visual, Kept((1,), tokens=True))(images)
    assert found.scale[:, 3].max() < 1e-5
    difference = found.representation - wanted.representation
    assert difference.norm() / wanted.representation.norm() < 0.02
    with torch.inference_mode():
        own = model.encode_image(images.bfloat16()).float()
    assert (own - found.representation).norm() / own.norm() < 0.02
    texts = ["a red circle", "two dogs"]
    assert np.array_equal(half.encode_text(texts), single.encode_text(texts))


def test_every_error_is_one_line_and_a_builtin() -> None:
    builtins = {
        UnknownModel: ValueError,
        UnsupportedModel: ValueError,
        ActivationMismatch: ValueError,
        WeightsNotFound: FileNotFoundError,
        UnsafeCheckpoint: ValueError,
        CheckpointMismatch: ValueError,
        PreprocessMissing: TypeError,
    }
    for error, builtin in builtins.items():
        assert issubclass(error, builtin)
        assert issubclass(error, LensbaseError)
        assert str(error("one line")) == "one line"
