"""Coefficient priors: a VAE-GAN for each factor (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from copo.config import VaeConfig


def _blocks(inputs: int, hidden: int, count: int, slope: float) -> nn.Sequential:
    """`count` blocks of Linear, BatchNorm1d, LeakyReLU, flat in one sequence."""
    layers: list[nn.Module] = []
    for k in range(count):
        layers += [nn.Linear(hidden if k else inputs, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers)


class VaeOutput(NamedTuple):
    """A training pass, in normalised coefficients.

    Attributes:
        decoded: (B, coefficients).
        mean: (B, latent).
        log_variance: (B, latent).
    """

    decoded: Tensor
    mean: Tensor
    log_variance: Tensor


class Vae(nn.Module):
    """Encoder and decoder of one factor's coefficients.

    The networks work on normalised coefficients (divided by `VaeConfig.scales`); `sample` gives real ones.

    Args:
        config: Sizes.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _blocks(config.coefficients, config.hidden, config.blocks, config.encoder_slope)
        self.mean = nn.Linear(config.hidden, config.latent)
        self.log_variance = nn.Linear(config.hidden, config.latent)
        self.decoder = _blocks(config.latent, config.hidden, config.blocks, config.decoder_slope)
        self.out = nn.Linear(config.hidden, config.coefficients)
        self.scales: Tensor
        self.register_buffer("scales", torch.tensor(config.scales), persistent=False)

    def encode(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised coefficients (B, coefficients) -> mean and log-variance, both (B, latent)."""
        hidden = self.encoder(normalised)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent) -> normalised coefficients (B, coefficients)."""
        return self.out(self.decoder(latent))

    def forward(self, normalised: Tensor) -> VaeOutput:
        """Encode, draw a latent, decode: a training pass on normalised coefficients (B, coefficients)."""
        mean, log_variance = self.encode(normalised)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return VaeOutput(self.decode(latent), mean, log_variance)

    def sample(self, latent: Tensor) -> Tensor:
        """(B, latent), standard normal -> coefficients (B, coefficients) in the head model's units."""
        value = self.decode(latent)
        if self.config.longest:
            value = value * (self.config.longest / value.norm(dim=1, keepdim=True).clamp_min(1e-9)).clamp(max=1)
        return value * self.scales


class VaeDiscriminator(nn.Module):
    """Tells real normalised coefficients from decoded ones.

    Args:
        config: Sizes of the prior.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = _blocks(config.coefficients, config.hidden, config.blocks, config.encoder_slope)
        self.out = nn.Linear(config.hidden, 1)

    def forward(self, normalised: Tensor) -> Tensor:
        """Normalised coefficients (B, coefficients) -> logit (B, 1). (The published program stores its sigmoid.)"""
        return self.out(self.blocks(normalised))
