"""What a step draws at random: factors, cameras, and the pose that planes are conditioned on.

Everything here runs on the CPU with a generator of its own, so that a step's draws follow from its seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from copo.camera import Camera, about_y, turn_cameras
from copo.errors import CopoError
from copo.factors import EXPRESSION_COMBINATIONS, FACTOR_NAMES, FactorSpec
from copo.field.portrait_field import FRONTAL_POSE
from copo.illumination import direction_from_angles, directional_light, rotate_illumination
from copo.networks.conditional_priors import LightPrior, NoisePrior
from copo.networks.vae import Vae
from copo.training.config import ConditionConfig, DrawConfig

OPPOSITE = (
    ("eyeLookUp", "eyeLookDown"),
    ("eyeLookIn", "eyeLookOut"),
    ("jawLeft", "jawRight"),
    ("mouthLeft", "mouthRight"),
)
"""Units that exclude each other; of such a pair the weaker one is set to 0."""


def pose_of(camera: Camera) -> Tensor:
    """(B, 2) pitch and yaw of the direction from the origin to each camera, radians; frontal is (pi/2, pi/2).

    Unlike `Camera.to_pitch_yaw` it is defined for cameras that are rolled or look past the origin, as cameras of
    photographs do.
    """
    direction = camera.direction
    return torch.stack([direction[:, 1].clamp(-1, 1).acos(), torch.atan2(direction[:, 2], direction[:, 0])], dim=1)


def conditioning_pose(camera: Camera, config: ConditionConfig, generator: torch.Generator) -> Tensor:
    """(B, 2) the pose that planes are told (paper, section 3: the poses differ with probability 0.5).

    Args:
        camera: (B) cameras that look at the portraits.
        config: Which pose, how often another.
        generator: Source of randomness, on the CPU.
    """
    count = len(camera)
    frontal = torch.tensor(FRONTAL_POSE).expand(count, 2)
    if config.pose == "frontal":
        return frontal.clone()
    spread = torch.tensor([config.pitch_sigma, config.yaw_sigma])
    other = frontal + torch.randn(count, 2, generator=generator) * spread
    swapped = torch.rand(count, 1, generator=generator) < config.swap
    return torch.where(swapped, other, pose_of(camera))


CANDIDATES = 16
"""Photographs among which a driven portrait's camera looks for the one that is most like it."""


def driven_cameras(cameras: Camera, count: int, config: DrawConfig, generator: torch.Generator) -> Camera:
    """Cameras at uniformly random yaw and pitch within the configured limits, framed as photographs are.

    How a portrait is framed depends on its pose (a profile is cut out around other points than a front), so each is
    the camera of a photograph of nearly that pose, turned by the rest.

    Args:
        cameras: (N) of photographs.
        count: Number of cameras to draw.
        config: Limits.
        generator: Source of randomness, on the CPU.
    """
    limits = torch.tensor([config.max_pitch, config.max_yaw])
    wanted = math.pi / 2 + (torch.rand(count, 2, generator=generator) * 2 - 1) * limits
    rows = torch.randint(len(cameras), (count, CANDIDATES), generator=generator)
    poses = pose_of(cameras)
    nearest = (poses[rows] - wanted[:, None]).abs().sum(-1).argmin(1, keepdim=True)
    chosen = rows.gather(1, nearest)[:, 0]
    rest = poses[chosen] - wanted  # smaller angles are farther up and towards +x
    return turn_cameras(cameras[chosen], rest[:, 1], rest[:, 0])


def random_expressions(spec: FactorSpec, count: int, units: int, generator: torch.Generator) -> Tensor:
    """Expressions that photographs do not show enough of.

    Half of the portraits get a random share of a named combination (smile, blink, surprise, ...), all get 1 to `units`
    units of random strength. Heads whose coefficients have no names get sparse normal coefficients.

    Args:
        spec: Names and range of the expression.
        count: Number of expressions.
        units: Most random units at once.
        generator: Source of randomness, on the CPU.

    Returns:
        (count, expression) in the head model's units, within its range.
    """
    low, high = spec.expression_range
    size = spec.expression
    strength = torch.rand(count, size, generator=generator)
    chosen = torch.rand(count, size, generator=generator).argsort(dim=1)
    limit = torch.randint(1, units + 1, (count, 1), generator=generator)
    out = torch.where(chosen < limit, strength, 0.0)
    index = {name: i for i, name in enumerate(spec.expression_names)}
    combinations = [c for c in EXPRESSION_COMBINATIONS.values() if all(unit in index for unit in c)]
    if not combinations:
        return (out * torch.randn(count, size, generator=generator) * high).clamp(low, high)
    table = torch.zeros(len(combinations), size)
    for row, combination in enumerate(combinations):
        for unit, share in combination.items():
            table[row, index[unit]] = share
    which = torch.randint(len(table), (count,), generator=generator)
    amount = torch.rand(count, 1, generator=generator) * (torch.rand(count, 1, generator=generator) < 0.5)
    out = (out * high + table[which] * amount * high).clamp(low, high)
    for first, second in OPPOSITE:
        for side in ("", "Left", "Right"):
            a, b = index.get(first + side), index.get(second + side)
            if a is not None and b is not None:
                weaker = out[:, a] < out[:, b]
                out[:, a], out[:, b] = torch.where(weaker, 0.0, out[:, a]), torch.where(weaker, out[:, b], 0.0)
    return out


