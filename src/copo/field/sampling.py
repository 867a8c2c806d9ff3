"""Where along a ray the field is looked at: uniform depths, and more where the first look found matter."""

from __future__ import annotations

import torch
from torch import Tensor

PDF_FLOOR = 1e-5
"""Added to the coarse weights twice, and the smallest probability that is divided by (published program)."""


def uniform_depths(near: Tensor, far: Tensor, count: int, generator: torch.Generator | None = None,
                   jitter: bool = False) -> Tensor:  # fmt: skip
    """Equally spaced depths, both ends included.

    Args:
        near: (...) first depth in metres.
        far: (...) last depth in metres.
        count: Number of depths, S >= 2.
        generator: Source of the jitter.
        jitter: Move every depth by a uniform random number within half a step to either side (published program,
            training).

    Returns:
        (..., S) metres, increasing.
    """
    steps = torch.linspace(0, 1, count, dtype=near.dtype, device=near.device)
    depths = near[..., None] + (far - near)[..., None] * steps
    if jitter:
        step = (far - near)[..., None] / (count - 1)
        depths = depths + (_uniform(depths.shape, depths, generator) - 0.5) * step
    return depths


def importance_depths(depths: Tensor, weights: Tensor, count: int, generator: torch.Generator | None = None,
                      jitter: bool = False) -> Tensor:  # fmt: skip
    """Depths distributed as the coarse weights, by inverse transform of their piecewise constant density.

    The bins lie between the midpoints of the coarse depths, so the first and the last weight are not used. No gradient
    flows through the result (published program).

    Args:
        depths: (..., S) increasing coarse depths, S >= 3.
        weights: (..., S) their compositing weights.
        count: Number of new depths F.
        generator: Source of random quantiles.
        jitter: Random quantiles instead of linspace(0, 1, F).

    Returns:
        (..., F) metres, increasing.
    """
    depths, weights = depths.detach(), weights.detach()
    bins = 0.5 * (depths[..., :-1] + depths[..., 1:])
    mass = weights[..., 1:-1] + 2 * PDF_FLOOR
    cdf = torch.cumsum(mass / mass.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1).contiguous()
    if jitter:
        quantiles = _uniform((*cdf.shape[:-1], count), cdf, generator).sort(-1).values
    else:
        quantiles = torch.linspace(0, 1, count, dtype=cdf.dtype, device=cdf.device).expand(*cdf.shape[:-1], count)
    above = torch.searchsorted(cdf, quantiles.contiguous())
    below = (above - 1).clamp_min(0)
    above = above.clamp_max(cdf.shape[-1] - 1)
    cdf_low, bin_low = cdf.gather(-1, below), bins.gather(-1, below)
    share = cdf.gather(-1, above) - cdf_low
    share = torch.where(share < PDF_FLOOR, torch.ones_like(share), share)
    return bin_low + (quantiles - cdf_low) / share * (bins.gather(-1, above) - bin_low)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
