"""Changes of weights that are learned instead of the weights: thin products for large layers (Hu et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from copo.formats.portrait_file import WeightDelta


class AddedChange(nn.Module):
    """weight -> weight + change, as a parametrisation of a module.

    The change starts at zero. It has low rank where that takes less than half of the weight's numbers.

    Args:
        weight: To be changed.
        rank: Of the change.
        generator: Source of the right factor, on the CPU.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows = weight.shape[0] if weight.ndim > 1 else 1
        columns = weight.numel() // max(rows, 1)
        self.full: nn.Parameter | None = None
        self.left: nn.Parameter | None = None
        self.right: nn.Parameter | None = None
        if 2 * rank * (rows + columns) < weight.numel():
            right = torch.randn(rank, columns, generator=generator) / rank**0.5
            self.left = nn.Parameter(weight.new_zeros(rows, rank))
            self.right = nn.Parameter(right.to(weight))
        else:
            self.full = nn.Parameter(torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        if self.full is not None:
            return weight + self.full
        assert self.left is not None and self.right is not None
        return weight + (self.left @ self.right).view_as(weight)

    def delta(self) -> WeightDelta:
        """What was learned, on the CPU in half precision."""
        parts = {
            name: None if value is None else value.detach().cpu().half()
            for name, value in (("full", self.full), ("left", self.left), ("right", self.right))
        }
        return WeightDelta(**parts)


class Changes:
    """The learnable changes of a network. The network itself is changed in place until `close`.

    Args:
        network: Its weights do not learn.
        names: Names of the parameters to change.
        rank: See `AddedChange`.
        seed: Of the right factors.
    """

    def __init__(self, network: nn.Module, names: list[str], rank: int, seed: int = 0) -> None:
        random = torch.Generator().manual_seed(seed)
        network.requires_grad_(False)
        self._places: list[tuple[str, nn.Module, str]] = []
        for name in names:
            path, _, leaf = name.rpartition(".")
            self._places.append((name, network.get_submodule(path), leaf))
        self._added: dict[str, AddedChange] = {}
        for name, module, leaf in self._places:
            change = AddedChange(getattr(module, leaf), rank, random)
            parametrize.register_parametrization(module, leaf, change)
            self._added[name] = change
        for change in self._added.values():
            change.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        """What learns."""
        return [value for change in self._added.values() for value in change.parameters()]

    def deltas(self) -> dict[str, WeightDelta]:
        """What was learned, by name."""
        return {name: change.delta() for name, change in self._added.items()}

    def close(self, keep: bool) -> None:
        """Make the network an ordinary one again.

        Args:
            keep: Leave the changed weights in it, or the old ones.
        """
        for _, module, leaf in self._places:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=keep)