def lamps(count: int, generator: torch.Generator) -> Tensor:
    """(count, 27) one white lamp each, from the front and either side, with some light from everywhere."""
    azimuth, elevation, strength, around = torch.rand(4, count, generator=generator)
    direction = direction_from_angles((azimuth * 2 - 1) * math.pi / 2, math.radians(-15) + elevation * math.radians(75))
    return directional_light(direction, intensity=0.8 + 0.5 * strength, ambient=0.25 + 0.35 * around)


@dataclass
class FactorSampler:
    """Random coefficients: from the priors where they are given, otherwise recombined from photographs.

    Attributes:
        spec: Of the head model.
        table: (N, n) normalised coefficients of photographs, without the noise code.
        priors: Coefficient priors by factor: identity, expression, illumination.
        config: Jitter and the driven part.
        noise_prior: Which noise codes go with whom; any with anybody where there is none.
        light_prior: Which light goes with whom, seen from where; likewise.
    """

    spec: FactorSpec
    table: Tensor
    priors: Mapping[str, Vae]
    config: DrawConfig
    noise_prior: NoisePrior | None = None
    light_prior: LightPrior | None = None

    def __post_init__(self) -> None:
        sizes = {"identity": self.spec.identity, "expression": self.spec.expression,
                 "illumination": self.spec.illumination}  # fmt: skip
        for name, prior in self.priors.items():
            if name not in sizes or prior.config.coefficients != sizes[name]:
                raise CopoError(
                    f"prior {name}: {prior.config.coefficients} coefficients, head {self.spec.head!r} has "
                    f"{sizes.get(name, 0)}; train it for this head"
                )
            prior.eval()

    @property
    def slices(self) -> dict[str, slice]:
        """Where each factor lies in the coefficients without the noise code."""
        shift = self.spec.noise
        every = self.spec.slices
        return {k: slice(v.start - shift, v.stop - shift) for k, v in every.items() if k != "noise"}

    def natural(self, count: int, generator: torch.Generator, camera: Camera) -> Tensor:
        """(count, n) as people and photographs have them; each factor from its own draw.

        Args:
            count: Number of portraits.
            generator: Source of randomness, on the CPU.
            camera: (count) what they are seen by.
        """
        parts = [self.factor(name, count, generator) for name in ("identity", "expression", "illumination")]
        if self.light_prior is not None:
            parts[2] = self.light_prior(parts[2], parts[0], camera.direction)
        return torch.cat(parts, dim=1)

    def fitting(self, normal: Tensor, coefficients: Tensor, camera: Camera) -> Tensor:
        """Standard normal numbers (B, noise) to codes of people whose coefficients (B, n) and cameras are given."""
        if self.noise_prior is None:
            return normal
        codes: Tensor = self.noise_prior(normal, coefficients[:, self.slices["identity"]], camera.direction)
        return codes

    @torch.no_grad()
    def factor(self, name: str, count: int, generator: torch.Generator) -> Tensor:
        """(count, size) normalised coefficients of identity, expression or illumination."""
        part = self.slices[name]
        if name in self.priors:
            prior = self.priors[name]
            latent = torch.randn(count, prior.config.latent, generator=generator)
            low, high = self.spec.expression_range if name == "expression" else (-math.inf, math.inf)
            return prior.sample(latent).clamp(low, high) / self._normaliser()[part]
        rows = torch.randint(len(self.table), (count,), generator=generator)
        out = self.table[rows, part]
        if name == "expression" and self.config.expression_jitter:
            low, high = (v / self.spec.normaliser("expression") for v in self.spec.expression_range)
            noise = torch.randn(out.shape, generator=generator) * self.config.expression_jitter
            out = (out + noise * (high - low if math.isfinite(high - low) else 2.0)).clamp(low, high)
        return out

    def driven(self, base: Tensor, generator: torch.Generator) -> Tensor:
        """(B, n) of people, with expression and light beyond the photographs.

        Args:
            base: (B, n) whose identity is kept.
            generator: Source of randomness, on the CPU.
        """
        count, parts = len(base), self.slices
        scale = self.spec.normaliser("expression")
        random = random_expressions(self.spec, count, self.config.units, generator) / scale
        other = self.factor("expression", count, generator)
        pick = torch.rand(count, 1, generator=generator) < self.config.random_expression
        light = self.factor("illumination", count, generator) * self.spec.normaliser("illumination")
        angle = (torch.rand(count, generator=generator) * 2 - 1) * self.config.turn_light
        out = base.clone()
        out[:, parts["expression"]] = torch.where(pick, random, other)
        if self.spec.illumination == 27:
            light = rotate_illumination(light, about_y(angle))
            lamp = torch.rand(count, 1, generator=generator) < self.config.lamps
            light = torch.where(lamp, lamps(count, generator), light)
        out[:, parts["illumination"]] = light / self.spec.normaliser("illumination")
        return out

    def _normaliser(self) -> Tensor:
        return torch.cat(
            [torch.full((self.spec.sizes[n],), self.spec.normaliser(n)) for n in FACTOR_NAMES if n != "noise"]
        )
