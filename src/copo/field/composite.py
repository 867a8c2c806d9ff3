"""Volume rendering along a ray: from densities to weights, and what comes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OPAQUE_STEP = 1e10
"""Length of the last step of a ray that must end in matter (published program), metres."""


@dataclass(frozen=True)
class RayOutput:
    """What a batch of rays saw.

    Attributes:
        features: (B, R, F) composited features; the first three are colours, nominally in [0, 1].
        depth: (B, R) mean distance along the ray, metres; light that passes counts as seen at the far end.
        alpha: (B, R) opacity in [0, 1].
        classes: (B, R, K) composited class probabilities, whose sum is alpha.
        normals: (B, R, 3) unit vectors in the world, pointing out of the matter, or None where not asked for.
        static_share: (B, R) the smallest share that the static field has in any sample; None without one.
    """

    features: Tensor
    depth: Tensor
    alpha: Tensor
    classes: Tensor
    normals: Tensor | None = None
    static_share: Tensor | None = None


def step_lengths(depths: Tensor, last: float | Tensor = OPAQUE_STEP) -> Tensor:
    """(..., S) increasing depths -> (..., S) length of the step that each sample stands for: up to the next sample.

    Args:
        depths: Metres.
        last: Length of the last step in metres, a number or (...).
    """
    steps = depths[..., 1:] - depths[..., :-1]
    tail = last[..., None] if isinstance(last, Tensor) else torch.full_like(depths[..., :1], last)
    return torch.cat([steps, tail], dim=-1)


def composite_weights(density: Tensor, steps: Tensor) -> Tensor:
    """How much of each sample reaches the camera: w_i = (1 - exp(-sigma_i d_i)) exp(-sum_{j<i} sigma_j d_j).

    The published program multiplies factors 1 - alpha + 1e-10 instead, which differs by less than 1e-8.

    Args:
        density: (..., S) per metre, not negative, in the order of the depths.
        steps: (..., S) metres.

    Returns:
        (..., S) weights, whose sum is the ray's alpha.
    """
    thickness = density * steps
    passed = torch.cumsum(thickness[..., :-1], dim=-1)
    light = torch.cat([torch.ones_like(thickness[..., :1]), torch.exp(-passed)], dim=-1)
    return -torch.expm1(-thickness) * light


def merged_weights(depths: Tensor, density: Tensor, last: float | Tensor = OPAQUE_STEP) -> Tensor:
    """`composite_weights` of samples in any order, returned in that same order.

    Only depths and densities are sorted, so that nothing larger needs to be.

    Args:
        depths: (..., S) metres.
        density: (..., S) per metre.
        last: As in `step_lengths`.
    """
    ordered, order = depths.sort(dim=-1, stable=True)
    weights = composite_weights(density.gather(-1, order), step_lengths(ordered, last))
    return torch.empty_like(weights).scatter(-1, order, weights)
