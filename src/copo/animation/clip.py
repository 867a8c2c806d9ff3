"""A driving clip: what a face does over time, whoever it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from copo.animation.smoothing import smooth
from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.formats.atomic import atomic_write

Array = NDArray[Any]
FORMAT = "copo-clip-1"
FASTEST = 1000.0
"""Most frames a second that a driving file may claim."""


@dataclass(frozen=True)
class DrivingClip:
    """Expressions, and where there are any poses, at a constant rate.

    Attributes:
        names: One for each column of `expression`: ARKit units, or a PCA's exp_00, exp_01, ...
        expression: (N, len(names)) float32.
        rate: Frames a second.
        pose: (N, 3) float32 radians, or None: yaw, pitch and roll of the camera around a resting head. A positive yaw
            shows the head from the right of the frontal picture (as if it turned to the left of the picture), a
            positive pitch from above (as if it nodded), a positive roll turns the head clockwise in the
            picture.
        sound: A file whose sound belongs to the clip, or None.
        source: What it came from, for people.

    Raises:
        CopoError: No frames, wrong shapes, numbers that are not finite, or a rate that is none.
    """

    names: tuple[str, ...]
    expression: Array
    rate: float
    pose: Array | None = None
    sound: Path | None = None
    source: str = "clip"

    def __post_init__(self) -> None:
        expression = np.ascontiguousarray(self.expression, np.float32)
        object.__setattr__(self, "expression", expression)
        if expression.ndim != 2 or expression.shape[1] != len(self.names):
            raise CopoError(
                f"{self.source}: expressions of shape {expression.shape}: expected (N, {len(self.names)}), one column "
                "for each name"
            )
        if not len(expression):
            raise CopoError(f"{self.source}: the driving file has no frames")
        if not (0 < self.rate <= FASTEST):
            raise CopoError(f"{self.source}: {self.rate:g} frames a second: give a rate above 0")
        if self.pose is not None:
            pose = np.ascontiguousarray(self.pose, np.float32)
            object.__setattr__(self, "pose", pose)
            if pose.shape != (len(expression), 3):
                raise CopoError(f"{self.source}: poses of shape {pose.shape}: expected ({len(expression)}, 3)")
        for title, values in (("expressions", expression), ("poses", self.pose)):
            if values is not None and not np.isfinite(values).all():
                raise CopoError(f"{self.source}: {title} hold NaN or infinite numbers: make the file again")

    def __len__(self) -> int:
        return len(self.expression)

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last."""
        return len(self) / self.rate

    def at_rate(self, rate: float) -> DrivingClip:
        """The same motion with another number of frames a second, linear between frames.

        Frames are taken at 0, 1/rate, ... before the clip's end; behind its last frame that one is held.
        """
        if rate == self.rate:
            return self
        count = max(int(np.floor(self.seconds * rate + 1e-6)), 1)
        times = np.arange(count) / rate * self.rate
        low = np.floor(times).astype(np.int64).clip(0, len(self) - 1)
        high = (low + 1).clip(max=len(self) - 1)
        share = (times - low).clip(0, 1)[:, None]

        def between(values: Array) -> Array:
            return values[low] * (1 - share) + values[high] * share

        pose = None if self.pose is None else between(self.pose)
        return replace(self, expression=between(self.expression), pose=pose, rate=rate)

    def first(self, seconds: float | None) -> DrivingClip:
        """The beginning of the clip; all of it for None or where it is shorter."""
        if seconds is None:
            return self
        if not seconds > 0:
            raise CopoError(f"{seconds:g} seconds of a clip: give a number above 0")
        count = max(round(seconds * self.rate), 1)
        pose = None if self.pose is None else self.pose[:count]
        return replace(self, expression=self.expression[:count], pose=pose)

    def smoothed(self, strength: float = 1.0) -> DrivingClip:
        """Without tremble (`copo.animation.smoothing.smooth`)."""
        pose = None if self.pose is None else smooth(self.pose, self.rate, strength)
        return replace(self, expression=smooth(self.expression, self.rate, strength), pose=pose)

    def calibrated(self, share: float = 0.05) -> DrivingClip:
        """Each unit's low values become its rest: takes off what a face shows while it does nothing.

        Args:
            share: The quantile that becomes 0.
        """
        rest = np.quantile(self.expression, share, axis=0)
        span = np.maximum(1 - rest, 1e-3)  # a unit that reached 1 still reaches 1
        return replace(self, expression=((self.expression - rest) / span).clip(0, None))

    def scaled(self, expression: float = 1.0, pose: float = 1.0) -> DrivingClip:
        """Stronger or weaker motion; a negative `pose` turns the head the other way."""
        moved = None if self.pose is None else self.pose * pose
        return replace(self, expression=self.expression * expression, pose=moved)

    def for_spec(self, spec: FactorSpec) -> Tensor:
        """(N, spec.expression) coefficients of a head, within its range; units that the clip lacks rest at zero.

        Raises:
            CopoError: Clip and head name their expressions differently.
        """
        index = {name: i for i, name in enumerate(spec.expression_names)}
        shared = [name for name in self.names if name in index]
        if not shared:
            mine, theirs = _listed(self.names), _listed(spec.expression_names)
            raise CopoError(
                f"{self.source} moves {mine}; head {spec.head!r} has {theirs}: give --bfm, your Basel Face Model, so "
                "that one can be translated into the other"
            )
        out = torch.zeros(len(self), spec.expression)
        taken = [self.names.index(name) for name in shared]
        out[:, [index[name] for name in shared]] = torch.from_numpy(self.expression[:, taken])
        return out.clamp_(*spec.expression_range)


def save_clip(path: str | os.PathLike[str], clip: DrivingClip) -> None:
    """Write a clip as .npz: format, names, expression, rate and pose. The sound is not part of it.

    Raises:
        CopoError: Another ending, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise CopoError(f"cannot write a driving clip as {target.name!r}: end the name in .npz")
    arrays: dict[str, Array] = {
        "format": np.array(FORMAT),
        "names": np.array(clip.names),
        "expression": clip.expression,
        "rate": np.array(clip.rate),
    }
    if clip.pose is not None:
        arrays["pose"] = clip.pose
    with atomic_write(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def without_gaps(values: Array) -> Array:
    """(N, n) with rows of NaN -> the same with those rows filled: linear between neighbours, held at the ends.

    Raises:
        ValueError: All rows are missing.
    """
    known = np.flatnonzero(np.isfinite(values).all(1))
    if not len(known):
        raise ValueError("nothing is known")
    at = np.arange(len(values))
    return np.stack([np.interp(at, known, values[known, i]) for i in range(values.shape[1])], axis=1)


def _listed(names: tuple[str, ...]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else (names[0] if names else "nothing")
