"""Poses and squares: where a head stands when its picture is cropped the way the adapter crops photographs.

Frames are those of `copo.vision.portrait_pose`: rotations in the viewer's (x right, y up, z towards the viewer),
translations in the camera's (x right, y down, z forward). Picture positions are shares of the side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from copo.camera import euler_zyx
from copo.constants import constant
from copo.vision.networks.analyser import TYPICAL_DEPTH
from copo.vision.portrait_pose import FLIP, METHOD_FOCAL, ffhq_square, project


@dataclass(frozen=True)
class Crop:
    """How crops stray from FFHQ's square.

    Attributes:
        scale: (B,) size of the face as a factor.
        shift: (B, 2) of the face, shares of the side.
        angle: (B,) of the face, radians, positive is clockwise.
    """

    scale: Tensor
    shift: Tensor
    angle: Tensor


def place(points68: Tensor, rotation: Tensor, crop: Crop, focal: Tensor, rounds: int = 5) -> tuple[Tensor, Tensor]:
    """Put heads where FFHQ's alignment, and a crop that strays from it, would show them.

    The square of the projected landmarks tells how far depth, place and tilt are off; a few rounds settle them, because
    perspective is weak.

    Args:
        points68: (B, 68, 3) in the head's frame, metres.
        rotation: (B, 3, 3) whose tilt is replaced.
        crop: Where the square shall lie.
        focal: (B,) in sides of the picture.
        rounds: Repetitions.

    Returns:
        (B, 3, 3) rotation and (B, 3) translation.
    """
    translation = points68.new_zeros(len(points68), 3)
    translation[:, 2] = TYPICAL_DEPTH * focal / METHOD_FOCAL
    for _ in range(rounds):
        _, side, angle = ffhq_square(project(points68, rotation, translation, focal))
        rotation, translation = tilt(rotation, translation, crop.angle - angle)
        translation = torch.cat([translation[:, :2], translation[:, 2:] * (side * crop.scale)[:, None]], dim=1)
        centre = ffhq_square(project(points68, rotation, translation, focal))[0]
        move = (0.5 + crop.shift - centre) * translation[:, 2:] / focal[:, None]
        translation = torch.cat([translation[:, :2] + move, translation[:, 2:]], dim=1)
    return rotation, translation


def tilt(rotation: Tensor, translation: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Turn pictures about their middle by (B,) radians, clockwise."""
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = rotation.unbind(1)  # rows, in a frame where y points up; in the translation's it points down
    right, down, depth = translation.split(1, dim=1)
    turned = torch.stack([c * x + s * y, c * y - s * x, z], dim=1)
    return turned, torch.cat([c * right - s * down, s * right + c * down, depth], dim=1)


def warp_pose(rotation: Tensor, translation: Tensor, crop: Crop) -> tuple[Tensor, Tensor]:
    """The pose that belongs to a picture that was scaled, turned and shifted.

    Scaling is a change of depth, turning a tilt, and shifting a turn of the camera (whose picture differs from a
    shifted one in second order only, under 12.6 degrees).
    """
    depth = translation[:, 2:] / crop.scale[:, None]
    translation = torch.cat([translation[:, :2] / translation[:, 2:] * crop.scale[:, None] * depth, depth], dim=1)
    rotation, translation = tilt(rotation, translation, crop.angle)
    across, down = (crop.shift / METHOD_FOCAL).atan().unbind(1)
    turn = euler_zyx(torch.stack([-down, across, torch.zeros_like(down)], dim=1))
    return _moved(turn, rotation, translation)


def _moved(turn: Tensor, rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the scene before the camera by (B, 3, 3) in OpenCV's frame."""
    flip = constant(FLIP, turn)
    return (flip[:, None] * turn * flip) @ rotation, (turn * translation[:, None]).sum(-1)


def warp_points(points: Tensor, crop: Crop) -> Tensor:
    """(B, N, 2) shares of the side -> where they are after scaling and turning about the middle, and shifting."""
    c, s = crop.angle.cos() * crop.scale, crop.angle.sin() * crop.scale
    x, y = (points - 0.5).unbind(-1)
    moved = torch.stack([c[:, None] * x - s[:, None] * y, s[:, None] * x + c[:, None] * y], dim=-1)
    return 0.5 + moved + crop.shift[:, None]


def warp_grid(crop: Crop, size: int) -> Tensor:
    """(B, size, size, 2) where `grid_sample` (align_corners=False) must look for a picture scaled, turned, shifted."""
    axis = (torch.arange(size, device=crop.scale.device, dtype=crop.scale.dtype) + 0.5) / size
    where = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1) - 0.5 - crop.shift[:, None, None]
    c, s = crop.angle.cos() / crop.scale, crop.angle.sin() / crop.scale
    x, y = where.unbind(-1)
    c, s = c[:, None, None], s[:, None, None]
    return 2 * torch.stack([c * x + s * y, c * y - s * x], dim=-1)
