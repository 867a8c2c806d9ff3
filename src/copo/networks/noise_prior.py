"""Which noise code goes with whom: hair, clothes and background as people of an identity have them (ours).

Codes are drawn N(gain identity + offset, spread spread^T), a linear Gaussian. Over all people they still are N(0, 1):
every code remains one that the generator knows, whoever gets it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from copo.config import NoisePriorConfig

LARGEST_SHARE = 0.9
"""Of a direction's variance that identity may decide; the rest is always left to chance."""


class NoisePrior(nn.Module):
    """Codes for identities.

    Args:
        config: Sizes.
    """

    gain: Tensor
    offset: Tensor
    spread: Tensor

    def __init__(self, config: NoisePriorConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("gain", torch.zeros(config.noise, config.identity))
        self.register_buffer("offset", torch.zeros(config.noise))
        self.register_buffer("spread", torch.eye(config.noise))

    def forward(self, normal: Tensor, identity: Tensor) -> Tensor:
        """Codes of people.

        Args:
            normal: (B, noise) standard normal numbers.
            identity: (B, identity) shape and albedo as the generator reads them, divided by their normalisers.

        Returns:
            (B, noise) codes.
        """
        return identity @ self.gain.T + self.offset + normal @ self.spread.T


@torch.no_grad()
def fit_noise_prior(codes: Tensor, identity: Tensor, shrink: float = 0.3) -> NoisePrior:
    """From learned codes: ridge regression on identity, and what is left of N(0, 1) as chance.

    Args:
        codes: (P, noise) of people, their mean about 0.
        identity: (P, identity) shape and albedo, divided by their normalisers.
        shrink: Ridge, as a share of each coefficient's variance. Of the 1,057 people of the default model any from 0.1
            to 1 predicts 11 to 12% of the variance of people left out.

    Returns:
        In evaluation mode, on the CPU.
    """
    codes, identity = codes.detach().double().cpu(), identity.detach().double().cpu()
    people = len(codes)
    prior = NoisePrior(NoisePriorConfig(codes.shape[1], identity.shape[1]))
    mean, deviation = identity.mean(0), identity.std(0, correction=0).clamp_min(1e-6)
    x = (identity - mean) / deviation
    ridge = shrink * people * torch.eye(x.shape[1], dtype=x.dtype)
    gain = torch.linalg.solve(x.T @ x + ridge, x.T @ (codes - codes.mean(0))).T
    told = gain @ (x.T @ x / people) @ gain.T
    largest = float(torch.linalg.eigvalsh(told)[-1])
    if largest > LARGEST_SHARE:
        gain, told = gain * (LARGEST_SHARE / largest) ** 0.5, told * (LARGEST_SHARE / largest)
    values, vectors = torch.linalg.eigh(torch.eye(len(told), dtype=told.dtype) - told)
    prior.gain.copy_(gain / deviation)
    prior.offset.copy_(-(gain / deviation) @ mean)
    prior.spread.copy_(vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T)
    return prior.eval()
