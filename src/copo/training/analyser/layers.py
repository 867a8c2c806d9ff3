"""What stands around and before a rendered head: backgrounds, hair, glasses, things in the way. Pictures in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.head.protocol import PARSER_CLASSES
from copo.training.analyser.batch import IGNORE
from copo.training.analyser.chance import Chance

BACKGROUND, SKIN, GLASSES, NOSE, MOUTH, NECK, CLOTH, HAIR, HAT = (
    PARSER_CLASSES.index(name)
    for name in ("background", "skin", "glasses", "nose", "mouth_interior", "neck", "cloth", "hair", "hat")
)
FEATURES = tuple(
    PARSER_CLASSES.index(n)
    for n in ("brow_left", "brow_right", "eye_left", "eye_right", "nose", "mouth_interior", "lip_upper", "lip_lower")
)
"""Classes that hair seldom covers."""


def within(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Bool, where a label is one of these."""
    return torch.isin(labels, torch.tensor(classes, device=labels.device))


def fill_outside(pictures: Tensor, keep: Tensor) -> Tensor:
    """Continue the kept part of pictures smoothly over the rest: averages of ever larger cells fill what is missing.

    Args:
        pictures: (B, 3, S, S).
        keep: (B, 1, S, S) weight in [0, 1].
    """
    sums, weights = [pictures * keep], [keep]
    while sums[-1].shape[3] > 1:
        sums.append(F.avg_pool2d(sums[-1], 2, ceil_mode=True))
        weights.append(F.avg_pool2d(weights[-1], 2, ceil_mode=True))
    filled = sums[-1] / weights[-1].clamp_min(1e-4)
    for total, weight in zip(reversed(sums[:-1]), reversed(weights[:-1]), strict=True):
        coarse = F.interpolate(filled, size=total.shape[2:], mode="bilinear", align_corners=False)
        share = weight.clamp(0, 1)
        filled = total / weight.clamp_min(1e-4) * share + coarse * (1 - share)
    return filled


def backdrops(count: int, size: int, chance: Chance) -> Tensor:
    """(count, 3, size, size): plain colours, gradients, and noise of several sizes, mixed."""
    base = chance.unit(count, 3, 1, 1)
    slope = chance.normal(count, 3, 2, 1, 1) * 0.3 * chance.flag(0.6, count, 1, 1, 1, 1)
    axis = torch.linspace(-1, 1, size, device=chance.device)
    out = base + slope[:, :, 0] * axis + slope[:, :, 1] * axis[:, None]
    for cells in (4, 12, 40, size):
        strength = chance.unit(count, 1, 1, 1).square() * chance.flag(0.5, count, 1, 1, 1) * 0.35
        same = chance.flag(0.5, count, 1, 1, 1)
        noise = chance.noise(count, 3, size, cells)
        out = out + strength * torch.where(same, noise[:, :1], noise)
    return out.clamp(0, 1)


