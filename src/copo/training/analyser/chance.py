"""Random numbers of one training step on one device."""

from __future__ import annotations

import torch
from torch import Tensor


class Chance:
    """Draws that depend on (seed, rank, step) only, so that a resumed run sees the same pictures."""

    def __init__(self, device: torch.device | str, seed: int, rank: int = 0, step: int = 0) -> None:
        """Args: device: Where the numbers are made. seed: Of the run. rank: Of the process. step: Of the run."""
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device)
        mixed = ((seed * 1_000_003 + rank) * 100_000_007 + step) % (1 << 62)
        self._generator.manual_seed(mixed)
        self._host = torch.Generator().manual_seed(mixed + 1)

    def number(self, low: float, high: float) -> float:
        """A number for the host, which a GPU need not be waited for."""
        return low + (high - low) * float(torch.rand((), generator=self._host))

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
        if cells == size:
            return knots
        return torch.nn.functional.interpolate(knots, size=(size, size), mode="bicubic", align_corners=False)
