"""Coefficient priors: a VAE-GAN for identity, expression or light (paper, section 3.2), with one normaliser everywhere.

The networks see coefficients divided by the head model's own normalisers (`FactorSpec.normalisers`), in training,
sampling and in the generator alike. (The published program divides expressions by 3 here and multiplies by 4 later.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from copo.camera import Camera
from copo.config import VAE_PRESETS, VaeConfig
from copo.errors import CopoError
from copo.factors import Factors, FactorSpec
from copo.formats.atomic import atomic_write, write_bytes
from copo.formats.checkpoint import Checkpoint, StoredNetwork, save_checkpoint
from copo.head.protocol import HeadModel
from copo.head.renderer import RasterConfig, render_head
from copo.illumination import NEUTRAL_LIGHT
from copo.networks.conditional_priors import covariance_roots
from copo.networks.vae import Vae, VaeDiscriminator

FACTORS = {"id": "identity", "exp": "expression", "light": "illumination"}
"""Names at the command line, and of the factors."""
STEPS = {"identity": 14_000, "expression": 20_000, "illumination": 17_000}
"""Steps of the published program."""


@dataclass(frozen=True)
class PriorWeights:
    """The losses of a prior (paper, section 3.2)."""

    first: float = 5.0
    """Mean square error over the first coefficients."""
    first_count: int = 32
    """How many these are."""
    rest: float = 1.0
    """Mean square error over the others, where there are any. (The published program divides by their number, 0 for
    light.)"""
    kl: float = 0.0025
    """Kullback-Leibler divergence of the latents from N(0, 1)."""
    adversarial: float = 5.0
    """Non-saturating loss on what random latents give."""
    r1: float = 10.0
    """Half of this times the discriminator's squared gradient at real rows (ours: without it the two chase each other
    and sampled coefficients end many times farther from the real ones, see docs/decisions/training.md)."""


@dataclass(frozen=True)
class PriorConfig:
    """Training of one prior."""

    factor: str
    """identity, expression or illumination."""
    network: VaeConfig
    """Sizes and normalisers."""
    weights: PriorWeights = field(default_factory=PriorWeights)
    """Of the losses."""
    steps: int = 14_000
    """Length (paper: 14,000 identity, 20,000 expression, 17,000 light)."""
    batch: int = 128
    """Rows a step (paper)."""
    lr: float = 5e-3
    """Adam's rate of encoder and decoder (paper)."""
    discriminator_lr: float = 2.5e-3
    """Adam's rate of the discriminator (paper)."""
    betas: tuple[float, float] = (0.5, 0.99)
    """Adam's decays (ours)."""
    decay: float = 0.4
    """Share of the steps, at the end, over which both rates fall to 0 (ours: the last batches do not decide)."""
    test_share: float = 0.1
    """Share of the rows that is kept aside for the report."""
    seed: int = 0
    """Of everything random."""


@dataclass(frozen=True)
class PriorReport:
    """How good a prior is. Everything in normalised coefficients, on rows it was not trained on.

    Attributes:
        factor: Which.
        train: Rows trained on.
        test: Rows kept aside.
        error: Root mean square error of the reconstruction from the mean latent.
        spread: Root mean square of the rows around their mean: the error of knowing nothing.
        frechet: Frechet distance between samples and rows kept aside.
        frechet_halves: The same between two halves of the real rows, each as large as the part kept aside allows.
        nearest: Median distance of a sample to the nearest training row, divided by that of a row kept aside.
    """

    factor: str
    train: int
    test: int
    error: float
    spread: float
    frechet: float
    frechet_halves: float
    nearest: float


