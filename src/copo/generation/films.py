"""Frames between people and under moving light: lights (T, 27), factors (T), and personal models in between."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from copo.camera import Camera, about_y
from copo.errors import CopoError
from copo.factors import FACTOR_NAMES, Factors, interpolate
from copo.field.sampling import SamplingConfig
from copo.illumination import direction_from_angles, directional_light, rotate_illumination
from copo.portrait import Portrait, PortraitPicture

LIGHT_NAMES = {"light": "illumination"}


@dataclass(frozen=True)
class Lamp:
    """A lamp with a uniform surrounding.

    Attributes:
        elevation: Radians above the level.
        intensity: What a white surface that faces the lamp sends out.
        ambient: What it sends out without the lamp.
        colour: RGB of the lamp.
    """

    elevation: float = math.radians(25)
    intensity: float = 1.2
    ambient: float = 0.3
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def lamp_orbit(count: int, lamp: Lamp | None = None, closed: bool = True) -> Tensor:
    """A lamp that goes around the head, from the front over the right of the picture.

    Args:
        count: Frames.
        lamp: Height and strength.
        closed: Whether the last frame is followed by the first; otherwise the lamp goes from left to right before the
            face, from -90 to 90 degrees.

    Returns:
        (count, 27).
    """
    lamp = lamp or Lamp()
    if closed:
        azimuth = torch.arange(count) * (2 * math.pi / count)
    else:
        azimuth = torch.linspace(-math.pi / 2, math.pi / 2, count) if count > 1 else torch.zeros(1)
    direction = direction_from_angles(azimuth, torch.full((count,), lamp.elevation))
    return directional_light(direction, lamp.colour, lamp.intensity, lamp.ambient)


def turned_light(light: Tensor, count: int) -> Tensor:
    """A light that turns once around the vertical, its front towards the right of the picture first.

    Args:
        light: (27,) or (1, 27).
        count: Frames; the path is closed.

    Returns:
        (count, 27).
    """
    angle = torch.arange(count) * (2 * math.pi / count)
    return rotate_illumination(light.reshape(1, 27).expand(count, 27), about_y(angle).to(light))


@dataclass(frozen=True)
class Key:
    """One person on the way: the model that draws it (its own, for a portrait file) and its factors (1)."""

    model: Portrait
    factors: Factors


@dataclass(frozen=True)
class Step:
    """A frame: between key `first` and key `second` at `share` in [0, 1]."""

    first: int
    second: int
    share: float


def steps_between(keys: int, frames: int, loop: bool, ease: bool) -> list[Step]:
    """Frames from key to key.

    Args:
        keys: How many.
        frames: From one key to the next.
        loop: Return to the first key; without, the last frame is the last key.
        ease: Slow down at the keys.

    Raises:
        CopoError: There are fewer than two keys or one frame.
    """
    if keys < 2:
        raise CopoError("nothing to go between: give at least two people")
    if frames < 1:
        raise CopoError(f"{frames} frames from one to the next: give at least 1")
    out = []
    for first in range(keys if loop else keys - 1):
        for i in range(frames):
            t = i / frames
            out.append(Step(first, (first + 1) % keys, t * t * (3 - 2 * t) if ease else t))
    return out if loop else [*out, Step(keys - 2, keys - 1, 1.0)]


def factors_at(keys: Sequence[Key], step: Step, vary: Sequence[str]) -> Factors:
    """(1) factors of a frame: shape, albedo and noise on great circles, expression and light on straight lines.

    Args:
        keys: The people.
        step: Where.
        vary: Factors that move: identity, expression, light, noise; the others stay the first key's.
    """
    start, end = keys[step.first].factors, keys[step.second].factors
    mixed = interpolate(start, end, step.share, "spherical") if 0 < step.share < 1 else end if step.share else start
    moving = {"shape", "albedo"} if "identity" in vary else set()
    moving |= {LIGHT_NAMES.get(name, name) for name in vary if name != "identity"}
    still = {name: getattr(keys[0].factors, name) for name in FACTOR_NAMES if name not in moving}
    return mixed.replace(**still)


def interpolated(
    keys: Sequence[Key],
    steps: Sequence[Step],
    vary: Sequence[str],
    camera: Camera | None = None,
    *,
    psi: float = 1.0,
    size: int | None = None,
    rays: int | None = None,
    sampling: SamplingConfig | None = None,
) -> Iterator[PortraitPicture]:
    """Frames between people. Personal models are mixed weight by weight.

    Args:
        keys: At least two, of the same factors.
        steps: Frames.
        vary: See `factors_at`.
        camera: One for all frames.
        psi: See `Portrait.render`.
        size: See `Portrait.render`.
        rays: See `Portrait.render`.
        sampling: See `Portrait.render`.

    Yields:
        Batches of one picture.
    """
    between = _Between(keys)
    for step in steps:
        model = between.at(step)
        factors = factors_at(keys, step, vary)
        own = any(model is key.model for key in keys)
        subject = factors if own else model.planes(factors, psi)  # a mixed model has no name to be made again by
        yield model.render(subject, camera, size, psi=psi, rays=rays, sampling=sampling)


class _Between:
    """The model of a frame: a key's own where both are the same, otherwise a mixture that is filled anew for each."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys
        self.mixed: Portrait | None = None

    @torch.no_grad()
    def at(self, step: Step) -> Portrait:
        first, second = self.keys[step.first].model, self.keys[step.second].model
        if first is second or step.share == 0:
            return first
        if step.share == 1:
            return second
        if self.mixed is None:
            self.mixed = first.with_generator(copy.deepcopy(first.generator))
        target = self.mixed.generator.state_dict()
        ends = first.generator.state_dict(), second.generator.state_dict()
        for name, value in target.items():
            value.copy_(torch.lerp(ends[0][name], ends[1][name], step.share))
        return self.mixed
