"""The embedded world's CLIP: its training, and what the shipped weights know."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from lensbase.ingest.world import evaluate, forward, losses, model, training
from lensbase.ingest.world.attributes import (
    ATTRIBUTES,
    COLORS,
    SHAPES,
    VALUES,
    WITHHELD_COLOR,
    Attribute,
)
from lensbase.ingest.world.captions import write_captions
from lensbase.ingest.world.recipe import EXCLUSIVE, MOSTLY_SINGLE, SPURIOUS, Cycle, Recipe, Stage
from lensbase.ingest.world.render import render
from lensbase.ingest.world.scenes import UNIFORM_COUNTS, Sampling, Scenes, sample_scenes
from lensbase.ingest.world.tokenizer import WordTokenizer
from lensbase.ingest.world.train import shortened, train_clip
from lensbase.schema.errors import CheckpointMismatch

UNIFORM = Sampling(UNIFORM_COUNTS)


def draw(seed: int, n: int, sampling: Sampling) -> Scenes:
    return sample_scenes(np.random.default_rng(seed), n, sampling)


# Training


def tiny_recipe() -> Recipe:
    first = Cycle(2e-3, (Stage(2, 6, MOSTLY_SINGLE), Stage(2, 8, SPURIOUS, spare_withheld=True)))
    return replace(Recipe(), cycles=(first, Cycle(1e-3, (Stage(1, 8, EXCLUSIVE),))))


def test_the_training_forward_is_open_clips():
    clip = build()
    images = model.normalize_images(render(draw(17, 6, UNIFORM)).images)
    ids = WordTokenizer()(write_captions(draw(17, 6, UNIFORM), random.Random(17)))
    with torch.no_grad():
        mine, patches = forward.encode_image(clip, images, 4)
        assert torch.allclose(mine, clip.encode_image(images), atol=1e-5)
        shorter = ids[:, : int((ids > 0).sum(1).max())]
        assert torch.allclose(forward.encode_text(clip, shorter), clip.encode_text(ids), atol=1e-5)
    assert patches.shape == (6, 64, 128)


def build() -> training.open_clip.CLIP:
    torch.manual_seed(0)
    return model.build_clip()


def test_training_steps_repeat_byte_for_byte(tmp_path: Path):
    def weights() -> bytes:
        place = training.Place(0, 1, torch.device("cpu"), tmp_path)
        clip = training.train(tiny_recipe(), place, resume=False, checkpoint_every=100)
        return b"".join(w.numpy().tobytes() for w in clip.state_dict().values())

    assert weights() == weights()


def test_a_resumed_training_ends_with_the_same_bytes(tmp_path: Path):
    place = training.Place(0, 1, torch.device("cpu"), tmp_path)
    whole = training.train(tiny_recipe(), place, resume=False, checkpoint_every=3)
    rest = training.train(tiny_recipe(), place, resume=True, checkpoint_every=100)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path):
    recipe = tiny_recipe()
    for name in ("first", "second"):
        folder = tmp_path / name
        train_clip(folder, recipe=recipe, device="cpu", held_out=20, checkpoint_every=recipe.steps)
    same = [(tmp_path / name / "clip.safetensors").read_bytes() for name in ("first", "second")]
    assert same[0] == same[1]

    place = training.Place(0, 1, torch.device("cpu"), tmp_path)
    one = training.train(recipe, place, resume=False, checkpoint_every=100).state_dict()
    two = torch.load(tmp_path / "first" / training.CHECKPOINT, weights_only=True)["model"]
    torch.manual_seed(recipe.seed)
    start = model.build_clip()
    training.initialize_positions(start, recipe.position_scale)
    initial = {name: value.detach() for name, value in start.named_parameters()}
    moved = [
        torch.cat([(after[name] - initial[name]).flatten() for name in initial])
        for after in (one, two)
    ]
    # Half a batch's bfloat16 sums round otherwise than a whole one's, and Adam blows up the
    # smallest gradients; unrelated batches would give a cosine near 0.
    assert float(F.cosine_similarity(*moved, dim=0)) > 0.99


def test_losses_that_spare_withheld_pairs_say_nothing_about_them():
    scenes = draw(19, 60, SPURIOUS)
    red, star = COLORS.index("red"), SHAPES.index("star")
    assert WITHHELD_COLOR["star"] == "red"
    truth = losses.targets(scenes, render(scenes).masks, patch=8, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    values = sum(len(VALUES[name]) for name in ATTRIBUTES)
    logits = torch.randn(60, values, generator=generator).requires_grad_()
    losses.attribute_losses(logits, truth.presence, common=truth.common)["shape"].sum().backward()
    assert logits.grad is not None
    all_red = torch.from_numpy(scenes.common("color") == red)
    shows_star = torch.from_numpy(scenes.presence("shape")[:, star] > 0)
    assert bool(all_red.any())
    assert (logits.grad[all_red, star] == 0).all()
    assert (logits.grad[~all_red & ~shows_star, star] > 0).all()  # a negative everywhere else

    # Red scenes and scenes of stars are no negatives of each other, all others are.
    images = F.normalize(torch.randn(60, 8, generator=generator), dim=1).requires_grad_()
    loss, _ = losses.contrastive_loss(torch.tensor(5.0), images, images.detach())
    spared, _ = losses.contrastive_loss(
        torch.tensor(5.0), images, images.detach(), common=truth.common
    )
    shape, color = truth.common.T.tolist()
    withheld = {(SHAPES.index(s), COLORS.index(c)) for s, c in WITHHELD_COLOR.items()}
    apart = torch.tensor([[(s, c) in withheld for c in color] for s in shape])
    literal = 5.0 * (images @ images.detach().T).double()
    literal = literal.exp() * ~(apart | apart.T)
    own = literal.diagonal()
    expected = -(own / literal.sum(1)).log().mean() / 2 - (own / literal.sum(0)).log().mean() / 2
    assert float(spared.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert spared < loss


def test_each_cycle_starts_gently_and_ends_at_zero():
    recipe = Recipe()
    start = 0
    for cycle in recipe.cycles:
        end = start + cycle.steps
        assert recipe.rate(start) < cycle.learning_rate / 20
        rates = [recipe.rate(step) for step in range(start + recipe.warmup_steps, end)]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] > 0.99 * cycle.learning_rate
        assert rates[-1] < 1e-6
        assert recipe.progress(start) == 0
        assert recipe.fading(start) == 1
        assert recipe.fading(end - 1) == 0
        start = end
    assert recipe.steps == start
    with pytest.raises(IndexError):
        recipe.stage(recipe.steps)


@given(st.integers(4, 20_000))
def test_a_shortened_recipe_keeps_its_proportions(steps: int):
    short = shortened(Recipe(), steps)
    assert short.steps == steps
    for stage, whole in zip(short.stages, Recipe().stages, strict=True):
        assert abs(stage.steps - whole.steps * steps / Recipe().steps) <= 1


# The shipped weights

# An earlier model's accuracies less 0.01, for shape more.
FLOORS: dict[Attribute, float] = {
    "shape": 0.75,
    "color": 0.989,
    "texture": 0.93,
    "size": 0.98,
    "position": 0.99,
    "background": 0.99,
    "count": 0.989,
}

Parts = dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def promised() -> Parts:
    return json.loads((model.WEIGHTS / "clip.json").read_text())["held_out"]


def test_the_weights_are_small_and_half_precision():
    path = model.WEIGHTS / "clip.safetensors"
    assert path.stat().st_size < 5_000_000
    assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}
    clip, _, _ = model.load_clip()
    assert not clip.training
    assert all(p.dtype == torch.float32 for p in clip.parameters())


def test_weights_of_another_vocabulary_are_refused(tmp_path: Path):
    facts = json.loads((model.WEIGHTS / "clip.json").read_text())
    facts["vocabulary"] = facts["vocabulary"][::-1]
    (tmp_path / "clip.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointMismatch, match="retrain"):
        model.load_clip(tmp_path)


def test_the_card_meets_the_accuracies_asked_for(promised: Parts):
    for name in ATTRIBUTES:
        seen, unseen = promised["training_prompts"][name], promised["unseen_prompts"][name]
        assert seen >= FLOORS[name], name
        assert unseen >= seen - 0.1, name
    for name, accuracy in promised["withheld_pairs"].items():
        assert accuracy >= promised["seen_pairs"][name] - 0.1, name


def test_the_card_says_what_was_measured(promised: Parts):
    card = (model.WEIGHTS / "CARD.md").read_text()
    for name in ATTRIBUTES:
        row = (promised[part][name] for part in ("training_prompts", "unseen_prompts"))
        assert f"| {name} | {' | '.join(f'{number:.3f}' for number in row)} |" in card
    for name in promised["seen_pairs"]:
        row = (promised[part][name] for part in ("seen_pairs", "withheld_pairs"))
        assert f"| {name} | {' | '.join(f'{number:.3f}' for number in row)} |" in card


@pytest.mark.slow
def test_fresh_scenes_score_what_the_card_says(promised: Parts):
    scenes = 300
    clip, _, _ = model.load_clip()
    scores = evaluate.evaluate(clip, scenes=scenes, seed=123)
    measured: Parts = {
        "training_prompts": {**scores.training_prompts},
        "unseen_prompts": {**scores.unseen_prompts},
        "seen_pairs": scores.seen_pairs,
        "withheld_pairs": scores.withheld_pairs,
    }
    for part, accuracies in measured.items():
        for name, accuracy in accuracies.items():
            p = promised[part][name]
            # Three standard deviations of the two samples, and 0.02 for other machines' arithmetic.
            chance = 3 * sqrt(p * (1 - p) * (1 / scenes + 1 / 1000))
            assert accuracy >= p - chance - 0.02, (part, name)


def test_preprocessing_an_image_is_normalizing_it():
    image = render(draw(18, 1, UNIFORM)).images
    clip, preprocess, tokenizer = model.load_clip()
    mine = preprocess(Image.fromarray(image[0]))
    assert mine.shape == (3, 64, 64)
    assert torch.allclose(mine, model.normalize_images(image)[0], atol=1e-6)
    with torch.no_grad():
        assert clip.encode_image(mine[None]).shape == (1, 64)
        assert clip.encode_text(tokenizer(["a red circle"])).shape == (1, 64)
