"""The 29-layer residual network behind dlib's face descriptor.

dlib's per-channel affine layers are folded into the convolutions before them, so that a layer here is a convolution
with bias. Halving blocks take no padding in their first convolution and a 2x2 mean as their shortcut; where shortcut
and branch differ in size or channels, the smaller one counts as zero (dlib's `add_prev`).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS: tuple[int, ...] = (32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256, 256, 256)
"""Channels of the residual blocks."""
HALVED: frozenset[int] = frozenset({3, 7, 10, 13})
"""Blocks that halve the picture."""


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.conv1 = nn.Conv2d(inputs, width, 3, 2 if halve else 1, 0 if halve else 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, width, H', W')."""
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(_padded_sum(y, F.avg_pool2d(x, 2, 2) if self.halve else x))


class DlibResNet(nn.Module):
    """Chip in, descriptor out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2)
        inputs = [32, *WIDTHS[:-1]]
        self.blocks = nn.ModuleList(
            Block(i, w, n in HALVED) for n, (i, w) in enumerate(zip(inputs, WIDTHS, strict=True))
        )
        self.fc = nn.Linear(256, 128, bias=False)

    def forward(self, chips: Tensor) -> Tensor:
        """(B, 3, 150, 150): RGB (0..255) less dlib's mean, divided by 256 -> (B, 128), length about 1.4."""
        x = F.max_pool2d(F.relu(self.stem(chips)), 3, 2)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


def _padded_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum of two maps; what one lacks in channels, rows or columns counts as zero."""
    channels, rows, columns = (max(a.shape[d], b.shape[d]) for d in (1, 2, 3))

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (0, columns - x.shape[3], 0, rows - x.shape[2], 0, channels - x.shape[1]))

    return padded(a) + padded(b)
