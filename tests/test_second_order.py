"""Second-order effects by factors against effects formed from the formula in float64."""

from __future__ import annotations

from typing import Any, cast

import literal_second_order as literal
import numpy as np
import numpy.typing as npt
import pytest
import torch
from driven_tower import (
    drive,
    formed,
    formed_component,
    gram_root,
    signed_coefficients,
    tiny,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.factory import get_model_config
from open_clip.model import CLIP
from open_clip.transformer import QuickGELU
from torch.utils._python_dispatch import TorchDispatchMode
from vision_reference import images_for, make_tower, off

from lensbase.ingest.neuron_layers import fit_bytes, plan_passes, root_bytes, trace_bytes
from lensbase.ingest.second_order import (
    SecondOrder,
    Trace,
    effect_norms,
    inner_products,
)
from lensbase.queries.second_order import first_component, rank_one
from lensbase.schema.errors import BadSelection, MemoryTooSmall

F64 = npt.NDArray[np.float64]

EFFECTS, NORMS, SUMS = 1e-4, 1e-3, 1e-4


TOWERS: dict[str, Any] = {
    "random": lambda: make_tower(layers=4),
    "random, LayerScale": lambda: make_tower(layers=4, ls_init_value=0.5),
    "random, no ln_pre, QuickGELU": lambda: make_tower(
        layers=4, no_ln_pre=True, act_layer=QuickGELU
    ),
    "tiny": tiny,
    "tiny, QuickGELU": lambda: tiny(quick_gelu=True),
    "tiny, no ln_pre": lambda: tiny(vision={"no_ln_pre": True}),
    "tiny, LayerScale": lambda: tiny(vision={"ls_init_value": 0.1}),
}


def worst(found: Any, wanted: F64) -> float:
    """The largest relative error of any one effect [..., E].

    Of its own length, but no less than a hundredth of the median length: where activations
    cross zero, the float32 pass itself loses digits.
    """
    difference = np.linalg.norm(np.asarray(found, np.float64) - wanted, axis=-1)
    lengths = np.linalg.norm(wanted, axis=-1)
    return float((difference / np.maximum(lengths, np.median(lengths) / 100)).max())


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS.keys())
def test_effects_norms_and_sums_are_those_of_the_formula(make: Any) -> None:
    visual = make()
    images = images_for(visual, 3)
    trace = drive(visual, images, SecondOrder(visual, (0, 1, 2)))
    seen = [literal.run(visual, image) for image in images]
    rng = np.random.default_rng(3)
    for layer in (0, 1, 2):
        count = trace.second_order.neurons(layer)
        wanted = np.array([[literal.effect(s, layer, n) for n in range(count)] for s in seen])
        factors, root = trace.factors(layer), trace.second_order.root(layer)
        vectors = rng.normal(size=(count, wanted.shape[2]))
        folded = trace.second_order.fold(layer, torch.from_numpy(vectors))
        mask = torch.from_numpy(rng.random((3, count)) < 0.1)
        chosen = (mask.double().numpy()[..., None] * wanted).sum(1)
        everything = torch.ones_like(mask)
        exact = np.linalg.norm(wanted, axis=2, keepdims=True)
        errors = {
            "effects": (worst(formed(trace, layer), wanted), EFFECTS),
            "norms": (worst(effect_norms(factors, root)[..., None], exact), NORMS),
            "inner products": (
                off(inner_products(factors, folded), np.einsum("kne,ne->kn", wanted, vectors)),
                EFFECTS,
            ),
            "sum": (off(trace.total(layer), wanted.sum(1)), SUMS),
            "sum, one by one": (off(trace.masked_total(layer, everything), wanted.sum(1)), SUMS),
            "sum over a mask": (off(trace.masked_total(layer, mask), chosen), SUMS),
            "share of constants": (
                off(trace.bias(layer), [literal.constant_share(s, layer) for s in seen]),
                SUMS,
            ),
        }
        for name, (error, limit) in errors.items():
            assert error < limit, f"layer {layer}, {name}: {error:.1e}, limit {limit:.0e}"


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS.keys())
def test_neurons_and_output_bias_add_up_to_the_mlp_sent_through_later_heads(make: Any) -> None:
    visual = make()
    images = images_for(visual, 2)
    trace = drive(visual, images, SecondOrder(visual, (0, 1, 2)))
    for layer in (0, 1, 2):
        total = trace.masked_total(layer, torch.ones((2, trace.second_order.neurons(layer))) > 0)
        for i, image in enumerate(images):
            seen = literal.run(visual, image)
            rest = literal.output_bias(seen, layer) * np.ones((len(seen.hidden[layer]), 1))
            found = total[i].double().numpy() + literal.through_later_heads(seen, layer, rest)
            error = off(found, literal.through_later_heads(seen, layer, seen.output[layer]))
            assert error < SUMS, f"layer {layer}: {error:.1e}"


