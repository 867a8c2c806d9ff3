"""The moving average of a network's weights: what is shown, measured and shipped."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def averaged_copy(network: Module) -> Module:
    """A copy for evaluation, whose weights take no gradient."""
    return copy.deepcopy(network).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average = decay average + (1 - decay) network; buffers are copied.

    Args:
        average: From `averaged_copy`.
        network: The one that learns.
        decay: Share of the average that stays. In the first steps it is at most (1 + step) / (10 + step), so that the
            initial weights are soon forgotten.
        step: Steps that were averaged before.
    """
    keep = min(decay, (1 + step) / (10 + step))
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - keep)
    for mine, other in zip(average.buffers(), network.buffers(), strict=True):
        mine.copy_(other)
