"""Random people, expressions, light and views for the renders."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import euler_zyx
from copo.constants import constant
from copo.factors import EXPRESSION_COMBINATIONS
from copo.illumination import (
    BASE_LIGHT,
    direction_from_angles,
    exposure,
    illumination_from_radiance,
    lamp_radiance,
    rotate_radiance,
    uniform_radiance,
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
_CALM = 0.08
"""What is left of the units of a neutral head."""
_JAW_SHUT, _JAW_GAIN = 0.1, 0.6
"""jawOpen of the open head that MediaPipe calls shut, and how its units grow from there."""
_UP_DOWN = ("UpLeft", "UpRight", "DownLeft", "DownRight")


@dataclass(frozen=True)
class _UnitTables:
    """Constants of a list of unit names, each (E,) unless told otherwise.

    Attributes:
        partner: Index of the unit that decides when both sides act.
        combinations: (K, E) shares of the named combinations.
        gaze: (2, E) how much each unit follows a look to the person's left, and one upwards.
        looks: Bool, units of the gaze.
        jaw: Bool, jawOpen.
        lips: Bool, mouthClose.
    """

    partner: Tensor
    combinations: Tensor
    gaze: Tensor
    looks: Tensor
    jaw: Tensor
    lips: Tensor

    @classmethod
    @functools.lru_cache(maxsize=8)
    def of(cls, names: tuple[str, ...], device: torch.device) -> _UnitTables:
        """Made once, because a CUDA graph can hold no copies from the host."""
        with torch.inference_mode(False):
            index = {name: i for i, name in enumerate(names)}
            partner = torch.arange(len(names))
            for base in _SIDED:
                left, right = index.get(f"{base}Left"), index.get(f"{base}Right")
                if left is not None and right is not None:
                    partner[right] = left
            table = torch.zeros(len(EXPRESSION_COMBINATIONS), len(names))
            for row, combination in enumerate(EXPRESSION_COMBINATIONS.values()):
                for name, share in combination.items():
                    if name in index:
                        table[row, index[name]] = share
            gaze = torch.zeros(2, len(names))
            for axis, words in enumerate((("OutLeft", "InRight", "InLeft", "OutRight"), _UP_DOWN)):
                for word, sign in zip(words, (1.0, 1.0, -1.0, -1.0), strict=True):
                    if f"eyeLook{word}" in index:
                        gaze[axis, index[f"eyeLook{word}"]] = sign
            jaw, lips = (torch.tensor([n == name for n in names]) for name in ("jawOpen", "mouthClose"))
            tables = (partner, table, gaze, gaze.any(0), jaw, lips)
            return cls(*(t.to(device) for t in tables))


def expressions(count: int, names: tuple[str, ...], config: SceneConfig, chance: Chance) -> Tensor:
    """(count, E) units in [0, 1]: sparse single units, both sides mostly alike, named combinations, gaze, blinks."""
    units, known = len(names), _UnitTables.of(names, chance.device)
    order = chance.unit(count, units).argsort(1)
    active = order < 1 + chance.index(config.largest_units, count, 1)
    strength = chance.unit(count, units).pow(0.8)
    values = torch.where(active, strength, 0.02 * chance.unit(count, units))
    # both eyes look the same way, half of the time straight ahead
    ahead = constant((0.35, 0.25), values) * chance.normal(count, 2) * chance.flag(0.5, count, 2)
    look = (ahead[:, :, None] * known.gaze).sum(1).clamp(0, 1)
    values = torch.where(known.looks, look, values)
    mate = values[:, known.partner]
    both = mate + _TOGETHER_NOISE * chance.normal(count, units) * (mate > 0.05)
    values = torch.where(chance.flag(_TOGETHER, count, 1), both, values)
    amount = chance.flag(config.combined, count, 1) * chance.between(0.2, 1.0, count, 1)
    values = values + amount * known.combinations[chance.index(len(known.combinations), count)]
    mouth = chance.flag(config.open_mouth, count, 1) * chance.between(0.05, 0.9, count, 1)
    values = torch.where(known.jaw, torch.maximum(values, mouth), values)
    # mouthClose closes the lips of an open jaw; without one it has no meaning
    jaw = (values * known.jaw).sum(1, keepdim=True)
    values = torch.where(known.lips, torch.minimum(values, jaw), values)
    calm = 1 - (1 - _CALM) * chance.flag(config.neutral, count, 1)
    return (values * calm).clamp(0, 1)


def told_expression(expression: Tensor, names: tuple[str, ...]) -> Tensor:
    """(B, E) the open head's units -> (B, E) what MediaPipe would say of them.

    MediaPipe's blendshape network was asked about the 478 points of 1,500 heads: most units agree or follow nothing,
    but it calls an open jaw open late and by little more than half. Photographs have MediaPipe's units, so renders must
    not contradict them.
    """
    jaw = _UnitTables.of(names, expression.device).jaw
    return torch.where(jaw, _JAW_GAIN * (expression - _JAW_SHUT).clamp_min(0), expression)


def lights(count: int, config: SceneConfig, chance: Chance, panoramas: Tensor | None) -> Tensor:
    """(count, 27) light of random brightness, from panoramas (P, 9, 3) turned at random or from one to three lamps."""
    lamps = _lamps(count, chance)
    if panoramas is not None and len(panoramas):
        level = chance.between(-math.pi, math.pi, count)
        turn = euler_zyx(torch.stack([0.2 * chance.normal(count), level, torch.zeros_like(level)], dim=1))
        chosen = panoramas[chance.index(len(panoramas), count)]
        light = illumination_from_radiance(rotate_radiance(chosen, turn))
        lamps = torch.where(chance.flag(config.panorama_light, count, 1), light, lamps)
    return exposed(lamps, torch.exp(0.3 * chance.normal(count)).clamp(0.35, 1.7))


def _lamps(count: int, chance: Chance) -> Tensor:
    """One to three lamps and a uniform light."""
    angles = chance.normal(count, 3, 2)
    direction = direction_from_angles(1.1 * angles[..., 0], 0.35 + 0.5 * angles[..., 1])
    tints = chance.normal(count, 3, 4)
    warm = 0.18 * tints[..., :1] * constant((1.0, 0.1, -1.0), tints)
    burning = (chance.unit(count, 3) < constant((1.0, 0.4, 0.4), tints)) * chance.between(0.1, 1.2, count, 3)
    colour = (1 + warm + 0.05 * tints[..., 1:]).clamp_min(0.2) * burning[..., None]
    ambient = chance.between(0.15, 1.0, count, 1) * (1 + 0.1 * chance.normal(count, 3))
    return illumination_from_radiance(lamp_radiance(direction, colour).sum(1) + uniform_radiance(ambient))


def exposed(illumination: Tensor, target: Tensor) -> Tensor:
    """Scale lights (B, 27) to mean exposures (B,); a face in the dark gets at most five times its light."""
    brightness = exposure(illumination).mean(-1).clamp_min(0.2)
    base = constant((BASE_LIGHT, *([0.0] * 8)) * 3, illumination)
    return (illumination + base) * (target / brightness)[:, None] - base


def rotations(count: int, config: SceneConfig, chance: Chance) -> Tensor:
    """(count, 3, 3) in the viewer's frame: half of the heads near the front, half anywhere in the range."""
    drawn = chance.between(-1, 1, count, 2)
    limit = constant((config.pitch, config.yaw), drawn)
    wide = drawn * limit
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
