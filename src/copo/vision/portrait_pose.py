"""Poses and squares of aligned portraits.

Rotations are told in the viewer's frame (x right, y up, z towards the viewer), translations in the camera's OpenCV
frame (x right, y down, z forward), as in `copo.vision.networks.analyser`. Picture positions are shares of the side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from copo.camera import METHOD_FOV, Camera
from copo.constants import constant

FLIP = (1.0, -1.0, -1.0)
"""Viewer's frame to OpenCV's."""
METHOD_FOCAL = 0.5 / math.tan(METHOD_FOV / 2)
"""Focal length of the aligned portraits, in sides of the picture."""


def project(points: Tensor, rotation: Tensor, translation: Tensor, focal: Tensor | float = METHOD_FOCAL) -> Tensor:
    """The head's points in the picture.

    Args:
        points: (B, N, 3) in the head's frame, metres.
        rotation: (B, 3, 3).
        translation: (B, 3).
        focal: (B,) or a number, in sides of the picture.

    Returns:
        (B, N, 2) shares of the side; differentiable.
    """
    # sums instead of matrix products: reduced-precision products (TF32, autocast) would move points by a pixel
    turned = (rotation[:, None] * points[:, :, None]).sum(-1)
    local = turned * constant(FLIP, points) + translation[:, None]
    length = focal.to(points).reshape(-1, 1, 1) if isinstance(focal, Tensor) else focal
    return 0.5 + length * local[..., :2] / local[..., 2:].clamp_min(1e-2)


def camera_of(rotation: Tensor, translation: Tensor, focal: Tensor | float = METHOD_FOCAL) -> Camera:
    """The camera that sees the resting head so."""
    turn = constant(FLIP, rotation)[:, None] * rotation  # head to OpenCV
    position = -(turn.mT * translation[:, None]).sum(-1)
    last = constant((0.0, 0.0, 0.0, 1.0), rotation).expand(len(rotation), 1, 4)
    cam2world = torch.cat([torch.cat([turn.mT, position[:, :, None]], dim=2), last], dim=1)
    lens = constant((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0), rotation).view(3, 3)
    centre = constant((0.0, 0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 0.0, 1.0), rotation).view(3, 3)
    length = focal.to(rotation).reshape(-1, 1, 1) if isinstance(focal, Tensor) else focal
    return Camera(cam2world, (lens * length + centre).expand(len(rotation), 3, 3))


def pose_of(camera: Camera) -> tuple[Tensor, Tensor]:
    """The inverse of `camera_of` for cameras with a centred square picture; depth as with the method's lens."""
    turn = camera.cam2world[:, :3, :3].mT
    translation = -(turn * camera.position[:, None]).sum(-1)
    factor = METHOD_FOCAL / camera.intrinsics[:, 0, 0]
    return turn * constant(FLIP, turn)[:, None], as_method_lens(translation, 1 / factor)


def as_method_lens(translation: Tensor, ratio: Tensor) -> Tensor:
    """Translations whose head looks as large and stands in the same place with the method's lens.

    Args:
        translation: (B, 3) before another lens.
        ratio: (B,) its focal length divided by the method's.
    """
    depth = translation[:, 2] / ratio
    place = translation[:, :2] / translation[:, 2:] * ratio[:, None] * depth[:, None]
    return torch.cat([place, depth[:, None]], dim=1)


def ffhq_square(points68: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """FFHQ's square around faces (Karras et al. 2018, appendix C), as `copo.preparation.alignment.ffhq_matrix`.

    Args:
        points68: (B, 68, 2).

    Returns:
        (B, 2) centre, (B,) side, (B,) angle of its upper edge in radians, positive is clockwise.
    """
    eyes = points68[:, 36:48].unflatten(1, (2, 6)).mean(2)
    middle = eyes.mean(1)
    across, up = eyes[:, 1] - eyes[:, 0], middle - points68[:, 48:55:6].mean(1)
    centre = middle - 0.1 * up
    side = torch.maximum(4.0 * across.norm(dim=1), 3.6 * up.norm(dim=1))
    x, y = (across - torch.stack([up[:, 1], -up[:, 0]], dim=1)).unbind(1)
    return centre, side, torch.atan2(y, x)
