"""The self-supervised companion: a vision transformer that learned by filling in hidden patches."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..scenes import IMAGE_SIZE

PATCH: Final = 8
GRID: Final = IMAGE_SIZE // PATCH
PATCHES: Final = GRID * GRID


class Mlp(nn.Module):
    """A block's MLP; `act` gives its neurons, [n, tokens, 4 width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, tokens, width] to as many."""
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """Self-attention of heads of equal width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, tokens, width] to as many."""
        n, tokens, width = x.shape
        size = width // self.heads
        qkv = self.qkv(x).view(n, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        q, k, v = (part.reshape(n * self.heads, tokens, size) for part in qkv.unbind(0))
        # For heads this narrow two products are faster on a CPU than the fused attention.
        weights = torch.bmm(q * size**-0.5, k.transpose(1, 2)).softmax(-1)
        mixed = torch.bmm(weights.to(v.dtype), v).view(n, self.heads, tokens, size)
        return self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))


class TransformerBlock(nn.Module):
    """Attention and MLP, each on normalized tokens and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, tokens, width] to as many."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Normalized pictures [n, 3, 64, 64] to patch tokens [n, 64, width], row by row.

    There is no class token: the tokens of every block are the 8 x 8 grid of patches.
    """

    num_prefix_tokens: Final = 0
    grid_size: Final = (GRID, GRID)

    def __init__(self, width: int = 96, depth: int = 6, heads: int = 6) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(3 * PATCH * PATCH, width)
        self.pos_embed = nn.Parameter(0.5 * waves(width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """All patch tokens, [n, 64, width]."""
        return self.encode(to_patches(x))

    def encode(self, patches: Tensor, visible: Tensor | None = None) -> Tensor:
        """Tokens of patches [n, 64, 192], or only of those that `visible` [n, k] numbers."""
        positions = self.pos_embed
        if visible is not None:
            patches = _pick(patches, visible)
            positions = positions[visible]
        x = self.patch_embed(patches) + positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MaskedAutoencoder(nn.Module):
    """An encoder of the visible patches and a small decoder that draws the hidden ones."""

    def __init__(
        self, encoder: Encoder, *, width: int = 96, depth: int = 2, heads: int = 6
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.embed = nn.Linear(encoder.norm.normalized_shape[0], width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(0.5 * waves(width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.draw = nn.Linear(width, 3 * PATCH * PATCH)

    def forward(self, patches: Tensor, visible: Tensor) -> Tensor:
        """All 64 patches [n, 64, 192], drawn from those that `visible` [n, k] numbers."""
        seen = self.embed(self.encoder.encode(patches, visible))
        tokens = self.mask_token.to(seen.dtype).expand(len(patches), PATCHES, -1)
        where = visible[..., None].expand_as(seen)
        x = tokens.scatter(1, where, seen) + self.pos_embed.to(seen.dtype)
        for block in self.blocks:
            x = block(x)
        return self.draw(self.norm(x))


def to_patches(pictures: Tensor) -> Tensor:
    """Pictures [n, 3, 64, 64] as patches [n, 64, 192], row by row."""
    return F.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2)


def hidden_loss(drawn: Tensor, patches: Tensor, visible: Tensor) -> Tensor:
    """Mean squared error of the hidden patches."""
    hidden = torch.ones(patches.shape[:2], device=patches.device).scatter(1, visible, 0.0)
    return (((drawn - patches) ** 2).mean(-1) * hidden).sum() / hidden.sum()


def waves(width: int) -> Tensor:
    """Two-dimensional sines and cosines of the patches' places, [64, width]."""
    angles = torch.arange(GRID)[:, None] * 32.0 ** -torch.linspace(0, 1, width // 4)
    line = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([line.repeat_interleave(GRID, 0), line.repeat(GRID, 1)], 1)


def _pick(patches: Tensor, rows: Tensor) -> Tensor:
    return patches.gather(1, rows[..., None].expand(-1, -1, patches.shape[-1]))
