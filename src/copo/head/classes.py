"""Groups of parser classes, and where a picture shows them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.head.protocol import PARSER_CLASSES


def class_numbers(*names: str) -> tuple[int, ...]:
    """Indices of parser classes."""
    return tuple(PARSER_CLASSES.index(name) for name in names)


def is_class(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """(B, h, w) labels -> (B, 1, h, w) 1 where the label is one of the classes."""
    out = torch.zeros_like(labels, dtype=torch.bool)
    for number in classes:
        out = out | (labels == number)
    return out[:, None].float()


def share_of(probabilities: Tensor, classes: tuple[int, ...]) -> Tensor:
    """(B, K, h, w) class probabilities -> (B, 1, h, w) of the classes together."""
    return torch.stack([probabilities[:, number] for number in classes]).sum(0)[:, None]


def grown(mask: Tensor, pixels: int) -> Tensor:
    """(B, C, h, w) masks with a border of some pixels, as squares."""
    return F.max_pool2d(mask, 2 * pixels + 1, stride=1, padding=pixels)