def strands(count: int, size: int, chance: Chance) -> Tensor:
    """(count, 3, size, size) hair: a colour with streaks along a wavy direction."""
    palette = torch.tensor(
        [[0.06, 0.05, 0.05], [0.16, 0.10, 0.07], [0.30, 0.19, 0.12], [0.55, 0.40, 0.24], [0.80, 0.68, 0.46],
         [0.60, 0.58, 0.56], [0.45, 0.18, 0.09]], device=chance.device,
    )  # fmt: skip
    colour = palette[chance.index(len(palette), count)] * torch.exp(0.15 * chance.normal(count, 3))
    fine = F.interpolate(chance.normal(count, 1, 6, size // 2), size=(size, size), mode="bicubic", align_corners=False)
    bend = chance.noise(count, 1, size, 5) * size / 14
    columns = torch.arange(size, device=chance.device).expand(count, 1, size, size) + bend
    streaks = fine.gather(3, columns.round().long().clamp(0, size - 1))
    soft = chance.noise(count, 1, size, 6)
    return (colour[:, :, None, None] * torch.exp(0.28 * streaks + 0.3 * soft)).clamp(0, 1)


def grown_hair(labels: Tensor, chance: Chance) -> Tensor:
    """(B, S, S) labels of rendered heads -> (B, S, S) bool: more hair around the scalp, and locks that fall from it."""
    count, size = len(labels), labels.shape[2]
    scalp = (labels == HAIR).float()[:, None]
    reach = 2 * (size // 24) + 1
    near = F.avg_pool2d(F.max_pool2d(scalp, reach, 1, reach // 2), reach, 1, reach // 2)
    threshold = chance.between(0.25, 1.0, count, 1, 1, 1) + 0.12 * chance.noise(count, 1, size, 14)
    around = near > threshold.clamp_min(0.12)
    length = max(size // 16, 1)
    fall = F.max_pool2d(F.pad(around.float(), (0, 0, length, 0)), (length + 1, 1), 1)
    rows = torch.arange(size, device=labels.device, dtype=torch.float32)[:, None] / size
    for _ in range(8):  # locks as long as eight steps, behind the face
        fall = F.max_pool2d(F.pad(fall, (0, 0, length, 0)), (length + 1, 1), 1)
    ends = chance.between(0.3, 1.0, count, 1, 1, 1) + 0.03 * chance.noise(count, 1, size, 24)
    locks = (
        (fall > 0)
        & (rows < ends)
        & chance.flag(0.6, count, 1, 1, 1)
        & within(labels, (BACKGROUND, NECK, CLOTH))[:, None]
    )
    covers = ~within(labels, FEATURES)[:, None]
    return ((around & covers) | locks | (scalp > 0))[:, 0]


def add_glasses(
    pictures: Tensor, labels: Tensor, points: Tensor, chosen: Tensor, chance: Chance
) -> tuple[Tensor, Tensor]:
    """Two rims, a bridge, and lenses from clear to dark.

    Args:
        pictures: (B, 3, S, S).
        labels: (B, S, S).
        points: (B, 68, 2) shares of the side.
        chosen: (B,) bool, who wears some.
        chance: Random numbers.
    """
    count, size = len(pictures), pictures.shape[3]
    eyes = torch.stack([points[:, 36:42].mean(1), points[:, 42:48].mean(1)], dim=1)
    axis = (torch.arange(size, device=pictures.device) + 0.5) / size
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    across = (eyes[:, 1] - eyes[:, 0]).norm(dim=1).clamp_min(0.05)
    half = torch.stack([across * chance.between(0.34, 0.46, count), across * chance.between(0.24, 0.42, count)], dim=1)
    power = chance.between(2.0, 6.0, count)[:, None, None]
    rim, lens = torch.zeros_like(labels, dtype=torch.bool), torch.zeros_like(labels, dtype=torch.bool)
    width = chance.between(0.06, 0.22, count)[:, None, None]
    for eye in eyes.unbind(1):
        offset = ((grid - eye[:, None, None]).abs() / half[:, None, None]).pow(power[..., None]).sum(-1).pow(1 / power)
        rim |= (offset >= 1) & (offset < 1 + width)
        lens |= offset < 1
    middle = eyes.mean(1)[:, None, None]
    bridge = ((grid - middle)[..., 1].abs() < 0.01) & ((grid - middle)[..., 0].abs() < across[:, None, None] * 0.16)
    rim = (rim | bridge) & chosen[:, None, None]
    lens = lens & chosen[:, None, None]
    tint = chance.unit(count, 3, 1, 1) * chance.flag(0.5, count, 1, 1, 1) * 0.4
    strength = chance.unit(count, 1, 1, 1).square() * 0.95
    glare = 0.25 * chance.unit(count, 1, 1, 1) * (chance.noise(count, 1, size, 5) > 0.8)
    seen = pictures * (1 - strength) + tint * strength + glare
    pictures = torch.where(lens[:, None], seen, pictures)
    pictures = torch.where(rim[:, None], chance.unit(count, 3, 1, 1).square().expand_as(pictures), pictures)
    hidden = rim | (lens & (strength[:, 0] > 0.5))
    return pictures.clamp(0, 1), torch.where(hidden, GLASSES, labels)


def add_occluder(
    pictures: Tensor, labels: Tensor, chosen: Tensor, texture: Tensor, chance: Chance
) -> tuple[Tensor, Tensor]:
    """One soft-edged blob (hand, cup, microphone, somebody's shoulder) before each chosen picture; unlabelled.

    Args:
        pictures: (B, 3, S, S).
        labels: (B, S, S).
        chosen: (B,) bool.
        texture: (B, 3, S, S) what it looks like.
        chance: Random numbers.
    """
    count, size = len(pictures), pictures.shape[3]
    axis = torch.linspace(-0.5, 0.5, size, device=pictures.device)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    centre = chance.between(-0.45, 0.45, count, 1, 1, 2)
    angle = chance.between(0, 6.283, count)[:, None, None]
    x, y = (grid - centre).unbind(-1)
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    long, short = chance.between(0.08, 0.4, count, 1, 1), chance.between(0.04, 0.14, count, 1, 1)
    power = 2 + 4 * chance.flag(0.4, count, 1, 1)
    distance = ((x.abs() / long).pow(power) + (y.abs() / short).pow(power)).clamp_min(1e-9).pow(1 / power)
    distance = distance + 0.15 * chance.noise(count, 1, size, 6)[:, 0]
    cover = ((1 - distance) * size * short * 0.7 + 0.5).clamp(0, 1) * chosen[:, None, None]
    pictures = pictures + cover[:, None] * (texture - pictures)
    return pictures, torch.where(cover > 0.3, IGNORE, labels)
