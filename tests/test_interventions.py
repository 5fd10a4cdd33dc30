"""Direct and indirect effects against open_clip's own forward pass, hooked, in float64.

Limits: in float32, 1e-5 relative; an indirect effect, the difference of two representations, may
be off by that much of the representation's length. In float64, 1e-9 of the effects themselves.
"""

from __future__ import annotations

from typing import Any, cast

import literal_second_order as literal
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal_interventions import Original
from open_clip.factory import get_model_config
from open_clip.model import CLIP
from open_clip.transformer import LayerNormFp32
from test_second_order import TOWERS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from vision_reference import images_for, make_tower, off

from lensbase.ingest.decompose import Decomposer, Kept, projection_weights
from lensbase.ingest.interventions import Interventions, _copied
from lensbase.ingest.models import load_model
from lensbase.ingest.neuron_effects import measure_effects
from lensbase.ingest.world.model import normalize_images
from lensbase.ingest.world.render import render
from lensbase.ingest.world.scenes import UNIFORM_COUNTS, Sampling, sample_scenes
from lensbase.schema.errors import BadMeans, BadSelection, UnknownComponent, UnsupportedModel

LIMIT, EXACT = 1e-5, 1e-9


def scenes(count: int) -> torch.Tensor:
    return normalize_images(
        render(sample_scenes(np.random.default_rng(4), count, Sampling(UNIFORM_COUNTS))).images
    )


def check_against_hooks(
    visual: Any, images: torch.Tensor, layer: int, neurons: list[int], *, limit: float
) -> None:
    dtype = torch.float64 if limit == EXACT else torch.float32
    made = Interventions(visual, layer, dtype=dtype)
    # Its norms, in float32 always, would spoil the reference.
    visual = _copied(visual, torch.float64)
    original = Original(visual, images)
    hidden, whole = original.activations(layer), original.representation()
    means = made.token_means(images.split(2)).activation
    observed = made.observe(images)
    seen = [literal.run(visual, image) for image in images]
    weights = seen[0].weights
    through = (weights["ln_post.weight"] * literal.written(seen[0], layer)) @ weights["proj"]
    sigma = np.array([np.sqrt(one.final.var() + 1e-5) for one in seen])
    direct = (hidden[:, 0] / sigma[:, None])[..., None] * through
    found = made.direct(observed, neurons)
    means_there = hidden.mean(0)
    changed = [original.replaced(layer, [n], means=means_there) for n in neurons]
    indirect = np.stack([whole - one for one in changed], axis=1)
    effects = made.indirect(observed, neurons, means=means).numpy()
    every, some = range(made.neurons), neurons[::2]
    apart = np.linalg.norm(effects - indirect, axis=2)
    errors = {
        "means": off(means, means_there),
        "representation": off(observed.representation, whole),
        "direct": off(found.formed(), direct[:, neurons]),
        "direct norms": off(found.norm, np.linalg.norm(direct[:, neurons], axis=2)),
        "sum of direct": off(made.direct_sum(observed), direct.sum(1)),
        "without one": (apart / np.linalg.norm(whole, axis=1)[:, None]).max(),
        "without some": off(
            made.ablated(observed, means=means, neurons=some),
            original.replaced(layer, some, means=means_there),
        ),
        "without all": off(
            made.ablated(observed, means=means),
            original.replaced(layer, list(every), means=means_there),
        ),
        "all by output": off(
            made.ablated(observed, means=means),
            original.with_mlp_output(layer, original.mlp_output(layer).mean(0)),
        ),
    }
    if limit == EXACT:
        errors["indirect effects"] = off(effects, indirect)
    for name, error in errors.items():
        assert error < limit, f"layer {layer}, {name}: {error:.1e}"


@pytest.mark.parametrize("limit", [LIMIT, EXACT])
@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS.keys())
def test_effects_are_those_of_the_hooked_original(make: Any, limit: float) -> None:
    visual = make()
    images = images_for(visual, 5)
    for layer in range(4):
        check_against_hooks(visual, images, layer, [0, 1, 7, 12, 30], limit=limit)


@pytest.mark.parametrize("limit", [LIMIT, EXACT])
@pytest.mark.parametrize("layer", [2, -1])
def test_effects_in_the_worlds_clip_are_those_of_the_hooked_original(
    layer: int, limit: float
) -> None:
    visual: Any = load_model("world").visual
    layer %= len(visual.transformer.resblocks)
    check_against_hooks(visual, scenes(5), layer, list(range(0, 200, 19)), limit=limit)


@pytest.mark.slow
def test_effects_in_a_model_of_real_size_are_those_of_the_hooked_original() -> None:
    config = cast("dict[str, Any]", get_model_config("ViT-B-32"))
    config["text_cfg"] |= {"layers": 1, "vocab_size": 9}  # not what is tested here
    torch.manual_seed(0)
    visual = CLIP(**config).visual.eval().requires_grad_(requires_grad=False)
    images = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    for limit in (LIMIT, EXACT):
        check_against_hooks(visual, images, 9, [391, 3071], limit=limit)


