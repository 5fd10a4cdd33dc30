"""Members that make pictures: how generators are called, their maps, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lensbase.ingest.rosetta.generators import HookedGenerator, generator_member
from lensbase.ingest.rosetta.sources import load_member
from lensbase.ingest.rosetta.units import Batch, GeneratorMember, UnitModule
from lensbase.schema.zoo_errors import BadGenerator, BadPictures, NoSuchModule


class Decoder(nn.Module):
    """8 numbers to a picture of 16 pixels a side."""

    latent_size = 8

    def __init__(self, last: nn.Module | None = None, *, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.start = nn.Linear(8, 6 * 16)
        self.relu = nn.ReLU()
        self.grow = nn.ConvTranspose2d(6, 5, 4, 4)
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.paint = nn.Conv2d(5, channels, 3, padding=1)
        self.last = last or nn.Tanh()

    def forward(self, z: Tensor) -> Tensor:
        x = self.relu(self.start(z)).unflatten(1, (6, 4, 4))
        return self.last(3 * self.paint(self.act(self.grow(x))))


class Scaled(nn.Module):
    def __init__(self, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh() * self.factor + self.shift


class Mapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8 + 4, 8)

    def forward(self, z: Tensor, c: Tensor, truncation_psi: float = 1) -> Tensor:
        return truncation_psi * self.fc(torch.cat([z, c], dim=1))


class SynthesisLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 7, 3, padding=1)

    def forward(self, x: Tensor, noise_mode: str = "random") -> Tensor:
        x = self.conv(x)
        if noise_mode == "random":
            x = x + torch.randn_like(x)
        return torch.nn.functional.leaky_relu(x, 0.2)


class Synthesis(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(8, 6 * 64)
        self.layer = SynthesisLayer()
        self.rgb = nn.Conv2d(7, 3, 1)

    def forward(self, ws: Tensor, **layer_kwargs: Any) -> Tensor:
        layer_kwargs.pop("force_fp32", None)
        x = self.start(ws).unflatten(1, (6, 8, 8))
        return self.rgb(self.layer(x, **layer_kwargs))


class StyleGenerator(nn.Module):
    """Called as StyleGAN2's and StyleGAN-XL's are."""

    z_dim = 8
    c_dim = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.mapping = Mapping()
        self.synthesis = Synthesis()

    def forward(self, z: Tensor, c: Tensor, truncation_psi: float = 1, **kwargs: Any) -> Tensor:
        return self.synthesis(self.mapping(z, c, truncation_psi=truncation_psi), **kwargs)


class ClassGenerator(Decoder):
    """Called as BigGAN's is."""

    num_classes = 8

    def forward(self, z: Tensor, class_label: Tensor, truncation: float) -> Tensor:  # type: ignore[override]
        return super().forward(z * truncation + class_label)


def test_a_decoder_is_a_generator_with_maps() -> None:
    module = Decoder()
    member = generator_member(module, name="g", output_range=(-1, 1))
    assert isinstance(member, GeneratorMember)
    assert member.latent == (8,)
    assert member.input_size == 16
    assert member.modules == (UnitModule("act", 5, (16, 16)),)
    z = member.sample(4, seed=7)
    images = member.generate(z)
    torch.testing.assert_close(images, (module(z) + 1) / 2)
    (found,) = member.maps(Batch([], latents=z))
    x = module.relu(module.start(z)).unflatten(1, (6, 4, 4))
    expected = nn.functional.leaky_relu(module.grow(x), 0.2)
    torch.testing.assert_close(found, expected)


def test_the_first_latents_are_the_same_however_many_are_drawn() -> None:
    member = generator_member(Decoder(), name="g", output_range=(-1, 1))
    many = member.sample(2_000, seed=7)
    torch.testing.assert_close(many[:3], member.sample(3, seed=7), rtol=0, atol=0)
    assert not torch.equal(many[:3], member.sample(3, seed=8))
    # 16,000 standard normal numbers: standard errors of 0.008 and 0.0056.
    assert abs(float(many.mean())) < 0.04
    assert abs(float(many.std()) - 1) < 0.03


