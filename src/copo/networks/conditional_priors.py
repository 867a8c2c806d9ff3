"""What goes with whom (ours): noise codes as people of an identity have them, and light as they were photographed in.

Factors that are drawn apart ask the generator for hair and light that no photograph has with such a face, and a
discriminator that knows this tells it nothing else.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.config import LightPriorConfig, NoisePriorConfig

REACH = 0.7
"""Standard deviations of identity within which people are alike."""
HIDING = 0.5
"""Standard deviations of noise on the stored places of people: a model that is given away does not tell the face of
anybody it was trained on. With it, people are alike within 0.86."""
PLACES = 8
"""Directions of identity in which people are compared: those that tell most of the codes. Age, sex and skin go with
hair; the width of a nose does not."""
SHRINKAGE = 0.3
"""Ridge of the regression of codes on identity, as a share of identity's mean variance: chosen on people left out."""
ASIDE = math.radians(10)
"""Standard deviation of the angle within which two cameras see the same side."""
UNSEEN = 1e-3
"""Share of a person's photographs that counts as taken from sides from which there is none."""


class NoisePrior(nn.Module):
    """Codes for identities: one of the learned codes of people who are alike, blurred as training blurs it.

    Learned codes fill no Gaussian: between them the generator has learned little. Blurred codes are what it was
    trained with. Over all that is drawn, each code is as frequent as was asked, and seen from some side as frequent
    as the person's photographs from there: who was photographed from the side wears what photographs from the side
    show.

    Args:
        config: Sizes.
    """

    codes: Tensor
    frequency: Tensor
    places: Tensor
    axes: Tensor
    centre: Tensor
    blur: Tensor
    owners: Tensor
    directions: Tensor

    def __init__(self, config: NoisePriorConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("codes", torch.zeros(config.people, config.noise))
        self.register_buffer("frequency", torch.zeros(config.people))
        self.register_buffer("places", torch.zeros(config.people, config.places))
        self.register_buffer("axes", torch.zeros(config.places, config.identity))
        self.register_buffer("centre", torch.zeros(config.identity))
        self.register_buffer("blur", torch.ones(()))
        self.register_buffer("owners", torch.zeros(config.photographs, dtype=torch.int32))
        self.register_buffer("directions", torch.zeros(config.photographs, 3))

    def forward(self, normal: Tensor, identity: Tensor, direction: Tensor) -> Tensor:
        """Codes of people.

        Args:
            normal: (B, noise) standard normal numbers. Their sum says which of the people who are alike gives the code.
            identity: (B, identity) shape and albedo as the generator reads them, divided by their normalisers.
            direction: (B, 3) unit vectors from the head towards the camera.

        Returns:
            (B, noise) codes.
        """
        total = (self.likeness(identity) + self.frequency.double() + self.shown(direction)).softmax(1).cumsum(1)
        share = torch.special.ndtr(normal.double().sum(1, keepdim=True) / math.sqrt(normal.shape[1]))
        pick = (total < share).sum(1).clamp(max=len(self.codes) - 1)
        return self.codes[pick] + self.blur * normal

    def likeness(self, identity: Tensor) -> Tensor:
        """(B, identity) -> (B, people) logarithm of how alike they are."""
        place = (identity - self.centre).double() @ self.axes.double().T
        return -torch.cdist(place, self.places.double()).square() / (2 * REACH**2)

    def shown(self, direction: Tensor) -> Tensor:
        """(B, 3) -> (B, people) logarithm of the share of their photographs that were taken from there."""
        angle = (direction.double() @ self.directions.double().T).clamp(-1, 1).acos()
        near, owners = torch.exp(-0.5 * (angle / ASIDE).square()), self.owners.long()
        count = torch.bincount(owners, minlength=len(self.codes)).clamp_min(1)
        share = near.new_zeros(len(near), len(self.codes)).index_add(1, owners, near) / count
        return (share + UNSEEN).log()


@torch.no_grad()
def fit_noise_prior(
    codes: Tensor,
    identity: Tensor,
    shares: Tensor,
    drawn: Tensor,
    blur: float,
    owners: Tensor,
    directions: Tensor,
    rounds: int = 100,
) -> NoisePrior:
    """From learned codes.

    Args:
        codes: (P, noise) of people.
        identity: (P, identity) shape and albedo, divided by their normalisers.
        shares: (P,) how frequent the code of each shall be, of any sum.
        drawn: (M, identity) of people who will get codes.
        blur: Standard deviation of the noise that training adds to codes.
        owners: (N,) int64 whom of the people each photograph shows.
        directions: (N, 3) unit vectors towards the photographs' cameras.
        rounds: As for `balance`.

    Returns:
        In evaluation mode, on the CPU.
    """
    codes, identity = codes.detach().float().cpu(), identity.detach().float().cpu()
    centre = identity.mean(0)
    axes = _telling_axes((identity - centre).double(), (codes - codes.mean(0)).double())
    prior = NoisePrior(NoisePriorConfig(codes.shape[1], identity.shape[1], len(codes), len(axes), len(owners)))
    prior.codes.copy_(codes)
    prior.axes.copy_(axes)
    prior.centre.copy_(centre)
    noise = torch.randn(prior.places.shape, generator=torch.Generator().manual_seed(0))
    prior.places.copy_((identity - centre) @ axes.T + HIDING * noise)
    prior.blur.fill_(blur)
    prior.owners.copy_(owners)
    prior.directions.copy_(directions)
    balance(prior, shares, drawn, rounds)
    return prior.eval()


@torch.no_grad()
def balance(prior: NoisePrior, shares: Tensor, drawn: Tensor, rounds: int = 100) -> None:
    """Set how frequent codes are, over everybody who is drawn (half of the iteration of Sinkhorn 1967).

    Args:
        prior: Whose frequencies are set.
        shares: (P,) how frequent the code of each person shall be, of any sum.
        drawn: (M, identity) of people who will get codes, divided by their normalisers.
        rounds: Of the iteration.
    """
    wanted = (shares.double().cpu() / shares.sum()).log()
    alike, frequency = prior.likeness(drawn.float().cpu()), torch.zeros(len(shares), dtype=torch.float64)
    for _ in range(rounds):
        given = (alike + frequency).log_softmax(1).logsumexp(0) - math.log(len(drawn))
        frequency += wanted - given
    prior.frequency.copy_(frequency - frequency.mean())


def _telling_axes(identity: Tensor, codes: Tensor) -> Tensor:
    """(P, identity) and (P, noise), both centred -> (n, identity) the directions that tell most of the codes, in which
    identities have a standard deviation of 1: reduced-rank ridge regression (Izenman 1975)."""
    covariance = identity.T @ identity / len(identity)
    ridge = (SHRINKAGE * covariance.diagonal().mean()).clamp_min(1e-6) * torch.eye(len(covariance), dtype=torch.float64)
    weights = torch.linalg.solve(covariance + ridge, identity.T @ codes / len(codes))
    _, told, vectors = torch.linalg.svd(identity @ weights, full_matrices=False)
    known = max(int((told[:PLACES] > 1e-6 * told[0]).sum()), 1)
    axes = F.normalize(weights @ vectors[:known].T, dim=0)
    spread = (identity @ axes).square().mean(0).sqrt().clamp_min(1e-3)
    return (axes / spread).T.float()


VIEW = 6
"""Numbers that tell from where a head is seen."""
RIDGE = 0.1
"""Of the regression of light, as a share of each coefficient's variance."""
FLAT = 0.02
"""Standard deviation below which nothing is learned from a coefficient: what hardly varies would get gains of
hundreds, and identities set by hand absurd light."""
LEAST = 1e-4
"""Variance of light in a direction that counts, as a share of the largest."""


def _told(identity: Tensor, direction: Tensor) -> Tensor:
    """(B, identity + VIEW): what light follows. Light that stands before a camera is quadratic in its direction."""
    x, y, z = direction.unbind(1)
    return torch.cat([identity, direction, torch.stack([x * x, x * z, y * y], dim=1)], dim=1)


class LightPrior(nn.Module):
    """Light for identities and viewpoints: a linear Gaussian around what the prior of light draws.

    Albedo and light are only known by their product, and photographers light the side that they see: of the default
    model's photographs two thirds of the variance of light are told by who is seen from where.

    Args:
        config: Sizes.
    """

    gain: Tensor
    offset: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, config: LightPriorConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("gain", torch.zeros(config.illumination, config.identity + VIEW))
        self.register_buffer("offset", torch.zeros(config.illumination))
        self.register_buffer("centre", torch.zeros(config.illumination))
        self.register_buffer("spread", torch.eye(config.illumination))

    def forward(self, drawn: Tensor, identity: Tensor, direction: Tensor) -> Tensor:
        """Light that fits.

        Args:
            drawn: (B, illumination) of the prior of light, divided by its normaliser.
            identity: (B, identity) shape and albedo, divided by their normalisers.
            direction: (B, 3) unit vectors from the head towards the camera.

        Returns:
            (B, illumination), divided by its normaliser.
        """
        return _told(identity, direction) @ self.gain.T + self.offset + (drawn - self.centre) @ self.spread.T


@torch.no_grad()
def fit_light_prior(light: Tensor, identity: Tensor, direction: Tensor, drawn: Tensor) -> LightPrior:
    """From photographs, by ridge regression; what is left is as the prior of light draws it, scaled and turned.

    Args:
        light: (N, illumination) of photographs, divided by its normaliser.
        identity: (N, identity), likewise.
        direction: (N, 3) unit vectors towards their cameras.
        drawn: (M, illumination) samples of the prior of light.

    Returns:
        In evaluation mode, on the CPU.
    """
    light, drawn = light.double().cpu(), drawn.double().cpu()
    told = _told(identity, direction).double().cpu()
    mean, deviation = told.mean(0), told.std(0, correction=0).clamp_min(FLAT)
    x, y = (told - mean) / deviation, light - light.mean(0)
    ridge = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    gain = torch.linalg.solve(x.T @ x + ridge, x.T @ y).T / deviation
    rest = y - (told - mean) @ gain.T
    prior = LightPrior(LightPriorConfig(identity.shape[1], light.shape[1]))
    prior.gain.copy_(gain)
    prior.offset.copy_(light.mean(0) - gain @ mean)
    prior.centre.copy_(drawn.mean(0))
    prior.spread.copy_(covariance_roots(torch.cov(rest.T), LEAST)[0] @ covariance_roots(torch.cov(drawn.T), LEAST)[1])
    return prior.eval()


def covariance_roots(covariance: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Square root and its inverse of a symmetric matrix.

    Args:
        covariance: (n, n), float64.
        least: Smallest eigenvalue that is believed, as a share of the largest: directions with less stay bounded.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(least * float(values[-1]) + 1e-30)
    return (vectors * values.sqrt()) @ vectors.T, (vectors * values.rsqrt()) @ vectors.T