@given(
    layers=st.integers(1, 4),
    layer=st.integers(0, 3),
    heads=st.integers(1, 4),
    grid=st.integers(1, 4),
    count=st.integers(1, 5),
    at_a_time=st.integers(1, 40),
)
@settings(max_examples=25, deadline=None)
def test_how_many_run_at_a_time_changes_nothing(
    layers: int, layer: int, heads: int, grid: int, count: int, at_a_time: int
) -> None:
    visual = make_tower(layers=layers, heads=heads, grid=grid)
    layer %= layers
    images = images_for(visual, count)
    whole = Interventions(visual, layer)
    few = Interventions(visual, layer, memory=at_a_time * whole._pass_bytes())
    means = whole.token_means([images]).activation
    neurons = [5, 0, 5, whole.neurons - 1]
    effects = whole.indirect(whole.observe(images), neurons, means=means)
    again = few.indirect(few.observe(images), neurons, means=means)
    lengths = whole.observe(images).representation.norm(dim=1)[:, None]
    assert float(((effects - again).norm(dim=2) / lengths).max()) < LIMIT
    twice = effects[:, [0]] - effects[:, [2]]  # named twice, given twice
    assert float((twice.norm(dim=2) / lengths).max()) < LIMIT


@pytest.mark.parametrize("layer", range(4))
def test_a_neuron_that_never_varies_can_be_replaced_without_a_difference(layer: int) -> None:
    visual = make_tower(layers=4, ls_init_value=0.5)
    images = images_for(visual, 6)
    mlp = visual.transformer.resblocks[layer].mlp
    mlp.c_fc.weight[[2, 9]] = 0
    mlp.c_fc.bias[[2, 9]] = 1.5  # on, but the same everywhere
    made = Interventions(visual, layer)
    means = made.token_means([images]).activation
    observed = made.observe(images)
    lengths = observed.representation.norm(dim=1)[:, None]
    effects = made.indirect(observed, [2, 3, 9], means=means).norm(dim=2) / lengths
    assert float(effects[:, [0, 2]].max()) < 1e-6
    assert float(effects[:, 1].min()) > 1e-4  # one that varies does make a difference
    kept = made.ablated(observed, means=means, neurons=[2, 9])
    assert float(((kept - observed.representation).norm(dim=1) / lengths[:, 0]).max()) < 1e-6
    assert float(observed.activation[:, 0, 2].min()) > 1


def test_one_neuron_alone_is_a_set_of_one() -> None:
    visual = make_tower(layers=4)
    images = images_for(visual, 4)
    for layer in range(4):
        made = Interventions(visual, layer)
        means, observed = made.token_means([images]).activation, made.observe(images)
        effects = made.indirect(observed, [4, 11], means=means)
        for i, neuron in enumerate((4, 11)):
            alone = made.ablated(observed, means=means, neurons=[neuron])
            assert off(observed.representation - effects[:, i], alone) < LIMIT


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS.keys())
def test_direct_effects_and_the_output_bias_add_up_to_the_mlps_term(make: Any) -> None:
    """The term of a decomposition minus its share of the last norm's mean and bias."""
    visual = make()
    images = images_for(visual, 3)
    parts = Decomposer(visual, Kept())(images)
    last = {name: torch.from_numpy(array) for name, array in projection_weights(visual).items()}
    mu, sigma = parts.scale[:, 0, None], parts.scale[:, 1, None]
    constant = (last["ln_post_bias"] - mu / sigma * last["ln_post_weight"]) @ last["projection"]
    for layer in range(4):
        made = Interventions(visual, layer)
        observed = made.observe(images)
        every = made.direct(observed, range(made.neurons)).formed().sum(1)
        block = visual.transformer.resblocks[layer]
        bias = block.ls_2(block.mlp.c_proj.bias)
        rest = (bias * last["ln_post_weight"]) @ last["projection"] / sigma
        term = parts.layer[:, 2 * layer + 2] - constant / parts.layer.shape[1]
        assert off(every + rest, term) < LIMIT
        assert off(made.direct_sum(observed), every) < LIMIT
        assert off(observed.representation, parts.representation) < 1e-6
        assert off(observed.sigma, parts.scale[:, 1]) < 1e-6


def test_a_bfloat16_tower_is_measured_in_float32() -> None:
    visual = make_tower(layers=4, norm_layer=LayerNormFp32)
    for module in visual.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    kind = visual.conv1.weight.dtype
    for limit in (LIMIT, EXACT):
        check_against_hooks(visual, images_for(visual, 4), 2, [0, 3, 8], limit=limit)
    assert visual.conv1.weight.dtype == kind == torch.bfloat16  # the model itself stays


