"""The dual discriminator: judges the raw and the final picture together, and regresses pose and latent."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.config import DiscriminatorConfig
from copo.errors import CopoError
from copo.networks.layers import Conv, Linear, Mapping

_BRANCH_GAIN = math.sqrt(0.5)


class DiscriminatorOutput(NamedTuple):
    """Judgement of a batch of pictures.

    Attributes:
        score: (B, 1) logit that the picture is real.
        pose: (B, 2) regressed pitch and yaw, radians.
        latent: (B, latent) regressed latent.
    """

    score: Tensor
    pose: Tensor
    latent: Tensor


class DiscriminatorBlock(nn.Module):
    """Residual block that halves the side; both branches have gain sqrt(1/2) (StyleGAN2).

    Args:
        config: Sizes.
        resolution: Side of the block's input.
    """

    def __init__(self, config: DiscriminatorConfig, resolution: int) -> None:
        super().__init__()
        inputs, outputs = config.channels(resolution), config.channels(resolution // 2)
        self.conv0 = Conv(inputs, inputs, 3)
        self.conv1 = Conv(inputs, outputs, 3, down=2, resampling=config.resampling)
        self.skip = Conv(inputs, outputs, 1, down=2, resampling=config.resampling, bias=False, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, R, R) -> (B, O, R/2, R/2)."""
        return self.skip(x, gain=_BRANCH_GAIN) + self.conv1(self.conv0(x), gain=_BRANCH_GAIN)


def minibatch_deviation(x: Tensor, group: int) -> Tensor:
    """Append the standard deviation over groups of pictures, averaged over the picture, as one more channel.

    Args:
        x: (B, C, H, W).
        group: Pictures in a group; the largest divisor of B up to it is used. Picture n is in group n mod (B / group).

    Returns:
        (B, C + 1, H, W).
    """
    batch, channels, height, width = x.shape
    group = next(g for g in range(min(group, batch), 0, -1) if batch % g == 0)
    grouped = x.float().view(group, batch // group, channels, height, width)
    deviation = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    deviation = deviation.repeat(group)[:, None, None, None].expand(batch, 1, height, width)
    return torch.cat([x, deviation.to(x.dtype)], dim=1)


class Discriminator(nn.Module):
    """Residual StyleGAN2 discriminator of 6 channels, conditioned on pose by projection (paper).

    Args:
        config: Sizes.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        last = config.channels(4)
        self.from_picture = Conv(config.image_channels, config.channels(config.resolution), 1)
        self.blocks = nn.ModuleList(DiscriminatorBlock(config, r) for r in config.levels)
        self.conv = Conv(last + 1, last, 3)
        self.hidden = Linear(last * 16, last, activate=True)
        self.out = Linear(last, config.cmap + config.pose + config.latent)
        self.mapping = Mapping(0, config.pose, config.cmap, config.mapping_layers, config.mapping_lr_multiplier)

    def forward(self, picture: Tensor, pose: Tensor, dtype: torch.dtype = torch.float32) -> DiscriminatorOutput:
        """Judge pictures.

        Args:
            picture: (B, 6, R, R): the raw picture upsampled, then the final one, both in [-1, 1].
            pose: (B, 2) pitch and yaw of the camera, radians.
            dtype: Type of the residual blocks' activations; the last layers always run in float32.

        Raises:
            CopoError: The picture has another size.
        """
        config = self.config
        expected = (config.image_channels, config.resolution, config.resolution)
        if tuple(picture.shape[1:]) != expected:
            raise CopoError(f"discriminator: picture has shape {tuple(picture.shape)}, expected (batch, *{expected})")
        x = picture.to(dtype).contiguous(memory_format=torch.channels_last)
        x = self.from_picture(x)
        for block in self.blocks:
            x = block(x)
        x = self.conv(minibatch_deviation(x.float(), config.minibatch_group))
        out = self.out(self.hidden(x.flatten(1)))
        projection, pose_out, latent = out.split([config.cmap, config.pose, config.latent], dim=1)
        cmap = self.mapping(None, pose)
        score = (projection * cmap).sum(dim=1, keepdim=True) / math.sqrt(config.cmap)
        return DiscriminatorOutput(score, pose_out, latent)


def dual_picture(raw: Tensor, picture: Tensor) -> Tensor:
    """The discriminator's input from a raw picture (B, 3, h, w) and a final one (B, 3, H, W) -> (B, 6, H, W)."""
    raw = F.interpolate(raw, size=picture.shape[2:], mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([raw.to(picture.dtype), picture], dim=1)
