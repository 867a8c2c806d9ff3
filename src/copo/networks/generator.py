"""The generator: its networks under one roof. Rendering between them is the field package's work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from copo.config import GeneratorConfig
from copo.factors import FACTOR_NAMES
from copo.networks.background import Background
from copo.networks.decoder import Decoder
from copo.networks.layers import Mapping
from copo.networks.super_resolution import SuperResolution
from copo.networks.synthesis import Synthesis

POSE_SIZE = 2
"""The generator is conditioned on pitch and yaw (paper)."""


class GeneratorMapping(nn.Module):
    """z and conditioning pose to ws, with truncation (paper; StyleGAN2).

    Args:
        config: Sizes.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.network = Mapping(
            config.latent, POSE_SIZE, config.w_dim, config.mapping_layers, config.mapping_lr_multiplier
        )
        self.w_avg: Tensor
        self.register_buffer("w_avg", torch.zeros(config.w_dim))
        self.ws_count = config.ws_count
        seen = [torch.full((getattr(config, name),), float(name in config.styled_by)) for name in FACTOR_NAMES]
        self.seen: Tensor
        self.register_buffer("seen", torch.cat(seen), persistent=False)
        self.sees_all = set(config.styled_by) == set(FACTOR_NAMES)

    def forward(self, z: Tensor, pose: Tensor, psi: float | Tensor = 1.0) -> Tensor:
        """z (B, latent), pose (B, 2) pitch and yaw in radians -> ws (B, ws_count, w_dim) float32.

        Args:
            z: [noise | shape | albedo | expression | illumination], in the units of `Factors.to_flat`.
            pose: Pose that the planes are conditioned on; frontal is (pi/2, pi/2).
            psi: Truncation: 1 is none, 0 the average latent. A number, or (B, 1).
        """
        w = self.network(z if self.sees_all else z * self.seen, pose)
        average = self.w_avg.float()
        w = average + (w - average) * psi
        return w[:, None].expand(-1, self.ws_count, -1)

    @torch.no_grad()
    def update_average(self, ws: Tensor, decay: float = 0.998) -> None:
        """Move the running average of w towards the batch's mean. ws (B, ws_count, w_dim) must not be truncated."""
        self.w_avg.lerp_(ws[:, 0].mean(dim=0).to(self.w_avg.dtype), 1.0 - decay)


class Generator(nn.Module):
    """Mapping, backbone, decoder, background and super-resolution (paper, section 3).

    Args:
        config: Sizes.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = GeneratorMapping(config)
        self.synthesis = Synthesis(config)
        self.decoder = Decoder(config)
        self.super_resolution = SuperResolution(config)
        self.background_branch = Background(config) if config.background_channels else None

    def background(self, z: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """z (B, latent) -> (B, F, raw, raw) features of class 0 behind the head, or None without the branch."""
        return None if self.background_branch is None else self.background_branch(z, dtype)
