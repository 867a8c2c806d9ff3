"""Random numbers of one training step on one device."""

from __future__ import annotations

import torch
from torch import Tensor

from copo.training.analyser.linear import spread


class Chance:
    """Draws that depend on (seed, rank, step) only, so that a resumed run sees the same pictures.

    Nothing here waits for the device or has a shape that depends on chance, so that drawing can be recorded in a CUDA
    graph. A graph knows the device's default generator only: `Chance.recorded` draws from it, and `start_step` sets it.
    """

    def __init__(self, device: torch.device | str, seed: int, rank: int = 0, step: int = 0) -> None:
        """Args: device: Where the numbers are made. seed: Of the run. rank: Of the process. step: Of the run."""
        self.device = torch.device(device)
        self._generator: torch.Generator | None = torch.Generator(self.device)
        self._generator.manual_seed(mixed_seed(seed, rank, step))

    @classmethod
    def recorded(cls, device: torch.device | str) -> Chance:
        """Draw from the device's default generator, whose state a CUDA graph reads anew at every replay."""
        chance = cls.__new__(cls)
        chance.device, chance._generator = torch.device(device), None
        return chance

    def unit(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.rand(*shape, generator=self._generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1)."""
        return torch.randn(*shape, generator=self._generator, device=self.device)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high)."""
        return low + (high - low) * self.unit(*shape)

    def flag(self, probability: float, *shape: int) -> Tensor:
        """Bool, True with a probability."""
        return self.unit(*shape) < probability

    def index(self, count: int, *shape: int) -> Tensor:
        """int64 in 0..count-1."""
        return torch.randint(count, shape, generator=self._generator, device=self.device)

    def noise(self, batch: int, channels: int, size: int, cells: int) -> Tensor:
        """(batch, channels, size, size) smooth noise, about N(0, 1) at its `cells` x `cells` knots."""
        knots = self.normal(batch, channels, cells, cells)
        return knots if cells == size else spread(knots, size)


def start_step(seed: int, rank: int, step: int) -> None:
    """Set the default generators of all devices for a step; no device is waited for."""
    torch.manual_seed(mixed_seed(seed, rank, step))


def mixed_seed(seed: int, rank: int, step: int) -> int:
    """One number of three."""
    return ((seed * 1_000_003 + rank) * 100_000_007 + step) % (1 << 62)
