"""Models by name, tag, file or module, with everything that identifies one."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import open_clip
import torch
from open_clip.model import convert_weights_to_lp
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import LayerNorm, LayerNormFp32
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import Normalize

from ..schema.errors import PreprocessMissing, UnknownModel, UnsupportedModel
from ..schema.records import ModelInfo
from .decompose import Decomposer, Kept
from .model_plan import WORLD, build_model, not_fetched, plan_model
from .tower import image_tower, read_tower

if TYPE_CHECKING:
    import numpy.typing as npt

Preprocess: TypeAlias = Callable[[Image.Image], Tensor]
Tokenizer: TypeAlias = Callable[[list[str]], Tensor]

_BPE_VOCABULARY = 49408  # of CLIP's own tokenizer


@dataclass
class LoadedModel:
    """A CLIP ready to be read: in evaluation mode, without gradients, on its device."""

    info: ModelInfo
    model: nn.Module
    preprocess: Preprocess
    tokenizer: Tokenizer

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return cast("nn.Module", self.model.visual)

    @torch.inference_mode()
    def encode_text(
        self, texts: Sequence[str], *, batch_size: int = 256
    ) -> npt.NDArray[np.float32]:
        """Unit-length embeddings [len(texts), E] of texts, in the joint space, in float32."""
        encode = cast("Callable[[Tensor], Tensor]", self.model.encode_text)
        device = next(self.model.parameters()).device
        out = np.empty((len(texts), self.info.embed_dim), np.float32)
        for start in range(0, len(texts), batch_size):
            tokens = self.tokenizer(list(texts[start : start + batch_size])).to(device)
            embedded = F.normalize(encode(tokens).float(), dim=-1)
            out[start : start + len(embedded)] = embedded.cpu().numpy()
        return out


def load_model(
    name: str | nn.Module,
    *,
    pretrained: str | None = None,
    preprocess: Preprocess | None = None,
    tokenizer: Tokenizer | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> LoadedModel:
    """Load a CLIP whose image tower is open_clip's vision transformer with a class token.

    `name` is "world" (the CLIP that comes with lensbase), an open_clip name, `hf-hub:ORG/REPO`,
    `local-dir:PATH` (an `open_clip_config.json` beside the weights), or a module, which is
    copied. `pretrained` is a tag or a checkpoint file; without it a name gives the random weights
    of a fixed seed. With `precision="bf16"` the image tower's matrix products are bfloat16; texts
    are embedded in float32 always. Raises UnknownModel, UnsupportedModel, ActivationMismatch,
    WeightsNotFound, UnsafeCheckpoint, CheckpointMismatch or PreprocessMissing.
    """
    if precision not in ("fp32", "bf16"):
        msg = f"precision {precision!r} is not offered; use 'fp32' or 'bf16'"
        raise UnsupportedModel(msg)
    if isinstance(name, nn.Module):
        _check_no_tag("a module", pretrained)
        source, model = "module", copy.deepcopy(_unwrapped(name))
        name = type(model).__name__.lower()
    elif name == WORLD:
        _check_no_tag(f"'{WORLD}'", pretrained)
        from .world.model import load_clip

        source = WORLD
        model, world_preprocess, world_tokenizer = load_clip()
        preprocess, tokenizer = preprocess or world_preprocess, tokenizer or world_tokenizer
    else:
        plan = plan_model(name, pretrained)
        source, model = plan.source, build_model(plan)
        tokenizer = tokenizer or _named_tokenizer(plan.name)
    model = model.eval().requires_grad_(requires_grad=False)
    visual = image_tower(model)
    tower = read_tower(visual)
    preprocessing = _preprocessing(visual, preprocess)
    preprocess = preprocess or _own_preprocess(visual)
    tokenizer = tokenizer or _own_tokenizer(model)
    info = ModelInfo(
        name=name,
        source=source,
        pretrained=pretrained,
        weights_sha256=weights_sha256(model),
        layers=len(tower.blocks),
        heads=tower.heads,
        head_width=tower.width // tower.heads,
        width=tower.width,
        embed_dim=tower.embed_dim,
        patches=tower.grid[0] * tower.grid[1],
        grid=tower.grid,
        patch_size=tower.patch_size,
        image_size=tower.image_size,
        activation=tower.activation,
        preprocessing=preprocessing,
    )
    model = model.float()
    if source == "module":
        _check_forward(model)
    if precision == "bf16":
        _to_bfloat16(visual)
    return LoadedModel(info, model.to(device), preprocess, tokenizer)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over a model's tensors in key order: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(content.numpy().data)
    return digest.hexdigest()


def _check_no_tag(what: str, pretrained: str | None) -> None:
    if pretrained is not None:
        msg = f"{what} comes with its weights: leave out pretrained={pretrained!r}"
        raise UnknownModel(msg)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Look through DataParallel, DistributedDataParallel and torch.compile."""
    for name in ("_orig_mod", "module"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and not hasattr(model, "visual"):
            return _unwrapped(inner)
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def _preprocessing(visual: nn.Module, custom: Preprocess | None) -> dict[str, object]:
    """Describe how images reach the tower, in plain JSON that is the same every time."""
    cfg = cast("dict[str, Any] | None", getattr(visual, "preprocess_cfg", None))
    if custom is not None or cfg is None:
        size = [int(side) for side in cast("tuple[int, int]", visual.image_size)]
        # Without its address in memory, which is another one every time.
        described: dict[str, object] = {
            "size": size,
            "transform": re.sub(r" at 0x[0-9a-fA-F]+", "", repr(custom)),
        }
        for step in cast("list[object]", getattr(custom, "transforms", [])):
            if isinstance(step, Normalize):
                described["mean"] = [float(value) for value in cast("Any", step.mean)]
                described["std"] = [float(value) for value in cast("Any", step.std)]
        return described
    size = cfg["size"]
    return {
        "size": [size, size] if isinstance(size, int) else [int(side) for side in size],
        "mean": [float(value) for value in cfg["mean"]],
        "std": [float(value) for value in cfg["std"]],
        "interpolation": str(cfg["interpolation"]),
        "resize_mode": str(cfg["resize_mode"]),
        "fill_color": int(cfg.get("fill_color", 0)),
    }


def _own_preprocess(visual: nn.Module) -> Preprocess:
    cfg = cast("dict[str, Any] | None", getattr(visual, "preprocess_cfg", None))
    if cfg is None:
        msg = (
            "this module does not say how its images are preprocessed: pass preprocess=, a "
            "callable from a PIL image to a float tensor [3, height, width]"
        )
        raise PreprocessMissing(msg)
    return cast("Preprocess", image_transform_v2(PreprocessCfg(**cfg), is_train=False))


def _named_tokenizer(name: str) -> Tokenizer:
    try:
        return cast("Tokenizer", open_clip.get_tokenizer(name))
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        what = f"the tokenizer of {name}"
        raise not_fetched(what, error) from error


def _own_tokenizer(model: nn.Module) -> Tokenizer:
    length = getattr(model, "context_length", None)
    if length is None or getattr(model, "vocab_size", None) != _BPE_VOCABULARY:
        msg = (
            "this module's texts are not CLIP's byte pairs: pass tokenizer=, a callable from a "
            "list of texts to a tensor of token numbers [texts, context]"
        )
        raise PreprocessMissing(msg)
    return cast("Tokenizer", open_clip.SimpleTokenizer(context_length=length))


def _check_forward(model: nn.Module) -> None:
    """Refuse a module whose own forward pass does something else than its weights say."""
    visual = image_tower(model)
    height, width = cast("tuple[int, int]", visual.image_size)
    device = next(visual.parameters()).device
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((1, 3, height, width), generator=generator).to(device)
    with torch.inference_mode():
        own = cast("Callable[[Tensor], Tensor]", model.encode_image)(image)
    taken_apart = Decomposer(visual, Kept())(image).representation
    off = float((taken_apart - own).norm() / own.norm())
    if not off < 1e-4:
        msg = (
            f"this module's encode_image differs by {off:.1%} from what its image tower's weights "
            "give: a changed forward pass cannot be taken apart"
        )
        raise UnsupportedModel(msg)


def _to_bfloat16(visual: nn.Module) -> None:
    convert_weights_to_lp(visual, dtype=torch.bfloat16)
    for module in visual.modules():
        if type(module) is LayerNorm:
            # open_clip's norm for low precision: float32 weights and statistics.
            module.__class__ = LayerNormFp32  # pyright: ignore[reportAttributeAccessIssue]
