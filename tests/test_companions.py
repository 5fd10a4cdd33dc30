"""The world's companions: a ResNet, a masked autoencoder and a generator, against the truth."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from lensbase.ingest.world.attributes import ATTRIBUTES, BACKGROUNDS, SHAPES, VALUES, Attribute
from lensbase.ingest.world.companions import export, latents, measures, training
from lensbase.ingest.world.companions.generator import Generator
from lensbase.ingest.world.companions.latents import CHOICES, LATENT_SIZE, QUANTITIES
from lensbase.ingest.world.companions.loading import load_companion
from lensbase.ingest.world.companions.masked_autoencoder import (
    Encoder,
    MaskedAutoencoder,
    hidden_loss,
    to_patches,
)
from lensbase.ingest.world.companions.readers import Labels, agreement, in_batches, mean_distance
from lensbase.ingest.world.companions.recipes import COMPANIONS, RECIPES, Companion
from lensbase.ingest.world.companions.resnet import ResNet
from lensbase.ingest.world.model import WEIGHTS, load_clip
from lensbase.ingest.world.render import render
from lensbase.schema.errors import CheckpointMismatch, UnknownModel

LIMIT = 2_000_000  # bytes of one companion's weights
SAMPLES = 1000
SEED = 77  # none that a training or a card uses

companion = pytest.mark.parametrize("name", COMPANIONS)


@pytest.fixture(scope="module")
def resnet() -> ResNet:
    return load_companion("resnet")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_companion("mae")


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_companion("generator")


@pytest.fixture(scope="module")
def scores(generator: Generator, resnet: ResNet) -> dict[str, Any]:
    clip = load_clip()[0]
    return measures.generator_scores(generator, resnet, clip, samples=SAMPLES, seed=SEED)


@cache
def card(name: Companion) -> dict[str, Any]:
    return json.loads((WEIGHTS / f"{name}.json").read_text())


def maps_of(model: nn.Module, kind: type[nn.Module], inputs: Tensor) -> dict[str, Tensor]:
    """What every module of a kind gives for some inputs, by name."""
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, given, output: maps.update({name: output})

    hooks = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return maps


# What is shipped


@companion
def test_weights_are_small_and_load_without_a_network(
    name: Companion, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("a companion was looked for on a network")

    monkeypatch.setattr(socket, "socket", refuse)
    model = load_companion(name)
    assert not model.training
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size <= LIMIT
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    floats = [
        w for w in load_file(WEIGHTS / f"{name}.safetensors").values() if w.is_floating_point()
    ]
    assert {w.dtype for w in floats} == {torch.float16}


@companion
def test_cards_tell_the_recipe_that_is_in_the_repository(name: Companion) -> None:
    facts, recipe = card(name), RECIPES[name]
    assert facts["recipe"]["steps"] == recipe.steps == int(facts["made_by"]["steps"])
    assert facts["recipe"]["seed"] == recipe.seed == int(facts["made_by"]["seed"])
    assert facts["recipe"]["batch"] == recipe.batch
    assert facts["parameters"] == sum(p.numel() for p in load_companion(name).parameters())
    assert {"torch", "numpy", "machine"} <= facts["made_by"].keys()
    assert f"world.train {name}" in (WEIGHTS / "CARD.md").read_text()


def test_another_name_or_another_shape_of_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="resnet, mae, generator"):
        load_companion("vae")
    export.write_weights(ResNet((8, 8, 8, 8)), "resnet", tmp_path, recipe=RECIPES["resnet"])
    with pytest.raises(CheckpointMismatch, match=r"world\.train resnet"):
        load_companion("resnet", tmp_path)


# The ResNet


def test_resnet_reads_held_out_lone_objects(resnet: ResNet) -> None:
    accuracy = measures.resnet_accuracies(resnet, scenes=500)
    assert accuracy["shape"] >= 0.95
    assert min(accuracy[name] for name in ("color", "background", "position", "size")) >= 0.98
    assert accuracy["count"] >= 0.9
    assert accuracy["texture"] >= 0.6
    told = card("resnet")["held_out"]["accuracy"]
    assert all(abs(accuracy[name] - told[name]) < 0.06 for name in ATTRIBUTES)


def test_resnet_maps_are_nonnegative_and_come_from_modules(resnet: ResNet) -> None:
    maps = maps_of(resnet, nn.ReLU, torch.randn(2, 3, 64, 64))
    assert [maps[f"stages.{i}.1.relu2"].shape[-1] for i in range(4)] == [32, 16, 8, 4]
    assert len(maps) == 1 + 2 * 8
    assert all(float(map_.min()) == 0 for map_ in maps.values())


# The masked autoencoder


def test_frozen_features_separate_colors_and_backgrounds(encoder: Encoder) -> None:
    trained = measures.linear_accuracies(encoder, scenes=300)
    torch.manual_seed(0)
    untrained = measures.linear_accuracies(Encoder().eval(), scenes=300)
    assert trained["color"] >= 0.75
    assert trained["background"] >= 0.95
    assert trained["color"] > untrained["color"] + 0.05


def test_card_says_that_hidden_patches_are_drawn_better_than_the_mean() -> None:
    error = card("mae")["held_out"]["reconstruction"]
    assert error["model"] < 0.6 * error["mean"]


def test_neurons_have_a_value_for_each_patch(encoder: Encoder) -> None:
    maps = maps_of(encoder, nn.GELU, torch.randn(2, 3, 64, 64))
    assert [*maps] == [f"blocks.{i}.mlp.act" for i in range(len(encoder.blocks))]
    width = encoder.norm.normalized_shape[0]
    assert {tuple(map_.shape) for map_ in maps.values()} == {(2, 64, 4 * width)}
    assert encoder.num_prefix_tokens == 0


def test_patches_are_row_by_row_and_only_hidden_ones_count() -> None:
    pictures = torch.arange(2 * 3 * 64 * 64.0).view(2, 3, 64, 64)
    patches = to_patches(pictures)
    assert torch.equal(patches[1, 11].view(3, 8, 8), pictures[1, :, 8:16, 24:32])
    visible = torch.tensor([[0, 11], [5, 6]])
    drawn = patches.clone()
    drawn[0, [0, 11]] += 5
    assert hidden_loss(drawn, patches, visible) == 0
    drawn[1, 7] += 2
    literal = 2.0**2 / (2 * 62)
    assert float(hidden_loss(drawn, patches, visible)) == pytest.approx(literal)


def test_what_is_hidden_is_not_seen() -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(Encoder(width=16, depth=1, heads=2), width=16, depth=1, heads=2)
    patches, visible = torch.randn(1, 64, 192), torch.tensor([[3, 40]])
    changed = patches.clone()
    changed[:, 5] += 10
    assert torch.equal(model(patches, visible), model(changed, visible))
    changed[:, 3] += 10
    assert not torch.equal(model(patches, visible), model(changed, visible))


# The generator


@pytest.mark.slow
def test_two_readers_agree_on_what_a_thousand_samples_show(scores: dict[str, Any]) -> None:
    agreed = scores["agreement"]
    assert agreed["color"] >= 0.8
    assert agreed["background"] >= 0.9
    assert agreed["shape"] >= 0.5


@pytest.mark.slow
def test_samples_are_as_diverse_as_scenes(scores: dict[str, Any]) -> None:
    for kind in ("diversity_alone", "diversity_all"):
        assert scores[kind]["clip"] >= 0.8, kind
        assert scores[kind]["pixels"] >= 0.8, kind


@pytest.mark.slow
def test_samples_show_what_their_latents_say(scores: dict[str, Any]) -> None:
    for reader in ("clip", "resnet"):
        assert scores[reader]["color"] >= 0.8
        assert scores[reader]["background"] >= 0.9
        assert scores[reader]["shape"] >= 0.5
    assert scores["error"]["absolute"] <= 0.05


def test_shuffled_samples_do_not_agree(generator: Generator, resnet: ResNet) -> None:
    pictures = in_batches(generator, measures.sample_latents(250, seed=SEED))
    read = measures.read_logits(resnet, pictures)
    shuffled: dict[Attribute, Labels] = {n: np.roll(values, 1) for n, values in read.items()}
    by_chance = agreement(read, shuffled)
    assert by_chance["color"] < 0.3
    assert by_chance["shape"] < 0.3


def test_pictures_lie_between_0_and_1_and_carry_a_gradient_to_every_number(
    generator: Generator,
) -> None:
    z = measures.sample_latents(8, seed=SEED).requires_grad_()
    pictures = generator(z)
    assert pictures.shape == (8, 3, 64, 64)
    assert 0 <= float(pictures.detach().min()) <= float(pictures.detach().max()) <= 1
    (gradient,) = torch.autograd.grad((pictures * torch.randn(8, 3, 64, 64)).sum(), z)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.abs().amax(0) > 0).all())


def test_a_picture_depends_on_its_own_latent_only(generator: Generator) -> None:
    z = measures.sample_latents(5, seed=SEED)
    with torch.no_grad():
        apart = torch.cat([generator(row[None]) for row in z])
        assert (generator(z) - apart).abs().max() < 1e-5


def test_generator_maps_are_nonnegative_at_four_sizes(generator: Generator) -> None:
    maps = maps_of(generator, nn.ReLU, measures.sample_latents(2, seed=SEED))
    assert [*maps] == [f"stages.{i}.relu{k}" for i in range(4) for k in (1, 2)]
    assert [map_.shape[-1] for map_ in maps.values()] == [8, 8, 16, 16, 32, 32, 64, 64]
    assert all(float(map_.min()) >= 0 for map_ in maps.values())


def test_moving_and_enlarging_in_the_latent_moves_and_enlarges_the_object(
    generator: Generator,
) -> None:
    z = measures.sample_latents(24, seed=SEED)
    z[:, : CHOICES["shape"]] = torch.eye(CHOICES["shape"])[SHAPES.index("square")] * 3
    z[:, -len(QUANTITIES) :] = 0
    at = {name: LATENT_SIZE - len(QUANTITIES) + i for i, name in enumerate(QUANTITIES)}

    def masks(**numbers: float) -> Tensor:
        """Pixels that change as the object's color does, at least a quarter as much as any."""
        here = z.clone()
        for name, value in numbers.items():
            here[:, at[name]] = value
        first = CHOICES["shape"]
        colors = here[:, first : first + CHOICES["color"]]
        pictures: list[Tensor] = []
        for color in (0, 2, 3):  # red, blue, yellow
            colors[:] = -1.0
            colors[:, color] = 2.0
            with torch.no_grad():
                pictures.append(generator(here))
        change = torch.stack(pictures).var(0).sum(1)
        return change > 0.25 * change.amax((1, 2), keepdim=True)

    def center(mask: Tensor) -> Tensor:
        return (mask.sum(1) * torch.arange(64)).sum(1) / mask.sum((1, 2))

    still, right, large = masks(), masks(x=0.6), masks(diameter=1.5)
    told = latents.parameters_of(torch.zeros(2, LATENT_SIZE) + _only(at["x"], 0.6))
    shift = float(told.x[1] - told.x[0])
    assert shift > 5
    assert (center(right) - center(still)).sub(shift).abs().max() < 1.0
    growth = large.sum((1, 2)) / still.sum((1, 2))
    assert ((growth > 1.3) & (growth < 2.6)).all()


