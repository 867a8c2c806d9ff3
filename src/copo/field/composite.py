"""Volume rendering along a ray: from densities to weights."""

from __future__ import annotations

import torch
from torch import Tensor

OPAQUE_STEP = 1e10
"""Length of the last step of a ray that must end in matter (published program), metres."""


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
