"""Filters against the tremble of per-frame estimates that leave quick motion, such as a blink, as it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError

Array = NDArray[Any]

MIN_CUTOFF, BETA, SPEED_CUTOFF = 1.5, 4.0, 1.0
"""Hz at rest, Hz for each unit a second, Hz of the filter of the speed. Expression units run from 0 to 1 and poses in
radians: a blink moves with about 10 units a second, which gives a cutoff of 40 Hz."""


class OneEuro:
    """The one-euro filter (Casiez, Roussel and Vogel 2012) for vectors: a low pass whose cutoff rises with the speed.

    Args:
        rate: Samples a second.
        min_cutoff: Cutoff at rest in Hz: lower trembles less and lags more.
        beta: Cutoff that each unit a second adds, Hz.
        speed_cutoff: Cutoff of the speed's own low pass in Hz.

    Raises:
        CopoError: A rate or cutoff is not above zero.
    """

    def __init__(
        self, rate: float, min_cutoff: float = MIN_CUTOFF, beta: float = BETA, speed_cutoff: float = SPEED_CUTOFF
    ) -> None:
        if not (rate > 0 and min_cutoff > 0 and speed_cutoff > 0 and beta >= 0):
            raise CopoError(f"smoothing: rate {rate:g} and cutoffs {min_cutoff:g}, {speed_cutoff:g} must be above 0")
        self.rate, self.min_cutoff, self.beta = rate, min_cutoff, beta
        self._speed_share = self._share(np.asarray(speed_cutoff))
        self._value: Array | None = None
        self._speed: Array | None = None

    def __call__(self, value: Array) -> Array:
        """(n) the next sample -> (n) filtered. The first comes out as it is."""
        value = np.asarray(value, np.float64)
        if self._value is None or self._speed is None:
            self._value, self._speed = value, np.zeros_like(value)
            return value
        speed = (value - self._value) * self.rate
        self._speed = self._speed + self._speed_share * (speed - self._speed)
        share = self._share(self.min_cutoff + self.beta * np.abs(self._speed))
        self._value = self._value + share * (value - self._value)
        return self._value

    def _share(self, cutoff: Array) -> Array:
        turn = 2 * math.pi * cutoff / self.rate
        return turn / (turn + 1)


def smooth(values: Array, rate: float, strength: float = 1.0, beta: float = BETA) -> Array:
    """A whole clip without the filter's lag: the mean of a run forwards and a run backwards.

    Args:
        values: (N, n) samples.
        rate: Samples a second.
        strength: Divides the cutoff at rest; 0 leaves the clip as it is.
        beta: As in `OneEuro`.

    Returns:
        (N, n) float32.

    Raises:
        CopoError: The strength is negative.
    """
    if strength < 0:
        raise CopoError(f"smoothing of {strength:g}: give 0 or more")
    if strength == 0 or len(values) < 2:
        return np.asarray(values, np.float32)

    def run(samples: Array) -> Array:
        step = OneEuro(rate, MIN_CUTOFF / strength, beta)
        return np.stack([step(sample) for sample in samples])

    edge = min(len(values) - 1, round(rate / 2))  # mirrored, so that the first sample is no better known than others
    padded = np.pad(np.asarray(values, np.float64), ((edge, edge), (0, 0)), mode="reflect")
    calm = (run(padded) + run(padded[::-1])[::-1]) / 2
    return calm[edge : edge + len(values)].astype(np.float32)