def _only(place: int, value: float) -> Tensor:
    rows = torch.zeros(2, LATENT_SIZE)
    rows[1, place] = value
    return rows


def test_some_units_track_the_object_at_every_size(generator: Generator) -> None:
    """Point-biserial correlation of a unit's map with the object's pixels, over 64 samples."""
    exact, scenes = latents.drawable(latents.parameters_of(measures.sample_latents(64, seed=SEED)))
    masks = torch.from_numpy(render(scenes).masks > 0).float()
    with torch.no_grad():
        for map_ in generator.maps(exact):
            there = nn.functional.adaptive_avg_pool2d(masks, map_.shape[-1]).flatten()
            units = map_.transpose(0, 1).flatten(1)
            table = torch.corrcoef(torch.cat([there[None], units]))[0, 1:]
            best = table[torch.isfinite(table)].max()
            assert best > 0.5, f"{map_.shape[-1]} pixels: {float(best):.2f}"


# Latents


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 4.0))
def test_every_latent_names_a_scene_that_can_be_drawn(seed: int, scale: float) -> None:
    z = scale * torch.randn(16, LATENT_SIZE, generator=torch.Generator().manual_seed(seed))
    parameters = latents.parameters_of(z)
    exact, scenes = latents.drawable(parameters)
    parts = z[:, : sum(CHOICES.values())].split(tuple(CHOICES.values()), dim=1)
    for (name, values), part in zip(CHOICES.items(), parts, strict=True):
        assert values == len(VALUES[name])  # pyright: ignore[reportArgumentType]
        assert np.array_equal(scenes.labels(name), part.argmax(1).numpy())  # pyright: ignore[reportArgumentType]
        assert torch.allclose(parameters.share(name).sum(1), torch.ones(16))
    assert (scenes.count == 1).all()
    assert (exact.x - parameters.x).abs().max() <= 0.5
    assert (exact.diameter - parameters.diameter).abs().max() <= 3
    for center in (exact.x, exact.y):
        assert bool((center - exact.diameter / 2 >= -3).all())
        assert bool((center + exact.diameter / 2 <= 66).all())
    assert (render(scenes).masks > 0).any((1, 2)).all()


