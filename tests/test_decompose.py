"""The forward pass against the formulas: everything it yields, from loops in float64."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.factory import get_model_config
from open_clip.model import CLIP
from open_clip.transformer import LayerNorm, LayerNormFp32, QuickGELU
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from vision_reference import images_for, make_tower, off, reference

from lensbase.ingest.decompose import (
    Decomposer,
    Decomposition,
    Kept,
    head_basis,
    projection_weights,
)
from lensbase.schema.errors import UnsupportedModel

LIMIT = 1e-5

TOWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"ls_init_value": 0.5},
    "no ln_pre, QuickGELU": {"no_ln_pre": True, "act_layer": QuickGELU},
    "no ln_pre, layer scale": {"no_ln_pre": True, "ls_init_value": 0.5},
    "QuickGELU, layer scale, norm in float32": {
        "act_layer": QuickGELU,
        "ls_init_value": 0.5,
        "norm_layer": LayerNormFp32,
    },
    "norm after pooling, patch dropout": {"final_ln_after_pool": True, "patch_dropout": 0.5},
    "custom blocks": {"block_type": "custom", "ls_init_value": 0.5},
    "sin-cos positions": {"pos_embed_type": "sin_cos_2d"},
}


def factors(found: Decomposition) -> torch.Tensor:
    mu, sigma = found.scale[:, 0], found.scale[:, 1]
    rest = torch.stack((mu / sigma, 1 / sigma, torch.ones_like(mu)), 1)[:, None, None]
    u = found.head_value / sigma[:, None, None, None]
    return torch.cat((u, rest.expand(*u.shape[:3], 3)), -1)


def everything(layers: int) -> Kept:
    every = tuple(range(layers))
    return Kept(every, tokens=True, head_token_layers=every, neuron_input_layers=every[:-1])


@pytest.mark.parametrize("options", TOWERS.values(), ids=TOWERS.keys())
def test_every_part_is_what_the_formulas_give(options: dict[str, Any]) -> None:
    visual = make_tower(**options)
    images = images_for(visual)
    found = Decomposer(visual, everything(3))(images)
    basis = torch.from_numpy(head_basis(visual, range(3)))
    heads = torch.einsum("klhf,lhfe->klhe", factors(found), basis)
    assert found.token is not None
    assert found.head_token_weight is not None
    assert found.head_token_value is not None
    for i, image in enumerate(images):
        wanted = reference(visual, image)
        assert off(visual(images)[i], wanted.representation) < LIMIT  # open_clip agrees
        assert off(found.representation[i], wanted.representation) < LIMIT
        assert off(found.layer[i], wanted.layer) < LIMIT
        assert off(found.head_value[i], wanted.u) < LIMIT
        assert off(heads[i], wanted.c.sum(2)) < LIMIT
        assert off(found.token[i], wanted.c.sum((0, 1))[1:]) < LIMIT
        assert off(found.cls_token[i], wanted.c.sum((0, 1))[0]) < LIMIT
        assert off(found.head_token_weight[i], wanted.alpha) < LIMIT
        assert off(found.head_token_value[i], wanted.v) < LIMIT
        norm = np.linalg.norm(wanted.representation)
        assert off(found.scale[i, :3], (wanted.mu, wanted.sigma, norm)) < LIMIT


def identities(found: Decomposition, visual: Any, images: torch.Tensor) -> dict[str, float]:
    """How far each sum of parts is from its whole; head layers: all, head-tokens: all kept."""
    depth = found.layer.shape[1] // 2
    whole = visual(images).float()
    attention = found.layer[:, 1::2]
    basis = torch.from_numpy(head_basis(visual, range(depth)))
    heads = torch.einsum("klhf,lhfe->klhe", factors(found), basis)
    result = {
        "representation": off(found.representation, whole),
        "layers": off(found.layer.sum(1), whole),
        "residual": float(found.scale[:, 3].max()),
        "heads": off(heads.sum(2), attention),
    }
    if found.token is not None:
        tokens = found.token.sum(1) + found.cls_token
        result["tokens"] = off(tokens, attention.sum(1))
        rest = found.layer[:, 0] + found.layer[:, 2::2].sum(1)
        result["all"] = off(tokens + rest, whole)
    if found.head_token_weight is not None:
        assert found.head_token_value is not None
        mixed = torch.einsum("klht,klthe->klhe", found.head_token_weight, found.head_token_value)
        result["head-tokens"] = off(mixed, found.head_value[:, -mixed.shape[1] :])
    return result


@given(
    layers=st.integers(1, 5),
    heads=st.integers(1, 5),
    head_width=st.integers(2, 9).map(lambda n: 2 * n),
    grid=st.integers(1, 5),
    count=st.integers(1, 4),
    scaled=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_parts_add_up_in_towers_of_any_shape(
    layers: int, heads: int, head_width: int, grid: int, count: int, *, scaled: bool
) -> None:
    options = {"ls_init_value": 0.5} if scaled else {}
    visual = make_tower(layers=layers, heads=heads, head_width=head_width, grid=grid, **options)
    images = images_for(visual, count)
    for name, value in identities(
        Decomposer(visual, everything(layers))(images), visual, images
    ).items():
        assert value < LIMIT, f"{name}: {value:.1e}"


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16"])
def test_parts_add_up_in_models_of_real_size(name: str) -> None:
    config = cast("dict[str, Any]", get_model_config(name))
    config["text_cfg"] |= {"layers": 1, "vocab_size": 9}  # not what is tested here
    visual = CLIP(**config).visual.eval().requires_grad_(requires_grad=False)
    images = torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(1))
    kept = Kept(tuple(range(12)), tokens=True, head_token_layers=(10, 11))
    for part, value in identities(Decomposer(visual, kept)(images), visual, images).items():
        assert value < LIMIT, f"{part}: {value:.1e}"


def test_without_a_projection_the_joint_space_is_the_models_own() -> None:
    visual = make_tower()
    visual.proj = None
    images = images_for(visual)
    found = Decomposer(visual, everything(3))(images)
    assert found.representation.shape == (2, 24)
    assert max(identities(found, visual, images).values()) < LIMIT


def test_less_kept_is_less_given_and_the_same_numbers() -> None:
    visual = make_tower()
    images = images_for(visual, 3)
    whole = Decomposer(visual, everything(3))(images)
    assert whole.head_token_weight is not None
    part = Decomposer(visual, Kept((1,)))(images)
    assert part.token is None
    assert part.head_token_weight is None
    assert part.head_token_value is None
    assert torch.equal(part.layer, whole.layer)
    assert torch.equal(part.head_value, whole.head_value[:, 1:2])
    assert off(part.cls_token, whole.cls_token) < LIMIT
    part = Decomposer(visual, Kept((), tokens=False, head_token_layers=(2,)))(images)
    assert part.head_value.shape == (3, 0, 4, 6)
    assert part.head_token_weight is not None
    assert torch.equal(part.head_token_weight[:, 0], whole.head_token_weight[:, 2])


def test_weights_and_images_are_left_as_they_were() -> None:
    visual = make_tower(no_ln_pre=True, ls_init_value=0.5)
    images = images_for(visual)
    before = {key: value.clone() for key, value in visual.state_dict().items()}
    copied = images.clone()
    decompose = Decomposer(visual, everything(3))
    first, second = decompose(images), decompose(images)
    assert torch.equal(first.layer, second.layer)
    assert first.token is not None
    assert second.token is not None
    assert torch.equal(first.token, second.token)
    assert torch.equal(images, copied)
    assert all(torch.equal(value, before[key]) for key, value in visual.state_dict().items())


def test_what_is_given_keeps_nothing_else_alive() -> None:
    visual = make_tower(grid=5)
    found = Decomposer(visual, everything(3))(images_for(visual, 3))
    for name, tensor in vars(found).items():
        shared = name in ("cls_token", "token")  # one tensor of T+1 tokens for both
        numbers = 3 * 26 * 10 if shared else tensor.numel()
        assert tensor.untyped_storage().nbytes() == 4 * numbers, name


class _Shapes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        parts = result if isinstance(result, tuple | list) else (result,)
        self.seen |= {tuple(part.shape) for part in parts if isinstance(part, torch.Tensor)}
        return result


def test_no_map_of_tokens_by_tokens_is_formed() -> None:
    visual = make_tower(grid=5, head_width=8)  # 26 tokens; no other axis has 26
    decompose = Decomposer(visual, everything(3))
    images = images_for(visual, 3)
    with _Shapes() as shapes:
        decompose(images)
    assert any(26 in shape for shape in shapes.seen)
    assert not [shape for shape in shapes.seen if shape.count(26) > 1]


def test_bfloat16_keeps_layers_and_heads_exact_and_tokens_near() -> None:
    single = make_tower(norm_layer=LayerNormFp32, ls_init_value=0.5)
    images = images_for(single, 4)
    exact = Decomposer(single, everything(3))(images)
    half = make_tower(norm_layer=LayerNormFp32, ls_init_value=0.5)
    for module in half.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    found = Decomposer(half, everything(3))(images)
    for tensor in vars(found).values():
        assert tensor.dtype == torch.float32
    result = identities(found, half, images.bfloat16())
    assert result["residual"] < LIMIT
    assert result["heads"] < LIMIT
    assert result["tokens"] < 0.02
    assert result["head-tokens"] < 0.02
    assert result["representation"] < 0.03  # open_clip's own bfloat16 pass rounds everywhere
    assert off(found.representation, exact.representation) < 0.03


def test_projection_weights_turn_the_sum_of_terms_into_the_representation() -> None:
    visual = make_tower(ls_init_value=0.5)
    arrays = projection_weights(visual)
    z = torch.randn((5, 24), generator=torch.Generator().manual_seed(2)).double().numpy()
    sigma = np.sqrt(z.var(1, keepdims=True) + float(arrays["ln_post_eps"]))
    normed = (z - z.mean(1, keepdims=True)) / sigma
    found = (normed * arrays["ln_post_weight"] + arrays["ln_post_bias"]) @ arrays["projection"]
    wanted = visual.ln_post(torch.from_numpy(z).float()) @ visual.proj
    assert off(found, wanted) < LIMIT
    block = visual.transformer.resblocks[1]
    assert off(arrays["out_bias"][1], block.ls_1.gamma * block.attn.out_proj.bias) < LIMIT


@pytest.mark.parametrize("layers", [(3,), (-1,), (1, 0), (1, 1)])
def test_layers_that_the_tower_lacks_are_refused(layers: tuple[int, ...]) -> None:
    visual = make_tower()
    with pytest.raises(ValueError, match="0 to 2"):
        Decomposer(visual, Kept(layers))
    with pytest.raises(ValueError, match="0 to 2"):
        Decomposer(visual, Kept((), head_token_layers=layers))
    with pytest.raises(ValueError, match="0 to 2"):
        head_basis(visual, layers)


def test_a_tower_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eval\(\)"):
        Decomposer(make_tower(patch_dropout=0.5).train(), Kept())


class _Low(nn.Linear):
    """Stands for an adapter: its weight is not all that it applies."""


@pytest.mark.parametrize(
    "options",
    [
        {"pool_type": "avg"},
        {"pool_type": "none"},
        {"attentional_pool": True, "attn_pooler_heads": 2},
        {"qk_norm": True},
        {"scale_heads": True},
        {"scale_attn_inner": True},
        {"scale_attn": True},
        {"scale_fc": True},
        {"act_layer": nn.ReLU},
    ],
    ids=lambda options: (
        next(iter(options.values())) if "act_layer" in options else "-".join(options)
    ),
)
def test_towers_that_are_not_sums_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModel, match="ViT-B-32"):
        Decomposer(make_tower(**options), Kept())


def test_adapters_are_refused() -> None:
    visual = make_tower()
    visual.transformer.resblocks[1].mlp.c_fc = _Low(24, 48)
    with pytest.raises(UnsupportedModel, match="merge adapters"):
        Decomposer(visual, Kept())


def test_the_norms_of_both_precisions_are_told_from_others() -> None:
    assert issubclass(LayerNorm, nn.LayerNorm)
    visual = make_tower()
    visual.transformer.resblocks[0].ln_2 = nn.Identity()
    with pytest.raises(UnsupportedModel, match="Identity"):
        Decomposer(visual, Kept())
