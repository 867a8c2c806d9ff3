"""All weights of a network as one vector, so that optimiser, average and exchange are a few launches each."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGN = 32
"""Each tensor begins at a multiple of so many elements: convolutions of a GPU read 16 bytes at once, and end a recorded
step with "misaligned address" where a tensor begins elsewhere."""


class WeightVector:
    """Moves a network's parameters and buffers into a few vectors, of which they become views.

    Args:
        network: On its device for good: moving it afterwards would part it from the vectors.
        group: Group of a named parameter; groups lie one after the other.

    Attributes:
        parameters: The network's, in the order of the vector.
        names: Their names.
        values: (N,) all parameters, with zeros between them (`ALIGN`).
        statistics: (M,) all floating buffers that are saved.
        counters: (K,) all other buffers that are saved.
        groups: A slice of `values` for each group.
    """

    def __init__(self, network: nn.Module, group: Callable[[str, nn.Parameter], Hashable]) -> None:
        members: dict[Hashable, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in network.named_parameters():
            members.setdefault(group(name, parameter), []).append((name, parameter))
        ordered = [pair for pairs in members.values() for pair in pairs]
        self.names, self.parameters = [n for n, _ in ordered], [p for _, p in ordered]
        self.values = _joined(self.parameters)
        saved = set(network.state_dict())
        buffers = [b for n, b in network.named_buffers() if n in saved]
        self.statistics = _joined([b for b in buffers if b.is_floating_point()])
        self.counters = _joined([b for b in buffers if not b.is_floating_point()])
        self.groups: dict[Hashable, slice] = {}
        low = 0
        for key, pairs in members.items():
            high = low + sum(_room(p) for _, p in pairs)
            self.groups[key] = slice(low, high)
            low = high

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """A vector of the parameters' size as tensors of their shapes, by name; views."""
        parts = vector.split([_room(p) for p in self.parameters])
        return {n: v[: p.numel()].view(p.shape) for n, v, p in zip(self.names, parts, self.parameters, strict=True)}

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What `split` gave as one vector again."""
        return torch.cat([_flat(tensors[name]) for name in self.names])

    def gradients(self, loss: Tensor) -> Tensor:
        """(N,) the gradient of a scalar."""
        made = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        return torch.cat([_flat(g) for g in made])


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """One contiguous vector; the tensors become views of it."""
    if not tensors:
        return torch.zeros(0)
    vector = torch.cat([_flat(t.detach()) for t in tensors])
    for tensor, part in zip(tensors, vector.split([_room(t) for t in tensors]), strict=True):
        tensor.data = part[: tensor.numel()].view(tensor.shape)
    return vector


def _room(tensor: Tensor) -> int:
    """Elements that a tensor takes in a vector."""
    return -(-tensor.numel() // ALIGN) * ALIGN


def _flat(tensor: Tensor) -> Tensor:
    """One dimension, filled up with zeros to its room."""
    flat, free = tensor.reshape(-1), _room(tensor) - tensor.numel()
    return F.pad(flat, (0, free)) if free else flat
