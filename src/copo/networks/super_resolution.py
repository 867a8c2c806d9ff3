"""Super-resolution: composited features to the final picture."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.config import GeneratorConfig
from copo.networks.layers import Conv, ModulatedConv, NoiseMode, ToPicture

_BRANCH_GAIN = math.sqrt(0.5)


class SuperResolutionBlock(nn.Module):
    """Residual block of two convolutions, the first of which upsamples; both branches have gain sqrt(1/2) (paper).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        resolution: Side of the block's output.
        up: Upsampling factor.
        config: Sizes; `sr_styles` chooses modulated or plain convolutions.
    """

    def __init__(self, inputs: int, outputs: int, resolution: int, up: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.conv0: ModulatedConv | Conv
        self.conv1: ModulatedConv | Conv
        if config.sr_styles:
            noise = config.noise_inputs
            self.conv0 = ModulatedConv(inputs, outputs, config.w_dim, resolution, up, config.resampling, noise)
            self.conv1 = ModulatedConv(outputs, outputs, config.w_dim, resolution, 1, config.resampling, noise)
        else:
            self.conv0 = Conv(inputs, outputs, 3, up=up, resampling=config.resampling)
            self.conv1 = Conv(outputs, outputs, 3, resampling=config.resampling)
        self.skip = Conv(inputs, outputs, 1, up=up, resampling=config.resampling, bias=False, activate=False)

    def forward(self, x: Tensor, ws: Tensor, noise: NoiseMode) -> Tensor:
        """(B, I, h, w), ws (B, at least 2, w_dim) -> (B, O, up h, up w)."""
        skip = self.skip(x, gain=_BRANCH_GAIN)
        x = self.conv0(x, ws[:, 0], noise) if isinstance(self.conv0, ModulatedConv) else self.conv0(x)
        if isinstance(self.conv1, ModulatedConv):
            return skip + self.conv1(x, ws[:, 1], noise, gain=_BRANCH_GAIN)
        return skip + self.conv1(x, gain=_BRANCH_GAIN)


class SuperResolution(nn.Module):
    """Two residual blocks, at half and at full output size, and a to-RGB layer (paper).

    Args:
        config: Sizes.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        half, full = config.sr_channels
        size = config.output_resolution
        self.block0 = SuperResolutionBlock(
            config.feature_channels, half, size // 2, size // 2 // config.raw_resolution, config
        )
        self.block1 = SuperResolutionBlock(half, full, size, 2, config)
        self.to_rgb: ToPicture | Conv
        if config.sr_styles:
            self.to_rgb = ToPicture(full, 3, config.w_dim)
        else:
            self.to_rgb = Conv(full, 3, 1, activate=False)
        self.add_raw = config.sr_skip
        self.size = size

    def forward(
        self, features: Tensor, ws: Tensor, noise: NoiseMode = "const", dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Features (B, F, h, w), ws (B, at least 4, w_dim) -> picture (B, 3, H, W) float32, nominally in [-1, 1].

        Any h, w are accepted: the picture is output_resolution / raw_resolution times as large. With stored noise
        pictures ("const") h and w must be raw_resolution.
        """
        x = features.to(dtype).contiguous(memory_format=torch.channels_last)
        x = self.block0(x, ws[:, 0:2], noise)
        x = self.block1(x, ws[:, 1:3], noise)
        picture = (self.to_rgb(x, ws[:, 3]) if isinstance(self.to_rgb, ToPicture) else self.to_rgb(x)).float()
        if self.add_raw:
            raw = features[:, :3].float() * 2 - 1
            picture = picture + F.interpolate(raw, size=picture.shape[2:], mode="bilinear", align_corners=False)
        return picture
