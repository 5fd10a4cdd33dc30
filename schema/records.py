"""What is written down about the things a store holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model's identity: what its weights are and how images reach it.

    `source` is "open_clip", "file", "world" or "module"; `weights_sha256` covers every tensor of
    the state dict as loaded (before any change of precision) and does not depend on the file's
    format. `patches` = grid rows x columns, without the class token; `image_size` is the height
    in pixels. `activation` ("gelu", "gelu_tanh" or "quickgelu") is what the blocks really apply.
    `preprocessing` is plain JSON: size [height, width], mean, std, interpolation, resize_mode, or
    size and a description of the caller's own transform.
    """

    name: str
    source: str
    pretrained: str | None
    weights_sha256: str
    layers: int
    heads: int
    head_width: int
    width: int
    embed_dim: int
    patches: int
    grid: tuple[int, int]
    patch_size: int
    image_size: int
    activation: str
    preprocessing: dict[str, object] = field(default_factory=dict[str, object])
