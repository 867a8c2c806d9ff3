"""Where along a ray the field is looked at: uniform depths, and more where the first look found matter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from copo.errors import CopoError
from copo.field.rays import Rays

FAST_CUTOFF = 1e-3
"""Share of the light below which fast sampling leaves out the rest of a ray: a quarter of a step of 8-bit colour."""


PDF_FLOOR = 1e-5
"""Added to the coarse weights twice, and the smallest probability that is divided by (published program)."""


Jitter = bool | Literal["picture"]


@dataclass(frozen=True)
class SamplingConfig:
    """Where rays are sampled and how they end.

    Attributes:
        near: Distance of the first sample from a camera that stands `distance` away from the origin, metres (paper).
        far: Distance of the last sample from such a camera, metres (paper; 1.15 for its videos).
        distance: Distance that `near` and `far` belong to; they move along with a camera that stands elsewhere.
        coarse: Uniform samples of each ray, at least 3 (paper: 48; 96 for its videos).
        fine: Importance samples of each ray; 0 for none (paper: 48; 96 for its videos).
        cutoff: Samples that less than this share of the light reaches may be left out; 0 for none (paper). The fused
            kernels make use of it, the plain renderer does not need to.
        jitter: Random sample positions (training); without, the same camera always gives the same picture. True moves
            every sample for itself (published program); "picture" moves all samples of a picture alike, so that no
            grain comes of it (ours).
        opaque_end: Whether the last sample is as thick as a wall, so that every ray ends in matter (paper). Without,
            light passes and a background can show.
        outside: What lies outside the planes' cube: the "border" values of the planes (paper) or "nothing".
        chunk: Rays that are marched together when no gradient is needed; bounds the memory.
    """

    near: float = 0.88
    far: float = 1.12
    distance: float = 1.0
    coarse: int = 48
    fine: int = 48
    cutoff: float = 0.0
    jitter: Jitter = False
    opaque_end: bool = True
    outside: Literal["border", "nothing"] = "border"
    chunk: int = 1024

    def __post_init__(self) -> None:
        if not 0 < self.near < self.far:
            raise CopoError(f"sampling: near {self.near:g} and far {self.far:g} must satisfy 0 < near < far")
        if self.coarse < 3 or self.fine < 0:
            raise CopoError(f"sampling: {self.coarse} coarse and {self.fine} fine samples: give at least 3 and 0")
        if not 0 <= self.cutoff < 1:
            raise CopoError(f"sampling: cutoff {self.cutoff:g} is not a share of light: give 0 or more, below 1")
        if self.chunk < 1:
            raise CopoError(f"sampling: chunk of {self.chunk} rays: give at least 1")

    def fast(self) -> SamplingConfig:
        """Half the importance samples, and rays that end where nothing is left to see; docs/field.md says how close
        its pictures are."""
        return replace(self, fine=self.fine // 2, cutoff=FAST_CUTOFF)

    def depth_range(self, rays: Rays) -> tuple[Tensor, Tensor]:
        """(B, R) first and last depth of each ray, metres."""
        shift = rays.origins.norm(dim=-1) - self.distance
        return shift + self.near, shift + self.far


def uniform_depths(near: Tensor, far: Tensor, count: int, generator: torch.Generator | None = None,
                   jitter: Jitter = False) -> Tensor:  # fmt: skip
    """Equally spaced depths, both ends included.

    Args:
        near: (B, ...) first depth in metres.
        far: (B, ...) last depth in metres.
        count: Number of depths, S >= 2.
        generator: Source of the jitter.
        jitter: Move depths by a uniform random number within half a step to either side: each by its own (published
            program, training), or with "picture" all of an entry of the batch by the same.

    Returns:
        (B, ..., S) metres, increasing.
    """
    steps = torch.linspace(0, 1, count, dtype=near.dtype, device=near.device)
    depths = near[..., None] + (far - near)[..., None] * steps
    if jitter:
        step = (far - near)[..., None] / (count - 1)
        depths = depths + (_uniform(_drawn(depths.shape, jitter), depths, generator) - 0.5) * step
    return depths


def importance_depths(depths: Tensor, weights: Tensor, count: int, generator: torch.Generator | None = None,
                      jitter: Jitter = False) -> Tensor:  # fmt: skip
    """Depths distributed as the coarse weights, by inverse transform of their piecewise constant density.

    The bins lie between the midpoints of the coarse depths, so the first and the last weight are not used. No gradient
    flows through the result (published program).

    Args:
        depths: (..., S) increasing coarse depths, S >= 3.
        weights: (..., S) their compositing weights.
        count: Number of new depths F.
        generator: Source of random quantiles.
        jitter: Random quantiles instead of linspace(0, 1, F); with "picture" those of linspace, moved alike in an entry
            of the batch.

    Returns:
        (..., F) metres, increasing.
    """
    depths, weights = depths.detach(), weights.detach()
    bins = 0.5 * (depths[..., :-1] + depths[..., 1:])
    mass = weights[..., 1:-1] + 2 * PDF_FLOOR
    cdf = torch.cumsum(mass / mass.sum(-1, keepdim=True), dim=-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf], dim=-1).contiguous()
    shape = (*cdf.shape[:-1], count)
    if jitter == "picture":
        quantiles = moved_quantiles(count, _uniform(_drawn(shape, jitter), cdf, generator)).expand(shape)
    elif jitter:
        quantiles = _uniform(shape, cdf, generator).sort(-1).values
    else:
        quantiles = torch.linspace(0, 1, count, dtype=cdf.dtype, device=cdf.device).expand(shape)
    above = torch.searchsorted(cdf, quantiles.contiguous())
    below = (above - 1).clamp_min(0)
    above = above.clamp_max(cdf.shape[-1] - 1)
    cdf_low, bin_low = cdf.gather(-1, below), bins.gather(-1, below)
    share = cdf.gather(-1, above) - cdf_low
    share = torch.where(share < PDF_FLOOR, torch.ones_like(share), share)
    return bin_low + (quantiles - cdf_low) / share * (bins.gather(-1, above) - bin_low)


def moved_quantiles(count: int, random: Tensor) -> Tensor:
    """(..., 1) uniform numbers -> (..., count) linspace(0, 1, count), moved by up to half a step, within [0, 1]."""
    steps = torch.linspace(0, 1, count, dtype=random.dtype, device=random.device)
    return (steps + (random - 0.5) / max(count - 1, 1)).clamp(0, 1)


def _drawn(shape: tuple[int, ...], jitter: Jitter) -> tuple[int, ...]:
    """How many random numbers move depths of a shape."""
    return (shape[0], *(1 for _ in shape[1:])) if jitter == "picture" else tuple(shape)


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, dtype=like.dtype, device=like.device, generator=generator)
