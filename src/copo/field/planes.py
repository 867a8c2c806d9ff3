"""The tri-plane: three feature pictures, each seen by all points along one axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BOX_MARGIN = 1e-5
"""Added to the half width before points are divided by it (published program), metres."""

PLANE_AXES = ((0, 2), (0, 1), (1, 2))
"""World axes along the width and the height of the planes xz, xy, yz (published program)."""


def sample_planes(planes: Tensor, points: Tensor, box: float) -> Tensor:
    """Features at points: bilinear in each plane (corners aligned, clamped at the border), summed over the planes.

    On a CPU, planes whose 3 C numbers of a texel lie side by side (as the backbone leaves them) are read in place;
    others are copied first.

    Args:
        planes: (B, 3, C, H, W), planes xz, xy, yz; the first named coordinate runs along the width.
        points: (B, N, 3) world, metres.
        box: Half width of the cube that the planes cover, metres.

    Returns:
        (B, N, C). Differentiable in planes and points.
    """
    unit = (points / (box + BOX_MARGIN)).clamp(-1, 1)
    return _sample_by_grid(planes, unit) if planes.is_cuda else _sample_by_rows(planes, unit)


def _sample_by_rows(planes: Tensor, unit: Tensor) -> Tensor:
    """As a weighted sum of the 12 texels' rows of a table: on a CPU 9 times as fast as three grid_sample calls."""
    batch, three, channels, height, width = planes.shape
    table = planes.permute(0, 3, 4, 1, 2).reshape(-1, channels)
    across, along = zip(*PLANE_AXES, strict=True)
    u = (unit[..., across] + 1) * (0.5 * (width - 1))  # (B, N, 3 planes)
    v = (unit[..., along] + 1) * (0.5 * (height - 1))
    u_low, v_low = u.detach().floor().clamp_(0, max(width - 2, 0)), v.detach().floor().clamp_(0, max(height - 2, 0))
    picture = torch.arange(batch, dtype=torch.int32).view(batch, 1, 1) * height
    corner = ((picture + v_low.int()) * width + u_low.int()) * three + torch.arange(three, dtype=torch.int32)
    right, down = three * min(width - 1, 1), three * width * min(height - 1, 1)
    index = torch.stack([corner, corner + right, corner + down, corner + (right + down)], dim=-1)
    u, v = u - u_low, v - v_low
    both = u * v
    weight = torch.stack([1 - u - v + both, u - both, v - both, both], dim=-1)
    rows = F.embedding_bag(index.view(-1, 12), table, per_sample_weights=weight.view(-1, 12), mode="sum")
    return rows.view(*unit.shape[:2], channels)


def _sample_by_grid(planes: Tensor, unit: Tensor) -> Tensor:
    """By grid_sample, whose backward pass is the faster one on a GPU."""
    batch, three, channels, height, width = planes.shape
    grid = torch.stack([unit[..., axes] for axes in PLANE_AXES], dim=1).view(batch * three, 1, -1, 2)
    out = F.grid_sample(planes.reshape(-1, channels, height, width), grid.to(planes.dtype), mode="bilinear",
                        padding_mode="border", align_corners=True)  # fmt: skip
    return out.view(batch, three, channels, -1).sum(1).mT