def test_effects_in_a_model_of_real_size_are_those_of_the_formula() -> None:
    config = cast("dict[str, Any]", get_model_config("ViT-B-32"))
    config["text_cfg"] |= {"layers": 1, "vocab_size": 9}  # not what is tested here
    torch.manual_seed(0)
    visual = CLIP(**config).visual.eval().requires_grad_(requires_grad=False)
    image = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    trace = drive(visual, image, SecondOrder(visual, (8, 10)))
    seen = literal.run(visual, image[0])
    for layer in (8, 10):
        norms = effect_norms(trace.factors(layer), trace.second_order.root(layer))[0]
        found = formed(trace, layer)[0]
        chosen = [0, 391, 1500, 3071, int(norms.argmax()), int(norms.argmin())]
        wanted = np.array([literal.effect(seen, layer, n) for n in chosen])
        error = worst(found[chosen], wanted)
        assert error < EFFECTS, f"layer {layer}, effects: {error:.1e}"
        error = worst(norms[chosen, None], np.linalg.norm(wanted, axis=1, keepdims=True))
        assert error < NORMS, f"layer {layer}, norms: {error:.1e}"
        error = worst(norms[:, None], np.linalg.norm(found, axis=1, keepdims=True))
        assert error < NORMS, f"layer {layer}, all norms against formed effects: {error:.1e}"
        rest = literal.output_bias(seen, layer) * np.ones((50, 1))
        total = trace.total(layer)[0].double().numpy() + literal.through_later_heads(
            seen, layer, rest
        )
        error = off(total, literal.through_later_heads(seen, layer, seen.output[layer]))
        assert error < SUMS, f"layer {layer}, sum: {error:.1e}"


def test_paths_that_cancel_leave_the_norm_as_exact_as_the_effect() -> None:
    # Two heads that write almost opposite things: the norm is 1e-4 of either path's. By way of
    # the Gram matrix in float32 nothing would be left of it.
    visual = make_tower(layers=2, heads=2, head_width=8)
    attention = visual.transformer.resblocks[1].attn
    attention.in_proj_weight[40:] = attention.in_proj_weight[32:40]
    attention.in_proj_weight[8:16] = attention.in_proj_weight[:8]  # equal queries and keys, too
    attention.in_proj_weight[24:32] = attention.in_proj_weight[16:24]
    attention.in_proj_bias[8:16] = attention.in_proj_bias[:8]
    attention.in_proj_bias[24:32] = attention.in_proj_bias[16:24]
    noise = torch.randn((16, 8), generator=torch.Generator().manual_seed(3))
    attention.out_proj.weight[:, 8:] = -attention.out_proj.weight[:, :8] + 1e-4 * noise
    images = images_for(visual, 3)
    second_order = SecondOrder(visual, (0,))
    trace = drive(visual, images, second_order)
    seen = [literal.run(visual, image) for image in images]
    wanted = np.array([[literal.effect(s, 0, n) for n in range(32)] for s in seen])
    exact = np.linalg.norm(wanted, axis=2)
    factors, root = trace.factors(0), second_order.root(0)
    single = np.linalg.norm(factors[..., :1] * torch.linalg.vector_norm(root[:, :1], dim=2), axis=2)
    assert np.median(exact / single) < 1e-3, "the paths do not cancel"
    error = np.median(np.abs(effect_norms(factors, root).numpy() - exact) / exact)
    gram = root @ root.transpose(1, 2)
    squared = torch.einsum("bnj,njk,bnk->bn", factors, gram, factors).clamp(min=0)
    naive = np.median(np.abs(squared.sqrt().numpy() - exact) / exact)
    assert error < 1e-3, f"{error:.1e}; by the Gram matrix in float32 {naive:.1e}"
    assert error < naive / 100, f"{error:.1e}; by the Gram matrix in float32 {naive:.1e}"


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


