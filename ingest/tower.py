"""The image towers that lensbase can take apart, and typed access to their weights.

open_clip's own `VisionTransformer` with a class token: everything else is refused by name,
because its output is not the sum over heads and tokens that `docs/mathematics.md` writes down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

from open_clip.transformer import (
    CustomResidualAttentionBlock,
    LayerScale,
    QuickGELU,
    ResidualAttentionBlock,
    VisionTransformer,
)
from torch import nn

from ..schema.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SUPPORTED = (
    "lensbase reads open_clip's own vision transformers with a class token, GELU or QuickGELU, "
    "with or without ln_pre and LayerScale: ViT-B-32, ViT-B-16, ViT-L-14 and the like"
)
_LINEARS = (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear)


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A LayerNorm over the last axis; weight and bias are None where it has none."""

    weight: Tensor | None
    bias: Tensor | None
    eps: float


@dataclass(frozen=True, kw_only=True)
class Block:
    """One residual block's weights, as open_clip holds them (rows are outputs)."""

    norm_1: Norm
    in_weight: Tensor
    in_bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    scale_1: Tensor | None
    norm_2: Norm
    fc_weight: Tensor
    fc_bias: Tensor | None
    proj_weight: Tensor
    proj_bias: Tensor | None
    scale_2: Tensor | None
    activation: str


@dataclass(frozen=True, kw_only=True)
class Tower:
    """An image tower: how images become tokens, its blocks, its last norm and projection.

    `embed` gives [B, T+1, width] (class token first, after `ln_pre`) for images
    [B, 3, height, width]; `projection` is [width, embed_dim], or None where the tower ends
    with its last norm.
    """

    embed: Callable[[Tensor], Tensor]
    blocks: tuple[Block, ...]
    norm: Norm
    projection: Tensor | None
    heads: int
    width: int
    embed_dim: int
    grid: tuple[int, int]
    patch_size: int
    image_size: int
    activation: str


def refuse(what: str) -> NoReturn:
    """Raise UnsupportedModel for `what` (a noun phrase), saying what is supported."""
    msg = f"{what} cannot be taken apart into heads and tokens; {SUPPORTED}"
    raise UnsupportedModel(msg)


def read_tower(visual: nn.Module) -> Tower:
    """Read an image tower's weights (shared, not copied) and its shape.

    Raises UnsupportedModel for timm towers, ResNets, attention or average pooling, and blocks
    whose attention is not linear in the values or whose linear maps are wrapped or quantised.
    """
    kind = type(visual).__name__
    if not isinstance(visual, VisionTransformer):
        named = {"TimmModel": "a timm tower", "ModifiedResNet": "a ResNet tower"}
        refuse(named.get(kind, f"an image tower of class {kind}"))
    if getattr(visual, "attn_pool", None) is not None:
        refuse("attention pooling (CoCa and its kin)")
    if visual.pool_type != "tok":
        pooling = {"avg": "average pooling", "none": "a tower without pooling"}
        refuse(pooling.get(str(visual.pool_type), f"pooling {visual.pool_type!r}"))
    if not isinstance(visual.ln_post, nn.LayerNorm):
        refuse("a tower whose last norm is not a LayerNorm")
    blocks = tuple(_block(module) for module in visual.transformer.resblocks)
    activations = {block.activation for block in blocks}
    if len(activations) != 1:
        refuse(f"a tower that mixes activations ({', '.join(sorted(activations)) or 'no blocks'})")
    heads = {_heads(module) for module in visual.transformer.resblocks}
    if len(heads) != 1:
        refuse("a tower whose layers differ in their number of heads")
    projection = cast("Tensor | None", visual.proj)
    width = visual.conv1.weight.shape[0]
    height, _ = cast("tuple[int, int]", visual.image_size)
    rows, columns = cast("tuple[int, int]", visual.grid_size)
    return Tower(
        embed=visual._embeds,  # pyright: ignore[reportPrivateUsage]
        blocks=blocks,
        norm=_norm(visual.ln_post),
        projection=projection,
        heads=heads.pop(),
        width=width,
        embed_dim=width if projection is None else projection.shape[1],
        grid=(rows, columns),
        patch_size=int(cast("tuple[int, int]", visual.patch_size)[0]),
        image_size=height,
        activation=activations.pop(),
    )


def image_tower(model: nn.Module) -> nn.Module:
    """Give a CLIP's image tower; raises UnsupportedModel where there is none."""
    visual = getattr(model, "visual", None)
    if isinstance(visual, nn.Module) and callable(getattr(model, "encode_text", None)):
        return visual
    if isinstance(model, VisionTransformer):
        msg = "an image tower alone has no text encoder: pass the CLIP that it belongs to"
        raise UnsupportedModel(msg)
    refuse(f"a model of class {type(model).__name__} (no .visual and .encode_text)")


def _heads(module: nn.Module) -> int:
    return int(cast("nn.MultiheadAttention", module.attn).num_heads)


def _norm(module: nn.Module) -> Norm:
    if not isinstance(module, nn.LayerNorm):
        refuse(f"a block normalised by {type(module).__name__}")
    weight = cast("Tensor | None", module.weight)
    return Norm(weight=weight, bias=cast("Tensor | None", module.bias), eps=module.eps)


def _scale(module: nn.Module) -> Tensor | None:
    if isinstance(module, LayerScale):
        return cast("Tensor", module.gamma)
    if not isinstance(module, nn.Identity):
        refuse(f"a residual branch scaled by {type(module).__name__}")
    return None


def _linear(module: nn.Module) -> nn.Linear:
    # An adapter or a quantised layer adds to the weight or replaces it; reading `.weight` alone
    # would silently decompose another model.
    if type(module) not in _LINEARS:
        refuse(f"a linear map of class {type(module).__name__} (merge adapters, undo quantisation)")
    return cast("nn.Linear", module)


def _activation(module: nn.Module) -> str:
    if isinstance(module, QuickGELU):
        return "quickgelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    refuse(f"an MLP activated by {type(module).__name__}")


def _block(module: nn.Module) -> Block:
    attention, mlp = cast("Any", module.attn), cast("Any", module.mlp)
    if isinstance(module, CustomResidualAttentionBlock):
        plain = (attention.ln_q, attention.ln_k, attention.ln_inner, module.ln_attn, mlp.ln)
        scales = (attention.logit_scale, attention.head_scale)
        if not all(isinstance(m, nn.Identity) for m in plain) or scales != (None, None):
            refuse("a block with normalised or rescaled attention (qk_norm, scale_heads, ...)")
    elif type(module) is not ResidualAttentionBlock or hasattr(module, "ln_1_kv"):
        refuse(f"a block of class {type(module).__name__}")
    elif attention.in_proj_weight is None or attention.bias_k is not None:
        refuse("attention with separate or extended keys and values")
    out, fc, proj = _linear(attention.out_proj), _linear(mlp.c_fc), _linear(mlp.c_proj)
    return Block(
        norm_1=_norm(module.ln_1),
        in_weight=attention.in_proj_weight,
        in_bias=attention.in_proj_bias,
        out_weight=out.weight,
        out_bias=out.bias,
        scale_1=_scale(module.ls_1),
        norm_2=_norm(module.ln_2),
        fc_weight=fc.weight,
        fc_bias=fc.bias,
        proj_weight=proj.weight,
        proj_bias=proj.bias,
        scale_2=_scale(module.ls_2),
        activation=_activation(mlp.gelu),
    )
