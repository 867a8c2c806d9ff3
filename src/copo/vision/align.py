"""Similarities between point sets, and crops that follow them, differentiable in the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from copo.errors import CopoError
from copo.vision.points import DEEP3D_FIVE

DEEP3D_SIZE, DEEP3D_SCALE = 224, 102.0
"""Side of Deep3DFaceRecon's crop, and the scale its five points are brought to (published preprocessing)."""
_MAX_SIDE = 1 << 14


def similarity(source: Tensor, target: Tensor, validate: bool = True) -> Tensor:
    """The rotation, uniform scale and shift that bring points nearest to others, in the least-squares sense.

    In the plane a similarity is x' = a x - b y + tx, y' = b x + a y + ty, which is linear in (a, b, tx, ty). No mirror
    images.

    Args:
        source: (B, N, 2), at least two different points.
        target: (B, N, 2) or (N, 2).
        validate: Whether the points are looked at; that makes the host wait for a GPU.

    Returns:
        (B, 2, 3) matrices for column vectors (x, y, 1).

    Raises:
        CopoError: The source points coincide or are not finite.
    """
    if validate and not torch.isfinite(source).all():
        raise CopoError("alignment: a landmark is not finite")
    target = target.to(source).expand_as(source)
    centre, aim = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    p, q = source - centre, target - aim
    norm = p.square().sum((1, 2))
    if validate and (norm <= 1e-12).any():
        raise CopoError("alignment: all landmarks lie in one point")
    a = (p * q).sum((1, 2)) / norm
    b = (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / norm
    linear = torch.stack([torch.stack([a, -b], 1), torch.stack([b, a], 1)], 1)
    shift = aim[:, 0] - (linear @ centre[:, 0, :, None])[..., 0]
    return torch.cat([linear, shift[:, :, None]], dim=2)


def transform(matrix: Tensor, points: Tensor) -> Tensor:
    """(B, 2, 3) matrices applied to (B, N, 2) points."""
    return points @ matrix[:, :, :2].mT + matrix[:, None, :, 2]


def inverse(matrix: Tensor) -> Tensor:
    """(B, 2, 3) -> the (B, 2, 3) that leads back."""
    (a, b), (c, d) = matrix[:, 0, :2].unbind(1), matrix[:, 1, :2].unbind(1)
    turned = torch.stack([torch.stack([d, -b], dim=1), torch.stack([-c, a], dim=1)], dim=1)
    linear = turned / (a * d - b * c)[:, None, None]
    return torch.cat([linear, -linear @ matrix[:, :, 2:]], dim=2)


def crop(
    pictures: Tensor,
    matrix: Tensor,
    size: int | tuple[int, int],
    border: str = "zeros",
    antialias: bool = True,
    validate: bool = True,
) -> Tensor:
    """Cut out what a similarity brings into a picture of another size; differentiable in the pictures.

    Samples are bilinear.

    Args:
        pictures: (B, C, H, W).
        matrix: (B, 2, 3) from picture pixels to crop pixels.
        size: Height and width of the crop in pixels, or one side.
        border: What lies outside of the picture: "zeros" (0, which is mid-grey in [-1, 1]), "border" (its edge,
            repeated) or "reflection".
        antialias: Average pictures that get much smaller over blocks first, so that fine patterns do not turn into
            false ones.
        validate: Whether the similarity is looked at, for errors and for antialiasing; that makes the host wait for a
            GPU. Without, there is neither.

    Returns:
        (B, C, height, width).

    Raises:
        CopoError: The similarity has no inverse.
    """
    height, width = (size, size) if isinstance(size, int) else size
    matrix = matrix.to(pictures)
    if validate:
        scale = float(matrix[:, :, :2].detach().double().det().abs().sqrt().min())
        if not math.isfinite(scale) or scale <= 0:
            raise CopoError("alignment: the similarity has no inverse; check the landmarks")
        block = min(int(1 / scale + 1e-6), *pictures.shape[2:])
        if antialias and block > 1:
            pictures = F.avg_pool2d(pictures, block, block)
            matrix = torch.cat([matrix[:, :, :2] * block, matrix[:, :, 2:]], dim=2)
    back = inverse(matrix.double()).to(pictures)
    ys = torch.arange(height, dtype=pictures.dtype, device=pictures.device) + 0.5
    xs = torch.arange(width, dtype=pictures.dtype, device=pictures.device) + 0.5
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).reshape(1, -1, 2)
    where = transform(back, grid.expand(len(matrix), -1, -1))
    where = torch.stack([where[..., 0] / pictures.shape[3], where[..., 1] / pictures.shape[2]], dim=-1) * 2 - 1
    where = where.reshape(-1, height, width, 2)
    return F.grid_sample(pictures, where, mode="bilinear", padding_mode=border, align_corners=False)


@dataclass(frozen=True)
class Deep3DCrop:
    """Where Deep3DFaceRecon looks.

    Attributes:
        scale: Crop pixels per picture pixel.
        centre: (2,) the point of the picture that comes to the crop's centre; x in pixels from the left, y from the
            BOTTOM, both counted from the centre of the corner pixel (the published convention).
        matrix: (2, 3) float32 from picture pixels to crop pixels, in this project's convention.
        trans_params: (5,) float32 as published: width, height, scale, centre x, centre y.
    """

    scale: float
    centre: NDArray[np.float64]
    matrix: NDArray[np.float32]
    trans_params: NDArray[np.float32]


def deep3d_crop(five: NDArray[np.floating], width: int, height: int) -> Deep3DCrop:
    """Scale and shift (no rotation) that bring five points near the mean face's, seen without perspective.

    The published preprocessing fits the two rows of a scaled orthographic camera, R1 . X + sx and R2 . X + sy, to the
    points (y up) by least squares, takes the mean length of R1 and R2 as the face's scale s and (sx, sy) as its centre,
    resizes the picture by 102 / s, and cuts 224 x 224 pixels at whole-pixel places around the centre.

    Args:
        five: (5, 2) eyes, nose tip, mouth corners in pixels.
        width: Of the picture.
        height: Of the picture.

    Raises:
        CopoError: The points are not five finite points, or coincide, so that no scale follows from them.
    """
    five = np.asarray(five, np.float64)
    if five.shape != (5, 2) or not np.isfinite(five).all():
        raise CopoError(f"alignment: five points of shape {five.shape}: give (5, 2) finite pixel positions")
    points = np.stack([five[:, 0] - 0.5, height - 1 - (five[:, 1] - 0.5)], axis=1)
    system = np.concatenate([DEEP3D_FIVE.astype(np.float64), np.ones((5, 1))], axis=1)
    rows, *_ = np.linalg.lstsq(system, points, rcond=None)  # (4, 2): columns are R1 | sx and R2 | sy
    size = float(np.linalg.norm(rows[:3], axis=0).mean())
    if size < 1e-6 or DEEP3D_SCALE / size * max(width, height) > _MAX_SIDE * 4:
        raise CopoError(f"alignment: the face is {size:.3g} pixels large, too small; give a larger picture of it")
    scale, centre = DEEP3D_SCALE / size, rows[3]
    new_width, new_height = int(width * scale), int(height * scale)
    left = int(new_width / 2 - DEEP3D_SIZE / 2 + (centre[0] - width / 2) * scale)
    top = int(new_height / 2 - DEEP3D_SIZE / 2 + (height / 2 - centre[1]) * scale)
    matrix = np.array([[scale, 0, -left], [0, scale, -top]], np.float32)
    record = np.array([width, height, scale, *centre], np.float32)
    return Deep3DCrop(scale, centre, matrix, record)
