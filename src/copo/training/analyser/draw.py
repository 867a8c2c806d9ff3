"""Random people, expressions, light and views for the renders."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import euler_zyx
from copo.factors import EXPRESSION_COMBINATIONS
from copo.illumination import (
    BASE_LIGHT,
    direction_from_angles,
    directional_light,
    exposure,
    illumination_from_radiance,
    rotate_radiance,
)
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import CropConfig, SceneConfig
from copo.training.analyser.geometry import Crop
from copo.vision.portrait_pose import METHOD_FOCAL

_SIDED = ("eyeBlink", "eyeSquint", "eyeWide", "browDown", "browOuterUp", "cheekSquint", "mouthSmile", "mouthFrown",
          "mouthDimple", "mouthStretch", "mouthPress", "mouthLowerDown", "mouthUpperUp", "noseSneer")  # fmt: skip
"""Units that mostly act on both sides."""
_TOGETHER = 0.8
"""Probability that both sides of such a unit act."""
_TOGETHER_NOISE = 0.12
"""Standard deviation of the difference between the sides then."""


def expressions(count: int, names: tuple[str, ...], config: SceneConfig, chance: Chance) -> Tensor:
    """(count, E) units in [0, 1]: sparse single units, both sides mostly alike, named combinations, gaze, blinks."""
    units, index = len(names), {name: i for i, name in enumerate(names)}
    order = chance.unit(count, units).argsort(1)
    how_many = 1 + chance.index(config.largest_units, count, 1)
    active = order < how_many
    strength = chance.unit(count, units).pow(0.8)
    values = torch.where(active, strength, 0.02 * chance.unit(count, units))
    values = _gaze(values, index, chance)
    partner = list(range(units))
    for base in _SIDED:
        left, right = index.get(f"{base}Left"), index.get(f"{base}Right")
        if left is not None and right is not None:
            partner[left], partner[right] = left, left
    both = values[:, partner] + _TOGETHER_NOISE * chance.normal(count, units) * (values[:, partner] > 0.05)
    values = torch.where(chance.flag(_TOGETHER, count, 1), both, values)
    table = torch.zeros(len(EXPRESSION_COMBINATIONS), units, device=chance.device)
    for row, combination in enumerate(EXPRESSION_COMBINATIONS.values()):
        for name, share in combination.items():
            if name in index:
                table[row, index[name]] = share
    amount = chance.flag(config.combined, count, 1) * chance.between(0.2, 1.0, count, 1)
    values = values + amount * table[chance.index(len(table), count)]
    if "jawOpen" in index:
        mouth = chance.flag(0.2, count) * chance.between(0.05, 0.9, count)
        values[:, index["jawOpen"]] = torch.maximum(values[:, index["jawOpen"]], mouth)
    if "mouthClose" in index and "jawOpen" in index:  # closes the lips of an open jaw; without one it has no meaning
        values[:, index["mouthClose"]] = torch.minimum(values[:, index["mouthClose"]], values[:, index["jawOpen"]])
    calm = torch.where(chance.flag(config.neutral, count, 1), 0.08, 1.0)
    return (values * calm).clamp(0, 1)


def _gaze(values: Tensor, index: dict[str, int], chance: Chance) -> Tensor:
    """Both eyes look the same way, half of the time straight ahead."""
    if "eyeLookOutLeft" not in index:
        return values
    count = len(values)
    aside = chance.normal(count) * 0.35 * chance.flag(0.5, count)
    up = chance.normal(count) * 0.25 * chance.flag(0.5, count)
    values = values.clone()
    for name, value in (
        ("OutLeft", aside), ("InRight", aside), ("InLeft", -aside), ("OutRight", -aside),
        ("UpLeft", up), ("UpRight", up), ("DownLeft", -up), ("DownRight", -up),
    ):  # fmt: skip
        values[:, index[f"eyeLook{name}"]] = value.clamp(0, 1)
    return values


def lights(count: int, config: SceneConfig, chance: Chance, panoramas: Tensor | None) -> Tensor:
    """(count, 27) light of random brightness, from panoramas (P, 9, 3) turned at random or from one to three lamps."""
    lamps = _lamps(count, chance)
    if panoramas is not None and len(panoramas):
        zero = torch.zeros(count, device=chance.device)
        turn = euler_zyx(
            torch.stack([0.2 * chance.normal(count), chance.between(-math.pi, math.pi, count), zero], dim=1)
        )
        chosen = panoramas[chance.index(len(panoramas), count)]
        light = illumination_from_radiance(rotate_radiance(chosen, turn))
        lamps = torch.where(chance.flag(config.panorama_light, count, 1), light, lamps)
    return exposed(lamps, torch.exp(0.3 * chance.normal(count)).clamp(0.35, 1.7))


def _lamps(count: int, chance: Chance) -> Tensor:
    ambient = chance.between(0.15, 1.0, count, 1) * (1 + 0.1 * chance.normal(count, 3))
    total: Tensor | None = None
    for lamp in range(3):
        direction = direction_from_angles(1.1 * chance.normal(count), 0.35 + 0.5 * chance.normal(count))
        warm = 0.18 * chance.normal(count, 1)
        colour = 1 + warm * torch.tensor([1.0, 0.1, -1.0], device=chance.device) + 0.05 * chance.normal(count, 3)
        strength = chance.between(0.1, 1.2, count) * (1.0 if lamp == 0 else chance.flag(0.4, count))
        light = directional_light(direction, colour.clamp_min(0.2), strength, ambient if lamp == 0 else 0.0)
        first = torch.zeros_like(light).unflatten(1, (3, 9))
        first[..., 0] = BASE_LIGHT  # lamps add up without the base light, which each of them subtracts
        total = light if total is None else total + light + first.flatten(1)
    assert total is not None
    return total


def exposed(illumination: Tensor, target: Tensor) -> Tensor:
    """Scale lights (B, 27) to mean exposures (B,); a face in the dark gets at most five times its light."""
    brightness = exposure(illumination).mean(-1).clamp_min(0.2)
    base = torch.zeros_like(illumination).unflatten(1, (3, 9))
    base[..., 0] = BASE_LIGHT
    base = base.flatten(1)
    return (illumination + base) * (target / brightness)[:, None] - base


def rotations(count: int, config: SceneConfig, chance: Chance) -> Tensor:
    """(count, 3, 3) in the viewer's frame: half of the heads near the front, half anywhere in the range."""
    limit = torch.tensor([config.pitch, config.yaw], device=chance.device)
    wide = (2 * chance.unit(count, 2) - 1) * limit
    near = (chance.normal(count, 2) * limit * 0.22).clamp(-limit, limit)
    angles = torch.where(chance.flag(0.5, count, 1), wide, near).deg2rad()
    return euler_zyx(F.pad(angles, (0, 1)))


def crops(count: int, config: CropConfig, largest_tilt: float, chance: Chance) -> Crop:
    """Where the face lies relative to FFHQ's square."""
    rough = chance.flag(config.rough, count)
    factor = torch.where(rough, config.rough_factor, 1.0)
    limit = torch.where(rough, 3 * largest_tilt, largest_tilt)
    angle = (config.turn * factor * chance.normal(count)).clamp(-limit, limit).deg2rad()
    scale = (config.scale * factor * chance.normal(count)).clamp(-0.6, 0.6).exp()
    shift = (config.shift * factor[:, None] * chance.normal(count, 2)).clamp(-0.25, 0.25)
    return Crop(scale, shift, angle)


def focals(count: int, config: SceneConfig, chance: Chance) -> Tensor:
    """(count,) focal lengths in sides of the picture."""
    low, high = config.fov
    other = 0.5 / (chance.between(low, high, count).deg2rad() / 2).tan()
    return torch.where(chance.flag(config.other_lens, count), other, METHOD_FOCAL)
