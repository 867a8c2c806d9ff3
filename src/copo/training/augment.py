"""Adaptive augmentation of what the discriminator sees (Karras et al. 2020a): shifts, scale, turns and colours.

Every transform is drawn for each picture and switched on with the probability `strength`; below 0.8 the generator
cannot learn it, because the discriminator still sees mostly unchanged pictures. Differentiable once, in the pictures.
`mirrored` makes mirror images of photographs with their poses.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.training.config import AugmentConfig

SHIFT = 0.125
"""Largest whole-pixel and spread of sub-pixel shifts, as a share of the side (ADA)."""
SCALE_SPREAD, CONTRAST_SPREAD, SATURATION_SPREAD = 0.2, 0.5, 1.0
"""Standard deviations of the factors' base-2 logarithms (ADA)."""
BRIGHTNESS_SPREAD = 0.2
"""Standard deviation of what is added to all colours (ADA)."""


def augment(pictures: Tensor, strength: Tensor | float, rotation: float = math.radians(30)) -> Tensor:
    """Change pictures at random.

    Args:
        pictures: (B, C, H, W) in [-1, 1], C a multiple of 3: RGB pictures on top of each other, changed alike.
        strength: Probability of each transform, in [0, 1]; a number or a scalar tensor.
        rotation: Largest turn, radians.

    Returns:
        The same shape and type. A strength of 0 returns the pictures as they were, to the bit.
    """
    strength = torch.as_tensor(strength, device=pictures.device, dtype=torch.float32)
    matrix = _geometry(pictures, strength, rotation)
    grid = F.affine_grid(matrix[:, :2], list(pictures.shape), align_corners=False)
    moved = F.grid_sample(pictures.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    still = (matrix == torch.eye(3, device=matrix.device)).all(dim=2).all(dim=1)
    moved = torch.where(still[:, None, None, None], pictures.float(), moved)
    linear, shift = _colour(len(pictures), strength, pictures.device)
    layers = moved.unflatten(1, (-1, 3))
    coloured = torch.einsum("bij,bljhw->blihw", linear, layers) + shift[:, None, :, None, None]
    plain = (linear == torch.eye(3, device=linear.device)).all(dim=2).all(dim=1) & (shift == 0).all(dim=1)
    coloured = torch.where(plain[:, None, None, None, None], layers, coloured)
    return coloured.flatten(1, 2).to(pictures.dtype)


def mirrored(pictures: Tensor, pose: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """Mirror images of some pictures.

    Args:
        pictures: (B, C, H, W).
        pose: (B, 2) pitch and yaw of their cameras, radians; frontal is (pi/2, pi/2).
        flip: (B) booleans, which ones.

    Returns:
        Pictures and poses of the same shapes.
    """
    pitch, yaw = pose.unbind(1)
    other = torch.stack([pitch, math.pi - yaw], dim=1)
    return torch.where(flip[:, None, None, None], pictures.flip(3), pictures), torch.where(flip[:, None], other, pose)


def _on(batch: int, strength: Tensor) -> Tensor:
    """(B,) 1 with the probability `strength`."""
    return (torch.rand(batch, device=strength.device) < strength).float()


def _geometry(pictures: Tensor, strength: Tensor, rotation: float) -> Tensor:
    """(B, 3, 3) from places in the result to places in the picture, both in [-1, 1]."""
    batch, device = len(pictures), pictures.device
    matrix = torch.eye(3, device=device).expand(batch, 3, 3)
    width, height = pictures.shape[3], pictures.shape[2]
    whole = (torch.rand(batch, 2, device=device) * 2 - 1) * SHIFT
    whole_x, whole_y = (whole[:, 0] * width).round() * (2 / width), (whole[:, 1] * height).round() * (2 / height)
    on = _on(batch, strength)
    matrix = matrix @ _shift(whole_x * on, whole_y * on)
    scale = torch.exp2(torch.randn(batch, device=device) * SCALE_SPREAD * _on(batch, strength))
    matrix = matrix @ _scale(scale, scale)
    angle = (torch.rand(batch, device=device) * 2 - 1) * rotation * _on(batch, strength)
    matrix = matrix @ _turn(angle)
    stretch = torch.exp2(torch.randn(batch, device=device) * SCALE_SPREAD * _on(batch, strength))
    matrix = matrix @ _scale(stretch, 1 / stretch)
    part = torch.randn(batch, 2, device=device) * SHIFT * _on(batch, strength)[:, None]
    return matrix @ _shift(part[:, 0] * 2, part[:, 1] * 2)


def _rows(entries: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in entries], dim=-2)


def _shift(x: Tensor, y: Tensor) -> Tensor:
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _rows([[one, zero, x], [zero, one, y], [zero, zero, one]])


def _scale(x: Tensor, y: Tensor) -> Tensor:
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _rows([[x, zero, zero], [zero, y, zero], [zero, zero, one]])


def _turn(angle: Tensor) -> Tensor:
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    c, s = angle.cos(), angle.sin()
    return _rows([[c, -s, zero], [s, c, zero], [zero, zero, one]])


def _colour(batch: int, strength: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, 3, 3) and (B, 3): new colour = matrix colour + shift."""
    identity = torch.eye(3, device=device)
    grey = torch.full((3, 3), 1 / 3, device=device)  # projection onto the axis of greys
    bright = torch.randn(batch, device=device) * BRIGHTNESS_SPREAD * _on(batch, strength)
    contrast = torch.exp2(torch.randn(batch, device=device) * CONTRAST_SPREAD * _on(batch, strength))
    hue = (torch.rand(batch, device=device) * 2 - 1) * math.pi * _on(batch, strength)
    saturation = torch.exp2(torch.randn(batch, device=device) * SATURATION_SPREAD * _on(batch, strength))
    c, s = hue.cos()[:, None, None], hue.sin()[:, None, None]
    turned = c * identity + (1 - c) * grey + s * _cross(device)  # Rodrigues' rotation about the axis of greys
    turned = torch.where((hue == 0)[:, None, None], identity, turned)
    saturate = saturation[:, None, None] * (identity - grey) + grey
    saturate = torch.where((saturation == 1)[:, None, None], identity, saturate)
    return contrast[:, None, None] * (saturate @ turned), (bright * contrast)[:, None].expand(batch, 3)


def _cross(device: torch.device) -> Tensor:
    """(3, 3): the cross product with (1, 1, 1) / sqrt 3 as a matrix."""
    index = torch.arange(3, device=device)
    step = (index[None] - index[:, None]) % 3  # 1 where the column follows the row, 2 where it precedes it
    return ((step == 2).float() - (step == 1).float()) / math.sqrt(3)


class AdaptiveStrength(nn.Module):
    """The strength of augmentation, moved so that the mean sign of real scores stays at its target (ADA).

    Args:
        config: Target, speed, limits.
        images: Photographs in one step, over all processes.
    """

    strength: Tensor

    def __init__(self, config: AugmentConfig, images: int) -> None:
        super().__init__()
        self.config = config
        self.step = images * config.interval / (config.speed_kimg * 1000)
        self.register_buffer("strength", torch.zeros(()))

    def forward(self, pictures: Tensor) -> Tensor:
        """Augment, or pass on unchanged where augmentation is off."""
        return augment(pictures, self.strength, self.config.rotation) if self.config.enabled else pictures

    @torch.no_grad()
    def adjust(self, sign: Tensor) -> None:
        """Move the strength by one step. sign: mean sign of the real scores since the last call, a scalar."""
        if self.config.enabled:
            self.strength.add_(torch.sign(sign - self.config.target) * self.step).clamp_(0, self.config.maximum)
