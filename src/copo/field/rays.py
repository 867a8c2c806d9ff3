"""From cameras to rays, and what a picture needs to know about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError

PixelGrid = Literal["corners", "centers"]
"""Where the rays of a picture start: "corners" puts the outermost rays on the picture's edge (the published program,
linspace(-1, 1)); "centers" puts each ray at the middle of its pixel."""


@dataclass(frozen=True)
class Rays:
    """Rays of a batch of cameras, row by row from the top left.

    Attributes:
        origins: (B, R, 3) world position, metres.
        directions: (B, R, 3) unit vectors in the world.
        axis_share: (B, R) cosine of the angle to the viewing axis: distance along the ray times this is depth along
            the axis.
    """

    origins: Tensor
    directions: Tensor
    axis_share: Tensor

    def __getitem__(self, index: tuple[slice, slice | Tensor]) -> Rays:
        """A part of the batch and of the rays, `rays[b0:b1, r0:r1]` or `rays[b0:b1, indices]`."""
        return Rays(self.origins[index], self.directions[index], self.axis_share[index])

    def at(self, depths: Tensor) -> Tensor:
        """(B, R, S) distances along the rays in metres -> (B, R, S, 3) points."""
        return torch.addcmul(self.origins[:, :, None], self.directions[:, :, None], depths[..., None])


def picture_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """One number for a square or (height, width), checked.

    Raises:
        CopoError: A side is below 1.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise CopoError(f"picture size {height} x {width} has no pixels: give sides of at least 1")
    return height, width


def camera_rays(camera: Camera, size: int | tuple[int, int], grid: PixelGrid = "centers") -> Rays:
    """The rays of every pixel.

    Args:
        camera: B cameras.
        size: Rays per side, or (height, width).
        grid: Where in its pixel a ray lies.

    Returns:
        Rays with R = height * width.

    Raises:
        CopoError: The picture has no pixels.
    """
    height, width = picture_size(size)
    like = camera.cam2world
    columns, rows = (_positions(n, grid, like) for n in (width, height))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)
    # The inverse of the upper triangular intrinsics by substitution: exact where fx = fy and the centre is 0.5.
    k = camera.intrinsics[:, None]
    down = (pixels[..., 1] - k[..., 1, 2]) / k[..., 1, 1]
    right = (pixels[..., 0] - k[..., 0, 2] - k[..., 0, 1] * down) / k[..., 0, 0]
    local = torch.nn.functional.normalize(torch.stack([right, down, torch.ones_like(right)], dim=-1), dim=-1)
    directions = local @ camera.cam2world[:, :3, :3].mT
    return Rays(camera.position[:, None].expand_as(directions), directions, local[..., 2])


def _positions(count: int, grid: PixelGrid, like: Tensor) -> Tensor:
    if grid == "corners":
        return torch.linspace(0, 1, count, dtype=like.dtype, device=like.device)
    return (torch.arange(count, dtype=like.dtype, device=like.device) + 0.5) / count
