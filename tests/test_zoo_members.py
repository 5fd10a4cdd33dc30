"""Members that read pictures: which modules are hooked, and that maps are the library's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torchvision
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from torch import Tensor, nn

from lensbase.ingest.models import load_model
from lensbase.ingest.rosetta.members import HookedModel, model_member
from lensbase.ingest.rosetta.sources import load_member, load_zoo
from lensbase.ingest.rosetta.units import Batch, DiscriminativeMember, UnitModule
from lensbase.schema.components import Neuron
from lensbase.schema.errors import PreprocessMissing, UnknownModel, WeightsNotFound
from lensbase.schema.unit_addresses import neuron_of
from lensbase.schema.zoo_errors import (
    BadMember,
    BadPictures,
    ForwardFailed,
    NoSpatialMaps,
    NoSuchModule,
)

HALF = (0.5, 0.5, 0.5)


def pictures(count: int, side: int) -> list[Image.Image]:
    pixels = np.random.default_rng(3).integers(0, 256, (count, side, side, 3), np.uint8)
    return [Image.fromarray(one) for one in pixels]


def normalized(batch: list[Image.Image], member: HookedModel) -> Tensor:
    """What the network must get of pictures of its own size, written out."""
    raw = np.stack([np.asarray(one) for one in batch]).astype(np.float32) / 255
    inputs = member.inputs
    values = (raw - np.array(inputs.mean, np.float32)) / np.array(inputs.std, np.float32)
    return torch.from_numpy(values).permute(0, 3, 1, 2)


def small(module: nn.Module, side: int, **options: Any) -> HookedModel:
    return model_member(module.eval(), name="m", input_size=side, mean=HALF, std=HALF, **options)


def loaded(spec: str) -> HookedModel:
    member = load_member(spec)
    assert isinstance(member, HookedModel)
    return member


# Default modules and layouts

Literal = Callable[[nn.Module, Tensor], Tensor]


def vit_act(network: nn.Module, x: Tensor, *, grid: int, drop: int) -> Tensor:
    """The last block's MLP activations of a timm transformer, by its own parts."""
    vit = cast("Any", network)
    before = vit.blocks[:-1](vit.norm_pre(vit._pos_embed(vit.patch_embed(x))))
    block = vit.blocks[-1]
    before = before + block.ls1(block.attn(block.norm1(before)))
    act = block.mlp.act(block.mlp.fc1(block.norm2(before)))[:, drop:]
    return act.reshape(len(x), grid, grid, -1).permute(0, 3, 1, 2)


def resnet_stages(network: nn.Module, x: Tensor) -> Tensor:
    net = cast("Any", network)
    first = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(first))))


@pytest.mark.parametrize(
    ("make", "side", "count", "last", "literal"),
    [
        (
            lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3),
            64,
            3,
            UnitModule("blocks.2.mlp.act", 768, (4, 4)),
            lambda net, x: vit_act(net, x, grid=4, drop=1),
        ),
        (
            lambda: timm.create_model("vit_small_patch14_reg4_dinov2", img_size=70, depth=2),
            70,
            2,
            UnitModule("blocks.1.mlp.act", 1536, (5, 5)),
            lambda net, x: vit_act(net, x, grid=5, drop=5),
        ),
        (
            torchvision.models.resnet50,
            64,
            17,
            UnitModule("layer4.2", 2048, (2, 2)),
            resnet_stages,
        ),
        (
            lambda: timm.create_model("resnet50"),
            64,
            17,
            UnitModule("layer4.2", 2048, (2, 2)),
            lambda net, x: cast("Any", net).forward_features(x),
        ),
    ],
    ids=["vit", "registers", "torchvision-resnet", "timm-resnet"],
)
def test_maps_are_a_literal_computation(
    make: Callable[[], nn.Module], side: int, count: int, last: UnitModule, literal: Literal
) -> None:
    torch.manual_seed(0)
    member = small(make(), side)
    assert isinstance(member, DiscriminativeMember)
    assert len(member.modules) == count
    assert member.modules[-1] == last
    assert member.units == sum(module.channels for module in member.modules)
    batch = pictures(3, side)
    maps = member.maps(Batch(batch))
    for module, found in zip(member.modules, maps, strict=True):
        assert found.shape == (3, module.channels, *module.grid)
        assert found.dtype == torch.float32
    with torch.no_grad():
        expected = literal(member.network, normalized(batch, member))
    torch.testing.assert_close(maps[-1], expected, rtol=1e-5, atol=1e-5)


def test_a_resnets_default_modules_are_its_stem_and_its_blocks_after_their_relu() -> None:
    member = small(torchvision.models.resnet18(), 64)
    names = [module.name for module in member.modules]
    assert names == ["relu", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1))]
    assert all(float(found.min()) >= 0 for found in member.maps(Batch(pictures(2, 64))))


def test_a_relu_called_several_times_is_read_after_the_addition() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    both = small(network, 64, pattern="layer2.1,layer2.1.relu").maps(Batch(pictures(2, 64)))
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=0)