def prior_config(factor: str, spec: FactorSpec, steps: int | None = None, seed: int = 0) -> PriorConfig:
    """The published sizes with a head model's coefficients and normalisers.

    Args:
        factor: identity, expression or illumination.
        spec: Of the head model.
        steps: Length; published by default.
        seed: Of everything random.

    Raises:
        CopoError: There is no such factor, or the head has no such coefficients.
    """
    if factor not in VAE_PRESETS:
        raise CopoError(f"prior {factor!r}: choose id, exp or light")
    names = ("shape", "albedo") if factor == "identity" else (factor,)
    scales = tuple(spec.normaliser(name) for name in names for _ in range(spec.sizes[name]))
    if not scales:
        raise CopoError(f"prior {factor}: head {spec.head!r} has no such coefficients")
    network = replace(VAE_PRESETS[factor], coefficients=len(scales), scales=scales)
    return PriorConfig(factor, network, steps=STEPS[factor] if steps is None else steps, seed=seed)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of N(mean, variance) from N(0, 1), summed over latents (B, n), mean over the batch."""
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()


def reconstruction_loss(decoded: Tensor, given: Tensor, weights: PriorWeights) -> Tensor:
    """Weighted square errors of the first and of the other coefficients (B, n); nothing for an empty part."""
    error = (decoded - given).square()
    first, rest = error[:, : weights.first_count], error[:, weights.first_count :]
    loss = weights.first * first.mean()
    return loss + weights.rest * rest.mean() if rest.numel() else loss


def train_prior(
    rows: Tensor,
    config: PriorConfig,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Vae, PriorReport]:
    """Learn the distribution of coefficients.

    Args:
        rows: (N, n) in the head model's units.
        config: Sizes and lengths.
        device: Where to train.
        say: Gets a line now and then.

    Returns:
        The prior in evaluation mode on the CPU, and its report.

    Raises:
        CopoError: There are too few rows, they have another size or are not finite, or the training diverges.
    """
    size = config.network.coefficients
    if rows.ndim != 2 or rows.shape[1] != size:
        raise CopoError(f"prior {config.factor}: rows of shape {tuple(rows.shape)}, expected (N, {size})")
    if len(rows) < 8:
        raise CopoError(f"prior {config.factor}: {len(rows)} rows are too few: give at least 8, better thousands")
    if not torch.isfinite(rows).all():
        raise CopoError(f"prior {config.factor}: a coefficient is not finite: fit the data set again")
    torch.manual_seed(config.seed)
    order = torch.randperm(len(rows))
    held = max(4, int(len(rows) * config.test_share))
    vae, judge = Vae(config.network).to(device), VaeDiscriminator(config.network).to(device)
    normalised = rows.to(device) / vae.scales
    test, train = normalised[order[:held]], normalised[order[held:]]
    optimisers = (torch.optim.Adam(vae.parameters(), lr=config.lr, betas=config.betas),
                  torch.optim.Adam(judge.parameters(), lr=config.discriminator_lr, betas=config.betas))  # fmt: skip
    w, start = config.weights, config.steps * (1 - config.decay)
    for step in range(config.steps):
        rate = min(1.0, (config.steps - step) / max(config.steps - start, 1))
        for optimiser, base in zip(optimisers, (config.lr, config.discriminator_lr), strict=True):
            optimiser.param_groups[0]["lr"] = base * rate
        batch = train[torch.randint(len(train), (config.batch,), device=device)]
        out = vae(batch)
        sampled = vae.decode(torch.randn_like(out.mean))
        judge.requires_grad_(False)
        # Both kinds share a pass: batch normalisation of each alone would hide their means and scales.
        _, generated = judge(torch.cat([batch, sampled])).chunk(2)
        loss = (
            reconstruction_loss(out.decoded, batch, w)
            + w.kl * kl_divergence(out.mean, out.log_variance)
            + w.adversarial * F.softplus(-generated).mean()
        )
        optimisers[0].zero_grad(set_to_none=True)
        loss.backward()
        optimisers[0].step()
        judge.requires_grad_(True)
        leaf = batch.detach().requires_grad_(True)
        real, generated = judge(torch.cat([leaf, sampled.detach()])).chunk(2)
        (slope,) = torch.autograd.grad(real.sum(), leaf, create_graph=True)
        said = F.softplus(-real).mean() + F.softplus(generated).mean() + w.r1 * 0.5 * slope.square().sum(1).mean()
        optimisers[1].zero_grad(set_to_none=True)
        said.backward()
        optimisers[1].step()
        if step % 1000 == 0 or step + 1 == config.steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise CopoError(f"prior {config.factor}: the loss is not finite after {step} steps: lower lr")
            say(f"step {step:>6d}  loss {value:.4f}  discriminator {float(said.detach()):.4f}")
    vae.eval().requires_grad_(False)
    if config.factor == "identity":  # many coefficients and one row a person; light's samples are good and got worse
        match_moments(vae, train, config.seed)
    vae.config = replace(vae.config, longest=float(train.norm(dim=1).max()))
    return vae.cpu(), report_prior(vae.cpu(), train.cpu(), test.cpu(), config)


@torch.no_grad()
def match_moments(vae: Vae, rows: Tensor, seed: int = 0, count: int = 4000) -> None:
    """Give a prior's samples the mean and covariance of the real rows, in its last layer (ours).

    A decoder answers with means, so that what the latents do not explain is missing from its samples: without this,
    people were two thirds as different as real ones. The linear map is the optimal transport between the two Gaussians,
    T = A^-1/2 (A^1/2 B A^1/2)^1/2 A^-1/2 (Olkin and Pukelsheim 1982), A the covariance of the samples, B of the rows.

    Args:
        vae: In evaluation mode; changed in place.
        rows: (N, n) normalised.
        seed: Of the samples.
        count: How many samples.
    """
    random = torch.Generator().manual_seed(seed)
    latent = torch.randn(count, vae.config.latent, generator=random).to(rows)
    samples = vae.decode(latent).double()
    real = rows.double()
    first, first_inverse = covariance_roots(torch.cov(samples.T), 1e-9)
    values, vectors = torch.linalg.eigh(first @ torch.cov(real.T) @ first)
    middle = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    change = first_inverse @ middle @ first_inverse
    weight, bias = vae.out.weight.double(), vae.out.bias.double()
    vae.out.weight.copy_(change @ weight)
    vae.out.bias.copy_(change @ (bias - samples.mean(0)) + real.mean(0))


@torch.no_grad()
def report_prior(vae: Vae, train: Tensor, test: Tensor, config: PriorConfig) -> PriorReport:
    """Measure a prior on normalised rows."""
    random = torch.Generator().manual_seed(config.seed + 1)
    mean, _ = vae.encode(test)
    error = (vae.decode(mean) - test).square().mean().sqrt()
    samples = vae.decode(torch.randn(max(len(test), 2000), config.network.latent, generator=random))
    order = torch.randperm(len(train), generator=random)
    half = min(len(train) // 2, len(test))
    halves = frechet_distance(train[order[:half]], train[order[half : 2 * half]])
    some = samples[: len(test)]
    near = torch.cdist(some, train).amin(1).median() / torch.cdist(test, train).amin(1).median().clamp_min(1e-9)
    return PriorReport(
        factor=config.factor, train=len(train), test=len(test), error=float(error),
        spread=float((test - test.mean(0)).square().mean().sqrt()), frechet=frechet_distance(some, test),
        frechet_halves=halves, nearest=float(near),
    )  # fmt: skip


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of the Gaussians that fit two sets of rows (N, n), (M, n)."""
    x, y = a.double().numpy(), b.double().numpy()
    first, second = (np.atleast_2d(np.cov(v, rowvar=False)) for v in (x, y))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    distance = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * cross
    return float(max(distance, 0.0))


