"""EfficientNet-Lite0 (Tan and Le 2019; the "lite" variant without squeeze-excitation, with ReLU6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
"""Repeats, kernel, stride, expansion, channels of each stage (EfficientNet's table 1, widths of Lite0)."""
TAPS: tuple[int, ...] = (0, 2, 4, 10, 15)
"""Blocks that end a resolution: 1/2, 1/4, 1/8, 1/16, 1/32 of the size."""
TAP_CHANNELS: tuple[int, ...] = (16, 24, 40, 112, 320)
"""Channels of the maps at `TAPS`."""
_EPS = 1e-3


class SameConv(nn.Conv2d):
    """Convolution that pads as TensorFlow's "SAME" does: one more pixel at the bottom and right where it is uneven."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        left, right, top, bottom = pads
        if left == right and top == bottom:  # a copy of the map less, which is most of a step's memory traffic
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        return super().forward(F.pad(x, pads))


class MobileBlock(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow. Names are those of the published PyTorch file."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        self.shortcut = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SameConv(inputs, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=_EPS)
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=_EPS)
        self._project_conv = SameConv(width, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """Names of parameters are those of the published PyTorch file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=_EPS)
        blocks, inputs = [], 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for index in range(repeats):
                blocks.append(MobileBlock(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=_EPS)
        self._fc = nn.Linear(1280, 1000)

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W), (RGB 0..255 - 127) / 128 -> maps at 1/2 to 1/32 of the size with `TAP_CHANNELS` channels."""
        x = F.relu6(self._bn0(self._conv_stem(pictures)))
        out = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in TAPS:
                out.append(x)
        return out

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W), (RGB 0..255 - 127) / 128 -> (B, 1280)."""
        return F.relu6(self._bn1(self._conv_head(self.maps(pictures)[-1]))).mean((2, 3))

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W), (RGB 0..255 - 127) / 128 -> (B, 1000) ImageNet logits."""
        return self._fc(self.features(pictures))