def test_an_output_that_is_overwritten_in_place_is_kept_as_it_was() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    batch = pictures(2, 64)
    member = small(network, 64, pattern="bn1,relu")
    before, after = member.maps(Batch(batch))
    expected = cast("Any", network).bn1(cast("Any", network).conv1(normalized(batch, member)))
    torch.testing.assert_close(before, expected)
    torch.testing.assert_close(after, expected.relu())
    assert float(before.min()) < 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("test_convnext", "places"),
        ("test_efficientnet", "channels"),
        ("test_maxvit", "places"),
        ("test_vit4", "tokens"),
    ],
)
def test_other_trees_give_all_their_activations_with_places(name: str, kind: str) -> None:
    member = loaded(f"m=timm:{name}")
    assert kind in {hook.layout.kind for hook in member._hooks}
    for module, found in zip(member.modules, member.maps(Batch(pictures(2, 96))), strict=True):
        assert found.shape == (2, module.channels, *module.grid)
        assert module.grid[0] == module.grid[1] > 1


def test_channels_behind_places_are_put_before_them() -> None:
    torch.manual_seed(0)
    network = torchvision.models.convnext_tiny().eval()
    batch = pictures(2, 64)
    member = small(network, 64, pattern="features.1.0.block.4")
    (found,) = member.maps(Batch(batch))
    with torch.no_grad():
        features = cast("Any", network).features
        stem = features[0](normalized(batch, member))
        expected = features[1][0].block[:5](stem).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)


def test_token_rows_of_old_transformers_are_put_on_their_grid() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 6, 8, 8)
            self.act = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).permute(2, 0, 1)
            return self.act(torch.cat([tokens.mean(0, keepdim=True), tokens]))

    torch.manual_seed(0)
    network = Rows()
    batch = pictures(3, 32)
    member = small(network, 32)
    assert member.modules == (UnitModule("act", 6, (4, 4)),)
    expected = nn.functional.gelu(network.patches(normalized(batch, member)))
    torch.testing.assert_close(member.maps(Batch(batch))[0], expected)


# CLIP


def test_a_clips_neurons_are_recognized_and_its_weights_hash_as_in_a_run() -> None:
    member = loaded("w=world:clip")
    model = load_model("world")
    assert member.weights_sha256 == model.info.weights_sha256
    module = "visual.transformer.resblocks.5.mlp.gelu"
    assert neuron_of(module, 391) == Neuron(5, 391)
    assert neuron_of("visual.transformer.resblocks.5", 3) is None
    batch = pictures(2, 64)
    kept: list[Tensor] = []
    block = cast("Any", model.visual).transformer.resblocks[5]
    block.mlp.gelu.register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        cast("Any", model.model).encode_image(torch.stack([model.preprocess(p) for p in batch]))
    names = [one.name for one in member.modules]
    found = member.maps(Batch(batch))[names.index(module)]
    expected = kept[0][:, 1:].transpose(1, 2).reshape(2, 512, 8, 8)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_clip_from_python_is_read_as_its_image_tower() -> None:
    clip = load_model("world").model
    member = model_member(clip, name="w", input_size=64, mean=HALF, std=HALF)
    assert member.weights_sha256 == load_model("world").info.weights_sha256
    assert member.modules == loaded("w=world:clip").modules


@pytest.mark.slow
def test_open_clips_towers_are_members() -> None:
    vit = loaded("v=open_clip:ViT-B-32")
    assert vit.weights_sha256 == load_model("ViT-B-32").info.weights_sha256
    name = "visual.transformer.resblocks.9.mlp.gelu"
    assert vit.modules[9] == UnitModule(name, 3072, (7, 7))
    assert neuron_of(name, 391) == Neuron(9, 391)
    resnet = loaded("r=open_clip:RN50")
    assert [one.name for one in resnet.modules[:4]] == [
        *(f"visual.act{i}" for i in (1, 2, 3)),
        "visual.layer1.0",
    ]
    assert resnet.modules[-1] == UnitModule("visual.layer4.2", 2048, (7, 7))
    assert neuron_of("visual.layer4.2", 0) is None
    batch = pictures(2, 224)
    with torch.no_grad():
        tower = cast("Any", resnet.network)
        x = tower.stem(normalized(batch, resnet))
        expected = tower.layer4(tower.layer3(tower.layer2(tower.layer1(x))))
    torch.testing.assert_close(resnet.maps(Batch(batch))[-1], expected)


def test_a_modified_resnet_is_hooked_at_its_blocks() -> None:
    tower = ModifiedResNet([1, 1, 1, 1], output_dim=16, heads=4, image_size=64, width=8)
    names = [module.name for module in small(tower, 64).modules]
    assert names == ["act1", "act2", "act3", *(f"layer{s}.0" for s in (1, 2, 3, 4))]


# Pixels