def save_prior(
    folder: Path, vae: Vae, config: PriorConfig, report: PriorReport, spec: FactorSpec, head: HeadModel
) -> None:
    """Write the checkpoint, report.json and a sheet of sampled heads.

    Raises:
        CopoError: The folder cannot be written.
    """
    stored = StoredNetwork(vae.config, vae.state_dict())
    notes = {"training": f"prior of {config.factor}, {config.steps} steps on {report.train} rows"}
    save_checkpoint(Checkpoint({f"prior_{config.factor}": stored}, spec, notes), folder)
    body = {"report": asdict(report), "config": asdict(config)}
    write_bytes(folder / "report.json", (json.dumps(body, indent=2) + "\n").encode())
    with atomic_write(folder / "samples.png") as temporary:
        Image.fromarray(sample_sheet(vae, config.factor, spec, head)).save(temporary, format="PNG")


@torch.no_grad()
def sample_sheet(
    vae: Vae, factor: str, spec: FactorSpec, head: HeadModel, count: int = 24, tile: int = 128
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(H, W, 3) uint8: heads with one factor sampled, others neutral, under a plain light unless that is sampled."""
    random = torch.Generator().manual_seed(0)
    drawn = vae.sample(torch.randn(count, vae.config.latent, generator=random))
    faces = Factors.neutral(spec, count, None if factor == "illumination" else NEUTRAL_LIGHT).replace(**{factor: drawn})
    tiles = []
    for start in range(0, count, 4):
        some = faces[start : start + 4]
        picture = render_head(
            head, some.shape, some.expression, some.albedo, some.illumination, Camera.from_degrees(12.0), tile,
            config=RasterConfig(supersample=2),
        )  # fmt: skip
        tiles.append((picture.over(0.9) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    grid = np.concatenate(tiles)
    columns = 8
    rows = -(-count // columns)
    padded = np.full((rows * columns, tile, tile, 3), 229, np.uint8)
    padded[:count] = grid
    return padded.reshape(rows, columns, tile, tile, 3).swapaxes(1, 2).reshape(rows * tile, columns * tile, 3)


def factor_rows(factors: Factors, factor: str, people: list[str]) -> Tensor:
    """The rows that a prior learns from, in the head model's units.

    Args:
        factors: (N) of a data set.
        factor: identity, expression or illumination.
        people: (N) who they show; identity counts once for each person.
    """
    if factor != "identity":
        value: Tensor = getattr(factors, factor)
        return value.float()
    first = list({person: i for i, person in reversed(list(enumerate(people)))}.values())
    return factors.identity[torch.tensor(sorted(first))].float()
