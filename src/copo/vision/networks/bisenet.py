"""BiSeNet (Yu et al. 2018) as used for face parsing: 19 classes, ResNet-18 in both of its paths."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.vision.networks.resnet import BasicBlock, ResNet


class ConvUnit(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class AttentionRefinement(nn.Module):
    """Weighs channels by what the whole picture shows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, outputs)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    """Coarse features with the view of the whole picture, brought up to 1/8 of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet(BasicBlock, (2, 2, 2, 2))
        self.arm16 = AttentionRefinement(256, 128)
        self.arm32 = AttentionRefinement(512, 128)
        self.conv_head32 = ConvUnit(128, 128)
        self.conv_head16 = ConvUnit(128, 128)
        self.conv_avg = ConvUnit(512, 128, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> the trunk's (B, 128, H/8, W/8), context at H/8 and context at H/16, 128 channels each."""
        _, fine, middle, coarse = self.resnet(pictures)
        whole = self.conv_avg(coarse.mean((2, 3), keepdim=True))
        at16 = self.conv_head32(F.interpolate(self.arm32(coarse) + whole, size=middle.shape[2:], mode="nearest"))
        at8 = self.conv_head16(F.interpolate(self.arm16(middle) + at16, size=fine.shape[2:], mode="nearest"))
        return fine, at8, at16


class FeatureFusion(nn.Module):
    """Joins detail and context, with attention over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvUnit(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two (B, channels / 2, H, W) -> (B, channels, H, W)."""
        x = self.convblk(torch.cat([detail, context], dim=1))
        return x + x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))))


class Output(nn.Module):
    """The last two convolutions."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvUnit(inputs, width)
        self.conv_out = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, classes, H, W)."""
        return self.conv_out(self.conv(x))


class BiSeNet(nn.Module):
    """Names of parameters are those of the published `79999_iter.pth`.

    `conv_out16` and `conv_out32` are the auxiliary outputs of its training; they are loaded but not run.
    """

    def __init__(self, classes: int = 19) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = FeatureFusion(256)
        self.conv_out = Output(256, 256, classes)
        self.conv_out16 = Output(128, 64, classes)
        self.conv_out32 = Output(128, 64, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) normalised as for ImageNet, H and W multiples of 32 -> (B, classes, H, W) logits."""
        detail, context, _ = self.cp(pictures)
        logits = self.conv_out(self.ffm(detail, context))
        return F.interpolate(logits, size=pictures.shape[2:], mode="bilinear", align_corners=True)