def test_gradients_flow_through_maps_of_pixels_of_any_size() -> None:
    member = loaded("m=timm:test_vit")
    pixels = torch.rand((2, 3, 48, 48), requires_grad=True)
    module = member.modules[1].name
    maps = member.maps_of(pixels, [module])
    assert list(maps) == [module]
    maps[module].square().mean().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in member.network.parameters())


def test_maps_of_pixels_and_of_pictures_of_the_inputs_size_agree() -> None:
    member = loaded("m=timm:test_resnet")
    batch = pictures(2, member.input_size)
    raw = np.stack([np.asarray(one) for one in batch])
    pixels = torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255
    by_pixels = member.maps_of(pixels)
    for module, found in zip(member.modules, member.maps(Batch(batch)), strict=True):
        torch.testing.assert_close(by_pixels[module.name], found)


def test_random_weights_are_the_same_every_time_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = loaded("m=timm:test_vit")
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.weights_sha256 == loaded("n=timm:test_vit").weights_sha256


# Bad input


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("m=timm:test_resnet#fc", NoSpatialMaps, r"fc gives \[2, \d+\]"),
        ("m=timm:test_resnet#global_pool", NoSpatialMaps, "keep the picture's places"),
        ("m=timm:test_resnet#layer9.*", NoSuchModule, "near names: layer"),
        ("m=timm:test_resnet#re:layer[", BadMember, "no regular expression"),
        ("m=timm:resnet5O", UnknownModel, "resnet50"),
        ("m=timm:resnet50@none_in1k", UnknownModel, "a1_in1k"),
        ("m=torchvision:resnet5O", UnknownModel, "resnet50"),
        ("m=torchvision:resnet18@V1", UnknownModel, "IMAGENET1K_V1"),
        ("m=torchvision:resnet18@missing.pth", WeightsNotFound, "missing.pth"),
        ("m=open_clip:ViT-B-33", UnknownModel, "ViT-B-32"),
        ("m=open_clip:RN50@yfcc", UnknownModel, "yfcc15m"),
        ("m=world:clap", UnknownModel, "clip, resnet, mae"),
        ("m=checkpoint:no_such_package:f", UnknownModel, "PYTHONPATH"),
        ("m=checkpoint:cifar_resnet:resnet21", UnknownModel, "resnet20"),
        ("m=checkpoint:cifar_resnet:CifarResNet", BadMember, "without arguments"),
        ("m=checkpoint:cifar_resnet:nn.ReLU", PreprocessMissing, "input_size"),
        ("m=checkpoint:cifar_resnet", BadMember, "package.module:callable"),
    ],
)
def test_bad_specifications_are_named(spec: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_member(spec)


def test_a_zoos_names_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(BadMember, match="'a' is the name of 2 members"):
        load_zoo(["a=timm:no_such_model", "a=timm:test_vit"])


def test_pictures_that_are_not_square_rgb_are_refused() -> None:
    member = loaded("m=timm:test_vit")
    with pytest.raises(BadPictures, match="32 x 24 RGB"):
        member.maps(Batch([Image.new("RGB", (32, 24))]))
    with pytest.raises(BadPictures, match="24 x 24 L"):
        member.maps(Batch([Image.new("L", (24, 24))]))
    with pytest.raises(BadPictures, match=r"\[1, 3, 8, 9\]"):
        member.maps_of(torch.zeros(1, 3, 8, 9))
    with pytest.raises(NoSuchModule, match="blocks"):
        member.maps_of(torch.zeros(1, 3, 8, 8), ["blocks.77.mlp.act"])


def test_a_forward_pass_that_fails_is_named() -> None:
    with pytest.raises(ForwardFailed, match="input size"):
        small(timm.create_model("test_vit"), 50)


def test_a_model_without_activations_with_places_is_named() -> None:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), nn.ReLU())
    with pytest.raises(NoSpatialMaps, match=r"3 gives \[2, 4\]"):
        small(pooled, 16)
    with pytest.raises(NoSuchModule, match="#PATTERN"):
        small(nn.Sequential(nn.Conv2d(3, 4, 3)), 16)


@pytest.mark.parametrize("wrong", [{"mean": (0.5,)}, {"std": (0.5, 0.5, 0)}, {"input_size": 0}])
def test_inputs_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    given: dict[str, Any] = {"input_size": 16, "mean": HALF, "std": HALF} | wrong
    with pytest.raises(PreprocessMissing, match="how pictures reach the model"):
        model_member(nn.Conv2d(3, 4, 3), name="m", **given)


def test_a_picture_keeps_its_places() -> None:
    # One bright corner of the picture is the same corner of every map.
    raw = np.zeros((64, 64, 3), np.uint8)
    raw[:16, 48:] = 255
    torch.manual_seed(0)
    member = small(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1), 64)
    batch = Batch([Image.fromarray(raw), Image.new("RGB", (64, 64))])
    (found,) = member.maps(batch)
    changed = (found[0] - found[1]).abs().sum(0)
    assert divmod(int(changed.argmax()), 4) == (0, 3)
    assert math.isfinite(float(changed.max()))