class _Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else (result,)
        sizes = [part.numel() for part in parts if isinstance(part, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return result


def test_the_memory_allowed_bounds_what_runs_at_a_time() -> None:
    visual = make_tower(layers=4, grid=5)
    images = images_for(visual, 6)
    for layer in (1, 3):
        every = Interventions(visual, layer)
        memory = 10 * every._pass_bytes()
        made = Interventions(visual, layer, memory=memory)
        means, observed = made.token_means([images]).activation, made.observe(images)
        with _Largest() as largest:
            found = made.indirect(observed, range(48), means=means)
        result = found.numel()
        assert 4 * largest.numbers <= max(memory, 4 * result)
        with _Largest() as unbounded:
            every.indirect(observed, range(48), means=means)
        if layer == 1:
            assert unbounded.numbers > 10 * largest.numbers


# Many images


def test_measured_effects_are_those_of_all_batches_together() -> None:
    model = load_model("world")
    images = scenes(30)
    for layer in (2, len(cast("Any", model.visual).transformer.resblocks) - 1):
        of_tokens = Interventions(model.visual, layer).token_means(images.split(7))
        means = of_tokens.activation
        neurons = [0, 5, 17, 100]
        found = measure_effects(
            model,
            [images[:0], *images.split(11)],
            layer=layer,
            neurons=neurons,
            means=means,
            count=12,
            dtype=torch.float64,
        )
        made = Interventions(model.visual, layer, dtype=torch.float64)
        observed = made.observe(images)
        direct = made.direct(observed, neurons)
        formed = made.indirect(observed, neurons, means=means).numpy()
        errors = {
            "means": off(means, made.token_means([images]).activation),
            "representation": off(found.representation, observed.representation),
            "ablated": off(found.ablated, made.ablated(observed, means=means)),
            "direct": off(
                found.direct_coefficient[..., None] * found.direct_direction, direct.formed()
            ),
            "direct norms": off(found.direct_norm, direct.norm),
            "direct sum": off(found.direct_sum, made.direct_sum(observed)),
            "its mean": off(of_tokens.direct_sum, made.direct_sum(observed).mean(0)),
        }
        assert max(errors.values()) < LIMIT, errors
        assert found.neurons == (0, 5, 17, 100)
        assert off(found.indirect_norm, np.linalg.norm(formed, axis=2)) < LIMIT
        for i in range(len(neurons)):
            apart = formed[:, i] - formed[:, i].mean(0)
            lengths = np.linalg.norm(apart, axis=1)
            largest = apart[np.argsort(-lengths, kind="stable")[:12]]
            _, values, rows = np.linalg.svd(largest)
            assert abs(found.indirect_explained[i] - values[0] ** 2 / (values**2).sum()) < LIMIT
            assert abs(abs(found.indirect_direction[i] @ rows[0]) - 1) < LIMIT
            assert off(found.indirect_mean[i], formed[:, i].mean(0)) < LIMIT


def test_in_the_last_layer_the_indirect_effect_is_near_the_direct_one_minus_its_mean() -> None:
    """Only the last norm lies between: its sigma and mean move, which is of the second order."""
    model = load_model("world")
    images = scenes(24)
    layer = len(cast("Any", model.visual).transformer.resblocks) - 1
    made = Interventions(model.visual, layer)
    means, observed = made.token_means([images]).activation, made.observe(images)
    neurons = range(made.neurons)
    indirect = made.indirect(observed, neurons, means=means).flatten().numpy()
    mean = torch.from_numpy(means[0]).float() / observed.sigma[:, None]
    direct = made.direct(observed, neurons)
    apart = ((direct.coefficient - mean)[..., None] * direct.direction).flatten().numpy()
    assert np.corrcoef(indirect, apart)[0, 1] > 0.9


def test_what_does_not_fit_is_refused_by_name() -> None:
    model = load_model("world")
    images = scenes(2)
    layers = len(cast("Any", model.visual).transformer.resblocks)
    for layer in (-1, layers):
        with pytest.raises(UnknownComponent, match=f"0 to {layers - 1}"):
            Interventions(model.visual, layer)
    with pytest.raises(UnsupportedModel, match=r"torch\.float64"):
        Interventions(model.visual, 1, dtype=torch.bfloat16)
    made = Interventions(model.visual, 1)
    means, observed = made.token_means([images]).activation, made.observe(images)
    for neurons in ([made.neurons], [0, -1], [], [0.5], ["L1.N3"], [[1]]):
        for ask in (made.indirect, made.ablated):
            with pytest.raises(UnknownComponent, match=f"0 to {made.neurons - 1}"):
                cast("Any", ask)(observed, neurons=neurons, means=means)
        with pytest.raises(UnknownComponent, match=f"0 to {made.neurons - 1}"):
            made.direct(observed, cast("Any", neurons))
    for wrong in (means[1:], means[:, 1:], means[0], np.full_like(means, np.nan)):
        with pytest.raises(BadMeans, match=r"token_means\(\)"):
            made.ablated(observed, means=wrong)
        with pytest.raises(BadMeans, match=r"token_means\(\)"):
            made.indirect(observed, [0], means=wrong)
    with pytest.raises(BadSelection, match="no image"):
        made.token_means([])
    with pytest.raises(BadSelection, match="no image"):
        measure_effects(model, [images[:0]], layer=1, neurons=[0], means=means)