@pytest.mark.parametrize(
    ("module", "options", "module_name"),
    [
        (Decoder(), {"output_range": (-1, 1)}, "act"),
        (StyleGenerator(), {"label": 2}, "synthesis.layer"),
        (ClassGenerator(), {"label": 5, "truncation": 0.5}, "act"),
    ],
    ids=["plain", "stylegan", "biggan"],
)
def test_gradients_flow_from_maps_and_images_to_latents(
    module: nn.Module, options: dict[str, Any], module_name: str
) -> None:
    member = generator_member(module, name="g", **options)
    z = member.sample(2, seed=0).requires_grad_()
    images, maps = member.generate_with_maps(z, [module_name])
    assert float(images.detach().min()) >= 0
    assert float(images.detach().max()) <= 1
    for value in (images, maps[module_name]):
        (gradient,) = torch.autograd.grad(value.square().sum(), z, retain_graph=True)
        assert float(gradient.abs().min()) > 0


def test_a_style_generator_is_called_with_its_class_truncation_and_constant_noise() -> None:
    module = StyleGenerator()
    member = generator_member(module, name="g", label=2, truncation=0.7)
    assert member.modules == (UnitModule("synthesis.layer", 7, (8, 8)),)
    z = member.sample(3, seed=0)
    c = torch.eye(4)[[2, 2, 2]]
    expected = module(z, c, truncation_psi=0.7, noise_mode="const")
    torch.testing.assert_close(member.generate(z), ((expected + 1) / 2).clamp(0, 1))
    assert member.preprocessing["label"] == 2


def test_a_class_generator_gets_truncated_latents_and_its_class() -> None:
    module = ClassGenerator()
    member = generator_member(module, name="g", label=5, truncation=0.5)
    z = member.sample(500, seed=0)
    assert 0.9 < float(z.abs().max()) <= 1
    label = torch.eye(8)[[5] * 3]
    torch.testing.assert_close(member.generate(z[:3]), (module(z[:3], label, 0.5) + 1) / 2)


def made() -> nn.Module:
    """What the specification below names."""
    module = Decoder()
    setattr(module, "output_range", (-1, 1))  # noqa: B010
    return module


def test_a_generator_is_made_by_a_callable() -> None:
    member = load_member("g=generator:test_zoo_generators:made#grow")
    assert isinstance(member, HookedGenerator)
    assert member.kind == "generator"
    assert [module.name for module in member.modules] == ["grow"]


class Noisy(Decoder):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z + torch.randn_like(z))


class Oblong(Decoder):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z)[:, :, :8]


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (Decoder(), {}, "must state the range"),
        (Decoder(), {"output_range": (0, 255)}, "must state the range"),
        (Decoder(), {"output_range": (0, 1)}, r"states \[0, 1\]"),
        (Decoder(nn.Sigmoid()), {"output_range": (-1, 1)}, r"state output_range=\(0, 1\)"),
        (Decoder(Scaled(255)), {"output_range": (-1, 1)}, "rescales its images"),
        (Decoder(Scaled(1, float("nan"))), {"output_range": (-1, 1)}, "NaN"),
        (Decoder(channels=1), {"output_range": (-1, 1)}, "3 channels"),
        (Noisy(), {"output_range": (-1, 1)}, "turn its noise off"),
        (Oblong(), {"output_range": (-1, 1)}, "8 x 16"),
        (StyleGenerator(), {}, "fix one of 0 to 3"),
        (ClassGenerator(), {"label": 8}, "fix one of 0 to 7"),
        (nn.Sequential(nn.Linear(8, 8)), {"output_range": (0, 1)}, "what its latents are"),
    ],
)
def test_bad_generators_are_named(module: nn.Module, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadGenerator, match=words):
        generator_member(module, name="g", **options)


def test_a_generators_maps_are_of_latents_alone() -> None:
    member = generator_member(Decoder(), name="g", output_range=(-1, 1))
    with pytest.raises(BadPictures, match="its own samples"):
        member.maps(Batch([]))
    with pytest.raises(BadGenerator, match=r"\[n, 8\]"):
        member.generate(torch.zeros(2, 9))
    with pytest.raises(NoSuchModule, match="act"):
        member.generate_with_maps(torch.zeros(2, 8), ["act1"])
