"""The supervised companion: a small residual network that says what a scene shows."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from ..losses import DENSE_ATTRIBUTES, VALUE_COUNTS

WIDTHS: Final = (24, 48, 96, 128)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; both maps are nonnegative and can be hooked."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            conv = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to [n, width, h / stride, w / stride]."""
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))


class ResNet(nn.Module):
    """Normalized pictures [n, 3, 64, 64] to logits of which values they show, [n, all values].

    Attributes lie side by side in the order of ATTRIBUTES, each value a yes or no of its own.
    Stages work at 32, 16, 8 and 4 pixels a side, two blocks each.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        channels = (widths[0], *widths)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(channels[i], width, 1 if i == 0 else 2),
                ResidualBlock(width, width, 1),
            )
            for i, width in enumerate(widths)
        )
        self.classify = nn.Linear(widths[-1], sum(VALUE_COUNTS))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of presence, [n, all values]."""
        return self.classify(self.maps(x)[-1].mean((2, 3)))

    def maps(self, x: Tensor) -> list[Tensor]:
        """The last map of each stage."""
        x = self.relu(self.norm(self.conv(x)))
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class PatchProbe(nn.Module):
    """Classes of the 8 x 8 patches from the third stage: helps the training, then thrown away."""

    def __init__(self, width: int = WIDTHS[2]) -> None:
        super().__init__()
        self.classify = nn.Linear(width, sum(DENSE_ATTRIBUTES.values()))

    def forward(self, maps: Tensor) -> Tensor:
        """Logits [n*p, classes] of maps [n, width, 8, 8]."""
        return self.classify(maps.flatten(2).transpose(1, 2).flatten(0, 1))