def test_no_effect_is_ever_formed() -> None:
    visual = make_tower(layers=4, grid=5)
    second_order = SecondOrder(visual, (0, 1, 2))
    trace = drive(visual, images_for(visual, 3), second_order)
    mask = torch.ones((3, 48)) > 0
    folded = second_order.fold(0, torch.ones((48, 10)))
    with _Largest() as largest:
        for layer in second_order.layers:
            factors = trace.factors(layer)
            effect_norms(factors, second_order.root(layer))
            trace.total(layer)
            trace.masked_total(layer, mask, factors=factors)
        inner_products(trace.factors(0), folded)
    activations = 3 * 26 * 48
    assert largest.numbers <= activations, f"{largest.numbers} numbers, activations {activations}"


def test_layers_are_independent_of_each_other() -> None:
    visual = make_tower(layers=4)
    images = images_for(visual)
    together = drive(visual, images, SecondOrder(visual, (0, 2)))
    alone = drive(visual, images, SecondOrder(visual, (2,)))
    for ask in (Trace.factors, Trace.total, Trace.bias):
        assert off(ask(together, 2), ask(alone, 2)) < 1e-6
    assert torch.equal(together.second_order.root(2), alone.second_order.root(2))


def test_an_unfinished_batch_and_bad_layers_are_refused() -> None:
    visual = make_tower(layers=4)
    with pytest.raises(RuntimeError, match="finish"):
        SecondOrder(visual, (0,)).trace().factors(0)
    for layers in ((), (3,), (-1,), (1, 0), (1, 1), (0, 4)):
        with pytest.raises(ValueError, match="0 to 2 of"):
            SecondOrder(visual, layers)
        with pytest.raises(ValueError, match="0 to 2 of"):
            plan_passes(visual, layers, images=9, memory=10**9)


def test_passes_fill_the_memory_that_is_allowed() -> None:
    visual = make_tower(layers=5)
    sizes = [root_bytes(visual, layer) for layer in range(4)]
    assert sizes == [4 * 48 * (4 * later) ** 2 for later in (4, 3, 2, 1)]
    kept = SecondOrder(visual, (0, 1, 2, 3))
    assert sizes == [kept.root(layer).nbytes for layer in range(4)]
    every = tuple(range(4))
    whole = [size + fit_bytes(visual, i, images=9) for i, size in zip(every, sizes, strict=True)]
    assert plan_passes(visual, every, images=9, memory=sum(whole)) == (every,)
    assert plan_passes(visual, every, images=9, memory=sum(whole) - 1) == ((0, 1, 2), (3,))
    assert plan_passes(visual, (1, 3), images=9, memory=whole[1]) == ((1,), (3,))
    said = f"layer 0's neurons to 9 images takes {whole[0]:,} bytes, more than the {whole[0] - 1:,}"
    with pytest.raises(MemoryTooSmall, match=said):
        plan_passes(visual, (0, 1), images=9, memory=whole[0] - 1)
    assert plan_passes(visual, (0, 1), images=8, memory=whole[0] - 1) == ((0,), (1,))


def test_a_large_model_needs_the_memory_that_is_announced() -> None:
    config = cast("dict[str, Any]", get_model_config("ViT-L-14"))
    config["text_cfg"] |= {"layers": 1, "vocab_size": 9}
    with torch.device("meta"):
        visual = CLIP(**config).visual
    every = tuple(range(23))
    sizes = [root_bytes(visual, layer) for layer in every]
    assert sizes[0] == pytest.approx(2.2e9, rel=0.01)
    assert sum(sizes) == pytest.approx(18e9, rel=0.01)
    whole = [size + fit_bytes(visual, i, images=5000) for i, size in zip(every, sizes, strict=True)]
    passes = plan_passes(visual, every, images=5000, memory=4 * 10**9)
    assert sorted(layer for one in passes for layer in one) == list(every)
    assert all(sum(whole[layer] for layer in one) <= 4 * 10**9 for one in passes)
    assert sum(whole) == pytest.approx(27.3e9, rel=0.01)
    assert len(passes) == 7  # 27 GB in parts of 4 GB
    # Activations of three layers and one layer's factors, three times.
    wanted = 257 * 3 * (4096 + 1024) + 257 * 48 + 3 * 4096 * 48
    assert trace_bytes(visual, (20, 21, 22)) == 4 * wanted


