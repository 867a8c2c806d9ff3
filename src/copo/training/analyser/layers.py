"""What stands around and before a rendered head: backgrounds, hair, glasses, things in the way. Pictures in [0, 1]."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.constants import constant
from copo.head.protocol import PARSER_CLASSES
from copo.training.analyser.batch import IGNORE
from copo.training.analyser.chance import Chance
from copo.training.analyser.linear import enlarging, spread

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
    """Bool, where a label (int64, 0..255) is one of these."""
    return _members(classes, labels.device)[labels]


@functools.lru_cache(maxsize=64)
def _members(classes: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        table = torch.zeros(256, dtype=torch.bool)
        table[list(classes)] = True
        return table.to(device)


def fill_outside(pictures: Tensor, keep: Tensor) -> Tensor:
    """Continue the kept part of pictures smoothly over the rest: averages of ever larger cells fill what is missing.

    Args:
        pictures: (B, 3, S, S).
        keep: (B, 1, S, S) weight in [0, 1].
    """
    levels = [torch.cat([pictures * keep, keep], dim=1)]
    while levels[-1].shape[3] > 1:
        levels.append(F.avg_pool2d(levels[-1], 4, ceil_mode=True))
    filled = levels[-1][:, :3] / levels[-1][:, 3:].clamp_min(1e-4)
    for level in reversed(levels[:-1]):
        weight = level[:, 3:]
        mean = level[:, :3] / weight.clamp_min(1e-4)
        coarse = spread(filled, level.shape[3], "bilinear")
        filled = torch.lerp(coarse, mean, weight.clamp(0, 1).expand_as(mean))
    return filled


_CELLS = (4, 12, 40)
"""Knots of a backdrop's noises along one side."""


def backdrops(count: int, size: int, chance: Chance) -> Tensor:
    """(count, 3, size, size): plain colours, gradients, and noise of several sizes, mixed."""
    slope = chance.normal(count, 3, 2, 1) * 0.3 * chance.flag(0.6, count, 1, 1, 1)
    kinds = len(_CELLS) + 1
    strength = chance.unit(count, kinds).square() * chance.flag(0.5, count, kinds) * 0.35
    same = chance.flag(0.5, count, kinds)
    axis = _axis(size, slope)
    # along the rows: the gradient's two parts and the coarse noises, side by side
    wide = [slope[:, :, :1] * axis + chance.unit(count, 3, 1, 1), slope[:, :, 1:].expand(-1, -1, -1, size)]
    for kind, cells in enumerate(_CELLS):
        knots = _mixed(chance.normal(count, 3, cells, cells), same[:, kind], strength[:, kind])
        wide.append(knots @ enlarging(cells, size, "bicubic", knots).mT)
    out = _columns(size, slope) @ torch.cat(wide, dim=2)
    fine = chance.normal(count, 3, size, size)
    return (out + _mixed(fine, same[:, -1], strength[:, -1])).clamp(0, 1)


def _mixed(noise: Tensor, same: Tensor, strength: Tensor) -> Tensor:
    """Noise (B, 3, h, w), where `same` (B,) equal in all channels, times a strength (B,)."""
    shape = (-1, 1, 1, 1)
    return torch.where(same.view(shape), noise[:, :1], noise) * strength.view(shape)


def _axis(size: int, like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, size, device=like.device, dtype=like.dtype)


def _columns(size: int, like: Tensor) -> Tensor:
    """(size, 2 + the noises' knots) how a column of a backdrop follows from its parts."""
    axis = _axis(size, like)[:, None]
    parts = [enlarging(cells, size, "bicubic", like) for cells in _CELLS]
    return torch.cat([torch.ones_like(axis), axis, *parts], dim=1)


_HAIR_COLOURS = (0.06, 0.05, 0.05, 0.16, 0.10, 0.07, 0.30, 0.19, 0.12, 0.55, 0.40, 0.24, 0.80, 0.68, 0.46,
                 0.60, 0.58, 0.56, 0.45, 0.18, 0.09)  # fmt: skip


def strands(count: int, size: int, chance: Chance) -> Tensor:
    """(count, 3, size, size) hair: a colour with streaks along a wavy direction."""
    drawn = chance.normal(count, 3)
    palette = constant(_HAIR_COLOURS, drawn).view(-1, 3)
    colour = palette[chance.index(len(palette), count)] * torch.exp(0.15 * drawn)
    fine = spread(chance.normal(count, 1, 6, size // 2), size)
    bend, soft = chance.noise(count, 1, size, 5) * (size / 14), chance.noise(count, 1, size, 6)
    columns = torch.arange(size, device=chance.device) + bend
    streaks = fine.gather(3, columns.round().long().clamp(0, size - 1))
    return (colour[:, :, None, None] * torch.exp(0.28 * streaks + 0.3 * soft)).clamp(0, 1)


def grown_hair(labels: Tensor, chance: Chance) -> Tensor:
    """(B, S, S) labels of rendered heads -> (B, S, S) bool: more hair around the scalp, and locks that fall from it."""
    count, size = len(labels), labels.shape[2]
    scalp = (labels == HAIR).float()[:, None]
    reach = 2 * (size // 24) + 1
    near = _pooled(F.avg_pool2d, _pooled(F.max_pool2d, scalp, reach), reach)
    threshold = chance.between(0.25, 1.0, count, 1, 1, 1) + 0.12 * chance.noise(count, 1, size, 14)
    around = near > threshold.clamp_min(0.12)
    # locks fall from there, behind the face, as far as nine sixteenths of the picture
    rows = torch.arange(size, device=labels.device, dtype=torch.float32)[:, None]
    start = torch.where(around, rows, -2.0 * size).cummax(2).values
    ends = chance.between(0.3, 1.0, count, 1, 1, 1) + 0.03 * chance.noise(count, 1, size, 24)
    locks = (
        (rows - start <= 9 * max(size // 16, 1))
        & (rows < ends * size)
        & chance.flag(0.6, count, 1, 1, 1)
        & within(labels, (BACKGROUND, NECK, CLOTH))[:, None]
    )
    covers = ~within(labels, FEATURES)[:, None]
    return ((around & covers) | locks | (scalp > 0))[:, 0]


def _pooled(pool: Callable[..., Tensor], pictures: Tensor, reach: int) -> Tensor:
    """Pool squares of an odd side, one direction after the other."""
    half = reach // 2
    return pool(pool(pictures, (reach, 1), 1, (half, 0)), (1, reach), 1, (0, half))


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
    eyes = points[:, 36:48].unflatten(1, (2, 6)).mean(2)
    axis = (torch.arange(size, device=pictures.device) + 0.5) / size
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    across = (eyes[:, 1] - eyes[:, 0]).norm(dim=1).clamp_min(0.05)
    half = torch.stack([across * chance.between(0.34, 0.46, count), across * chance.between(0.24, 0.42, count)], dim=1)
    power = chance.between(2.0, 6.0, count)[:, None, None]
    width = chance.between(0.06, 0.22, count)[:, None, None]
    away = (grid - eyes[:, :, None, None]).abs() / half[:, None, None, None]  # (B, 2 eyes, S, S, 2)
    offset = away.pow(power[:, None, :, :, None]).sum(-1).amin(1).pow(1 / power)  # from the nearer eye
    lens = offset < 1
    rim = (offset >= 1) & (offset < 1 + width)
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
