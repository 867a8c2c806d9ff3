"""The background branch: a picture of features behind the head, drawn in image space from the noise code alone."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from copo.config import GeneratorConfig
from copo.networks.decoder import COLOUR_OFFSET, COLOUR_SCALE
from copo.networks.layers import Mapping, ModulatedConv, ToPicture

_MAPPING_LAYERS = 2


class Background(nn.Module):
    """Small synthesis network without skips. What it draws cannot depend on face, light or camera.

    Args:
        config: Sizes; `background_channels` must not be empty.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        w_dim, channels = config.background_w_dim, config.background_channels
        self.noise = config.noise
        self.mapping = Mapping(config.noise, 0, w_dim, _MAPPING_LAYERS, config.mapping_lr_multiplier)
        self.const = nn.Parameter(torch.randn(channels[0], 4, 4))
        self.blocks = nn.ModuleList(
            ModulatedConv(a, b, w_dim, 8 << k, up=2, resampling=config.resampling, noise_input=False)
            for k, (a, b) in enumerate(itertools.pairwise(channels))
        )
        self.to_features = ToPicture(channels[-1], config.feature_channels, w_dim)

    def forward(self, z: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """z (B, latent) -> features (B, F, raw, raw) in `dtype`, colours first and in about [0, 1] like the field's."""
        w = self.mapping(z[:, : self.noise], None)
        x = self.const.to(dtype).expand(z.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x, w)
        features = self.to_features(x, w)
        colour = torch.sigmoid(features[:, :3]) * COLOUR_SCALE + COLOUR_OFFSET
        return torch.cat([colour, features[:, 3:]], dim=1)
