"""The explicit factors of a portrait: identity (shape, albedo), expression, illumination and a noise code.

Coefficients are kept in the head model's own units. The networks see them divided by the normalisers of the
`FactorSpec`, concatenated in the method's order (paper, section 3.1; 379 numbers with the sizes of BFM09):

    z = [noise 128 | shape 80 | albedo 80 | expression 64 | illumination 27]
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from copo.errors import CopoError, unknown_name

FACTOR_NAMES: tuple[str, ...] = ("noise", "shape", "albedo", "expression", "illumination")
"""The parts of a `Factors`, in the order of the flat vector."""

ARKIT_NAMES: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The 52 units of ARKit's face tracking, in alphabetical order."""

EXPRESSION_COMBINATIONS: dict[str, dict[str, float]] = {
    "smile": {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "cheekSquintLeft": 0.4, "cheekSquintRight": 0.4},
    "blink": {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    "winkLeft": {"eyeBlinkLeft": 1.0, "cheekSquintLeft": 0.4, "mouthSmileLeft": 0.2},
    "winkRight": {"eyeBlinkRight": 1.0, "cheekSquintRight": 0.4, "mouthSmileRight": 0.2},
    "browsUp": {"browInnerUp": 1.0, "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0},
    "frown": {"browDownLeft": 1.0, "browDownRight": 1.0, "mouthFrownLeft": 0.8, "mouthFrownRight": 0.8},
    "sad": {
        "browInnerUp": 0.9, "mouthFrownLeft": 0.8, "mouthFrownRight": 0.8, "mouthShrugLower": 0.4,
        "eyeSquintLeft": 0.2, "eyeSquintRight": 0.2,
    },
    "angry": {
        "browDownLeft": 1.0, "browDownRight": 1.0, "eyeSquintLeft": 0.5, "eyeSquintRight": 0.5, "noseSneerLeft": 0.5,
        "noseSneerRight": 0.5, "mouthPressLeft": 0.6, "mouthPressRight": 0.6,
    },
    "surprise": {
        "browInnerUp": 1.0, "browOuterUpLeft": 1.0, "browOuterUpRight": 1.0, "eyeWideLeft": 0.8, "eyeWideRight": 0.8,
        "jawOpen": 0.6,
    },
    "disgust": {
        "noseSneerLeft": 1.0, "noseSneerRight": 1.0, "mouthUpperUpLeft": 0.6, "mouthUpperUpRight": 0.6,
        "browDownLeft": 0.5, "browDownRight": 0.5, "eyeSquintLeft": 0.4, "eyeSquintRight": 0.4,
    },
    "kiss": {"mouthPucker": 1.0, "mouthFunnel": 0.2},
}  # fmt: skip
"""Names for common expressions, as sums of ARKit units (docs/factors.md shows them)."""


@dataclass(frozen=True)
class FactorSpec:
    """Names, sizes and ranges of the factors; a head model provides its own.

    Attributes:
        head: Name of the head model that these coefficients drive, e.g. "open_head" or "bfm09".
        shape: Number of shape coefficients.
        albedo: Number of albedo coefficients.
        expression_names: One name for each expression coefficient: ARKit units, or "exp_00", ... of a PCA.
        illumination: Number of spherical-harmonic coefficients: 3 colours x 9.
        noise: Length of the noise code, which carries hair, clothes and background.
        expression_range: Lowest and highest value that an expression coefficient may take.
        normalisers: Divisor of each factor in the flat vector. Published values for BFM09 (paper, section 3.2):
            shape 4.2, albedo 9.0, expression 4.0, illumination 0.85, noise 1.
    """

    head: str
    shape: int
    albedo: int
    expression_names: tuple[str, ...]
    illumination: int = 27
    noise: int = 128
    expression_range: tuple[float, float] = (0.0, 1.0)
    normalisers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.normalisers:
            if name not in FACTOR_NAMES:
                raise unknown_name("factor in normalisers", name, FACTOR_NAMES)

    @property
    def expression(self) -> int:
        """Number of expression coefficients."""
        return len(self.expression_names)

    @property
    def identity(self) -> int:
        """Number of identity coefficients: shape and albedo together."""
        return self.shape + self.albedo

    @property
    def total(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes.values())

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each factor, in the order of the flat vector."""
        return {name: getattr(self, name) for name in FACTOR_NAMES}

    @property
    def slices(self) -> dict[str, slice]:
        """Where each factor lies in the flat vector; also "identity", which is shape and albedo together."""
        out: dict[str, slice] = {}
        start = 0
        for name, size in self.sizes.items():
            out[name] = slice(start, start + size)
            start += size
        out["identity"] = slice(out["shape"].start, out["albedo"].stop)
        return out

    def normaliser(self, name: str) -> float:
        """The divisor of one factor in the flat vector."""
        return float(self.normalisers.get(name, 1.0))

    def to_dict(self) -> dict[str, object]:
        """Plain data for a config.json."""
        out: dict[str, object] = {f.name: getattr(self, f.name) for f in fields(self)}
        out["expression_names"] = list(self.expression_names)
        out["expression_range"] = list(self.expression_range)
        out["normalisers"] = dict(self.normalisers)
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> FactorSpec:
        """The inverse of `to_dict`.

        Raises:
            CopoError: A key is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        for key in data:
            if key not in known:
                raise unknown_name("factor specification key", key, known)
        values: dict[str, Any] = dict(data)
        try:
            values["expression_names"] = tuple(values["expression_names"])
            if "expression_range" in values:
                low, high = values["expression_range"]
                values["expression_range"] = (float(low), float(high))
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise CopoError(f"factor specification is incomplete or malformed: {error}; rewrite the file") from error


def expression_vector(spec: FactorSpec, values: Mapping[str, float]) -> Tensor:
    """Turn named expressions into coefficients.

    Args:
        spec: Says which names and which range exist.
        values: Value of each named unit or combination (`EXPRESSION_COMBINATIONS`), within `spec.expression_range`.
            Contributions to one unit add up and are clamped to the range.

    Returns:
        (1, expression) float32.

    Raises:
        CopoError: A name is unknown (the nearest is suggested) or a value is out of range.
    """
    index = {name: i for i, name in enumerate(spec.expression_names)}
    low, high = spec.expression_range
    usable = {k: v for k, v in EXPRESSION_COMBINATIONS.items() if all(unit in index for unit in v)}
    out = torch.zeros(1, spec.expression)
    for name, value in values.items():
        if name not in index and name not in usable:
            raise unknown_name("expression", name, [*spec.expression_names, *usable])
        if not low <= value <= high:
            raise CopoError(f"expression {name}={value:g} is out of range: give a value from {low:g} to {high:g}")
        for unit, share in usable[name].items() if name in usable else ((name, 1.0),):
            out[0, index[unit]] += share * value
    return out.clamp_(low, high)


@dataclass(frozen=True)
class Factors:
    """A batch of portraits described by their factors.

    Attributes:
        spec: Names, sizes, ranges.
        shape: (B, spec.shape) head-shape coefficients, about N(0, 1) for people.
        albedo: (B, spec.albedo) skin-colour coefficients.
        expression: (B, spec.expression).
        illumination: (B, 27) spherical-harmonic light, 3 colours x 9, in the convention of `copo.illumination`.
        noise: (B, spec.noise) N(0, 1) code of hair, clothes and background.
    """

    spec: FactorSpec
    shape: Tensor
    albedo: Tensor
    expression: Tensor
    illumination: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        sizes = self.spec.sizes
        batch = self.shape.shape[0] if self.shape.ndim else -1
        for name in FACTOR_NAMES:
            value = getattr(self, name)
            if value.ndim != 2 or value.shape[1] != sizes[name] or value.shape[0] != batch:
                raise CopoError(
                    f"factor {name} has shape {tuple(value.shape)}: expected ({max(batch, 1)}, {sizes[name]}) "
                    f"for head {self.spec.head!r}"
                )

    def __len__(self) -> int:
        return self.shape.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """A part of the batch; an integer keeps the batch dimension."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} out of range for {len(self)} portraits")
            index = slice(index, index + 1 or None)
        return self._map(lambda value: value[index])

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._with({name: function(getattr(self, name)) for name in FACTOR_NAMES})

    def _with(self, values: Mapping[str, Any]) -> Self:
        return replace(self, **values)

    @property
    def identity(self) -> Tensor:
        """(B, shape + albedo)."""
        return torch.cat([self.shape, self.albedo], dim=1)

    @classmethod
    def neutral(cls, spec: FactorSpec, batch: int = 1, illumination: Tensor | None = None) -> Self:
        """The mean head without expression: all zeros. Zero illumination is the method's plain white ambient light.

        Args:
            spec: Names and sizes.
            batch: Number of copies.
            illumination: (27,) or (1, 27) light instead of zeros.
        """
        values = {name: torch.zeros(batch, size) for name, size in spec.sizes.items()}
        if illumination is not None:
            values["illumination"] = illumination.reshape(1, -1).expand(batch, -1).clone()
        return cls(spec=spec, **values)

    @classmethod
    def random(cls, spec: FactorSpec, seeds: int | list[int], illumination: Tensor | None = None) -> Self:
        """Independent standard-normal identity and noise for each seed, without expression.

        Every factor has its own stream of random numbers, so that a seed names the same shape whatever the other
        factors' sizes are, and the same numbers on every device.

        Args:
            spec: Names and sizes.
            seeds: One non-negative seed, or one for each portrait.
            illumination: Light for all, (27,); zeros by default.
        """
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        for seed in seeds:
            if seed < 0:
                raise CopoError(f"seed {seed} is negative: give 0 or more")
        out = cls.neutral(spec, len(seeds), illumination)
        return out._with({name: seeded_normal(name, seeds, spec.sizes[name]) for name in ("shape", "albedo", "noise")})

    def to(self, device: torch.device | str) -> Self:
        """The same factors on another device."""
        return self._map(lambda value: value.to(device))

    def to_vector(self, normalise: bool = True) -> Tensor:
        """The flat vector z, (B, spec.total), by default divided by the normalisers as the networks expect it."""
        return torch.cat(
            [getattr(self, n) / (self.spec.normaliser(n) if normalise else 1.0) for n in FACTOR_NAMES], dim=1
        )

    @classmethod
    def from_vector(cls, spec: FactorSpec, vector: Tensor, normalised: bool = True) -> Self:
        """The inverse of `to_vector`.

        Raises:
            CopoError: `vector` is not (B, spec.total).
        """
        if vector.ndim != 2 or vector.shape[1] != spec.total:
            raise CopoError(f"flat factor vector has shape {tuple(vector.shape)}: expected (B, {spec.total})")
        parts = {n: vector[:, spec.slices[n]] * (spec.normaliser(n) if normalised else 1.0) for n in FACTOR_NAMES}
        return cls(spec=spec, **parts)

    def replace(self, **changes: Tensor) -> Self:
        """The same portraits with some factors changed; all others are kept.

        Args:
            changes: New values by factor name, (B, n) or (1, n); "identity" stands for shape and albedo together.
        """
        if "identity" in changes:
            identity = changes.pop("identity")
            changes["shape"], changes["albedo"] = identity.split([self.spec.shape, self.spec.albedo], dim=-1)
        for name, value in changes.items():
            if name not in FACTOR_NAMES:
                raise unknown_name("factor", name, [*FACTOR_NAMES, "identity"])
            value = value.reshape(1, -1) if value.ndim == 1 else value
            changes[name] = value.expand(len(self), -1) if value.shape[0] == 1 else value
        return self._with(changes)

    def with_expression(self, **values: float) -> Self:
        """The same portraits with a named expression, e.g. `with_expression(jawOpen=0.6, smile=0.8)`."""
        return self.replace(expression=expression_vector(self.spec, values).to(self.expression))

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Several batches as one.

        Raises:
            CopoError: The parts belong to different head models, or there are none.
        """
        if not parts:
            raise CopoError("no factors to join: give at least one batch")
        for part in parts[1:]:
            if part.spec != parts[0].spec:
                raise CopoError(f"factors of heads {parts[0].spec.head!r} and {part.spec.head!r} cannot be joined")
        return parts[0]._with({n: torch.cat([getattr(p, n) for p in parts]) for n in FACTOR_NAMES})


def seeded_normal(stream: str, seeds: list[int], size: int) -> Tensor:
    """(len(seeds), size) float32 of N(0, 1); `stream` separates the random numbers of one factor from another's."""
    key = zlib.crc32(stream.encode())
    rows = [np.random.Generator(np.random.PCG64([key, seed])).standard_normal(size) for seed in seeds]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def seeded_uniform(stream: str, seeds: list[int], size: int) -> Tensor:
    """(len(seeds), size) float32 in [0, 1); streams as in `seeded_normal`."""
    key = zlib.crc32(stream.encode())
    rows = [np.random.Generator(np.random.PCG64([key, seed])).random(size) for seed in seeds]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def interpolate(
    start: Factors, end: Factors, t: float | Tensor, mode: Literal["linear", "spherical"] = "linear"
) -> Factors:
    """Between two portraits.

    Args:
        start: Portraits at t = 0, batch B or 1.
        end: Portraits at t = 1, batch B or 1.
        t: Position in [0, 1]: a number, or (T,) for T portraits between one start and one end.
        mode: "linear" for all factors. "spherical" moves shape, albedo and noise, which are Gaussian, along the
            great circle with linearly changing length (Shoemake 1985), so that points half-way are as typical as
            the ends; expression and illumination stay linear, because their zero has a meaning.

    Raises:
        CopoError: The two belong to different head models, or the mode is unknown.
    """
    if start.spec != end.spec:
        raise CopoError(f"factors of heads {start.spec.head!r} and {end.spec.head!r} cannot be interpolated")
    if mode not in ("linear", "spherical"):
        raise unknown_name("interpolation mode", mode, ["linear", "spherical"])
    weight = torch.as_tensor(t, dtype=start.shape.dtype, device=start.shape.device).reshape(-1, 1)

    def blend(name: str) -> Tensor:
        a, b = getattr(start, name), getattr(end, name)
        if mode == "spherical" and name in ("shape", "albedo", "noise"):
            return slerp(a, b, weight)
        return a + weight * (b - a)

    return start._with({name: blend(name) for name in FACTOR_NAMES})


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of directions with linear interpolation of lengths; (B, n), (B, n), (B, 1) -> (B, n).

    Where the two directions are nearly equal or opposite, or one is zero, the result is linear.
    """
    length_a, length_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a, unit_b = a / length_a.clamp_min(1e-12), b / length_b.clamp_min(1e-12)
    angle = (unit_a * unit_b).sum(1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    curved = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / sine.clamp_min(1e-6)
    curved = curved * (length_a + t * (length_b - length_a))
    return torch.where(sine < 1e-4, a + t * (b - a), curved)
