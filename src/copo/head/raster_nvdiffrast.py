"""Visibility by nvdiffrast, for people who have installed it. Only its public `rasterize` is called.

Its terms are non-commercial, so it is neither a dependency nor the default. The barycentric coordinates that it
returns are not used: ours are recomputed from the triangle, so that every backend has the same values and gradients.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from copo.errors import CopoError


def visible_face(corners: Tensor, height: int, width: int, near: float, far: float, cull: bool) -> Tensor:
    """The visible triangle of each pixel.

    Args:
        corners: (B, F, 3, 3) float32 in pixel space, on CUDA.
        height: Of the picture.
        width: Of the picture.
        near: Nearest depth.
        far: Farthest depth.
        cull: Must be False; nvdiffrast draws both sides.

    Returns:
        (B, H, W) int64, -1 where there is no triangle.

    Raises:
        CopoError: nvdiffrast is not installed, the data is not on CUDA, or culling was asked for.
    """
    try:
        import nvdiffrast.torch as nvdiffrast
    except ImportError:
        raise CopoError(
            "backend 'nvdiffrast' is not installed: build it from github.com/NVlabs/nvdiffrast, or use backend 'auto'"
        ) from None
    if not corners.is_cuda:
        raise CopoError("backend 'nvdiffrast' needs data on CUDA: move it there, or use backend 'auto'")
    if cull:
        raise CopoError("backend 'nvdiffrast' draws both sides: leave cull_backfaces off, or use backend 'auto'")
    x, y, z = corners.flatten(1, 2).unbind(-1)
    # Row 0 of its picture is clip y = -1, which is our top row: y down needs no flip.
    clip_z = ((far + near) * z - 2 * far * near) / (far - near)
    clip = torch.stack([2 * x / width - z, 2 * y / height - z, clip_z, z], dim=-1).contiguous()
    triangles = torch.arange(clip.shape[1], dtype=torch.int32, device=clip.device).view(-1, 3)
    drawn, _ = nvdiffrast.rasterize(_context(nvdiffrast, corners.device), clip, triangles, resolution=[height, width])
    return drawn[..., 3].long() - 1


@cache
def _context(nvdiffrast: Any, device: torch.device) -> Any:
    """One rasteriser context for each device."""
    return nvdiffrast.RasterizeCudaContext(device=device)