def test_layers_cover_what_the_renderer_draws(generator: Generator) -> None:
    exact, scenes = latents.drawable(latents.parameters_of(measures.sample_latents(128, seed=1)))
    hard = replace(exact, choices=_hardened(exact))
    covered = generator.layers(hard)[:, 0] > 0.5
    masks = torch.from_numpy(render(scenes).masks > 0)
    assert float((covered & masks).sum() / (covered | masks).sum()) > 0.9


def _hardened(parameters: latents.Parameters) -> Tensor:
    parts = [parameters.share(name) for name in CHOICES]
    return torch.cat([torch.eye(part.shape[1])[part.argmax(1)] for part in parts], dim=1)


def test_plain_scenes_are_exactly_what_is_asked() -> None:
    scenes = latents.plain_scenes(len(BACKGROUNDS), background=np.arange(8), diameter=8, x=32, y=9)
    assert np.array_equal(scenes.background, np.arange(len(BACKGROUNDS)))
    assert (scenes.labels("size") == 2).all()
    assert (scenes.labels("position") == 1).all()
    assert not scenes.color_jitter.any()
    assert np.array_equal(render(scenes).images, render(scenes).images)


# Training and measuring


@companion
def test_training_gives_the_same_weights_again_and_they_load(
    name: Companion, tmp_path: Path
) -> None:
    train: Callable[..., nn.Module] = getattr(training, f"train_{name}")
    recipe = replace(RECIPES[name], steps=2, batch=4)
    lines: list[dict[str, float]] = []
    first, second = (train(recipe, log=lines.append) for _ in range(2))
    trained = first.encoder if isinstance(first, MaskedAutoencoder) else first
    again = second.encoder if isinstance(second, MaskedAutoencoder) else second
    assert all(torch.equal(w, again.state_dict()[key]) for key, w in trained.state_dict().items())
    assert [line["step"] for line in lines] == [2, 2]

    export.write_weights(trained, name, tmp_path, recipe=recipe)
    loaded = load_companion(name, tmp_path).state_dict()
    for key, w in trained.state_dict().items():
        assert torch.equal(loaded[key], w.half().float() if w.is_floating_point() else w)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe = RECIPES["resnet"]
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(recipe.learning_rate / recipe.warmup_steps)
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=0.02)
    assert rates[-1] < 1e-5 * recipe.learning_rate


def test_mean_distance_is_the_literal_mean_over_pairs() -> None:
    vectors = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(3))
    rows = vectors.flatten(1).double().numpy()
    pairs = [np.sqrt(((a - b) ** 2).sum()) for i, a in enumerate(rows) for b in rows[i + 1 :]]
    assert mean_distance(vectors) == pytest.approx(np.mean(pairs), rel=1e-9)