@given(
    images=st.integers(2, 40),
    paths=st.integers(1, 12),
    joint=st.integers(2, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_components_by_factors_are_those_of_formed_effects(
    images: int, paths: int, joint: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    neurons, count = 4, 15
    directions = rng.normal(size=(neurons, paths, joint))
    factors = rng.gamma(0.5, size=(images, neurons, paths))
    root = gram_root(directions @ directions.swapaxes(1, 2))
    found = rank_one(factors, root, count=count)
    effects = np.einsum("knj,nje->kne", factors, directions)
    mean = effects.mean(0)
    x = signed_coefficients(factors, root, fitted=found)
    for n in range(neurons):
        apart = effects[:, n] - mean[n]
        order = np.argsort(-np.linalg.norm(apart, axis=1), kind="stable")[:count]
        lengths = np.linalg.norm(apart, axis=1)
        assert np.allclose(lengths[found.rows[n]], lengths[order], rtol=1e-6)
        r, explained = formed_component(apart[found.rows[n]])
        direction = found.coefficients[n] @ directions[n]
        assert abs(found.explained[n] - explained) < 1e-9
        assert abs(np.linalg.norm(direction) - 1) < 1e-6
        if _one_leads(apart[found.rows[n]]):
            # An even split of signs leaves the sign open.
            signs = np.sign(apart[found.rows[n]] @ r).sum()
            r = r if signs else r * np.sign(r @ direction)
            assert off(direction, r) < 1e-5
            assert np.allclose(x[:, n], apart @ r, atol=1e-5 * lengths.max())
        assert off(found.mean[n] @ directions[n], mean[n]) < 1e-9


def _one_leads(effects: F64) -> bool:
    values = np.linalg.svd(effects, compute_uv=False)
    return len(values) < 2 or bool(values[1] < 0.99 * values[0])


def test_components_of_a_tower_are_those_of_its_formed_effects() -> None:
    visual = tiny()
    images = images_for(visual, 60)
    trace = drive(visual, images, SecondOrder(visual, (1,)))
    factors, root = trace.factors(1).numpy(), trace.second_order.root(1).numpy()
    effects = formed(trace, 1)
    for count in (10, 40):  # fewer than the 16 paths, and more
        found = rank_one(factors, root, count=count)
        second = trace.second_order
        direction = second.combine(1, torch.from_numpy(found.coefficients)).double().numpy()
        mean = second.combine(1, torch.from_numpy(found.mean)).double().numpy()
        folded = second.fold(1, torch.from_numpy(direction))
        x = signed_coefficients(factors, root, fitted=found)
        offset = (mean * direction).sum(1)
        by_torch = inner_products(torch.from_numpy(factors), folded).double().numpy() - offset
        for n in range(effects.shape[1]):
            apart = effects[:, n] - effects[:, n].mean(0)
            order = np.argsort(-np.linalg.norm(apart, axis=1), kind="stable")[:count]
            r, explained = formed_component(apart[order])
            assert abs(found.explained[n] - explained) < 1e-5
            r = r if (np.sign(apart[order] @ r)).sum() else r * np.sign(r @ direction[n])
            error = off(direction[n], r)
            assert error < 1e-3, f"neuron {n}, direction: {error:.1e}"
            for name, numbers in {"numpy": x, "torch": by_torch}.items():
                error = off(numbers[:, n], apart @ r)
                assert error < 1e-3, f"neuron {n}, coefficients by {name}: {error:.1e}"


def test_a_neuron_without_effects_has_no_direction_and_rejected_images_are_skipped() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 4, 5))
    directions[1] = 0
    root = gram_root(directions @ directions.swapaxes(1, 2))
    factors = rng.normal(size=(30, 3, 4))
    factors[:, 2] = 2.0  # the same in every image
    clean = rank_one(factors, root, count=8)
    assert np.isfinite(clean.coefficients).all()
    assert clean.explained[1] == 0
    assert not clean.coefficients[1].any()
    assert clean.explained[2] == 0
    spoiled = np.insert(factors, [3, 17], np.nan, axis=0)
    found = rank_one(spoiled, root, count=8)
    kept = np.flatnonzero(np.isfinite(spoiled).all((1, 2)))
    assert np.array_equal(found.rows, kept[clean.rows])
    assert np.array_equal(found.coefficients, clean.coefficients)
    with pytest.raises(BadSelection, match="0 usable images"):
        rank_one(np.full((2, 3, 4), np.nan), root)


def test_the_sign_is_that_of_most_of_the_largest_effects() -> None:
    rng = np.random.default_rng(0)
    root = np.eye(3)[None]
    largest = np.zeros((1, 9, 3))
    largest[0, :, 0] = [9, 9, 9, -1, -1, -1, -1, -1, -1]
    largest[0] += 1e-3 * rng.normal(size=(9, 3))
    for factor in (1, -1):
        found = first_component(factor * largest, root)
        assert found.coefficients[0, 0] * factor == pytest.approx(-1, abs=1e-2)
