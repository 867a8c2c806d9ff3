"""ArcFace: identity descriptors of 512 numbers from the published iResNet-50."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from copo.errors import CopoError
from copo.vision.align import crop, similarity
from copo.vision.models import find_model
from copo.vision.networks.iresnet import IResNet50
from copo.vision.points import ARCFACE_FIVE
from copo.vision.weights import load_weights


class ArcFace(nn.Module):
    """A `copo.vision.protocols.Recogniser`; its weights are frozen."""

    size = 112
    five: Tensor

    def __init__(self, network: IResNet50) -> None:
        """Args: network: With its weights."""
        super().__init__()
        self.network = network
        self.register_buffer("five", torch.from_numpy(ARCFACE_FIVE), persistent=False)

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the weights.

        Args:
            path: `backbone.pth`; by default the fetched one.

        Raises:
            CopoError: The file is missing, damaged or of another network.
        """
        path = Path(path) if path else find_model("arcface")
        return cls(load_weights(IResNet50(), path, "ArcFace"))

    def align(self, pictures: Tensor, points: Tensor, validate: bool = True) -> Tensor:
        """The standard 112 px crop.

        Args:
            pictures: (B, 3, H, W) in [-1, 1].
            points: (B, 68, 2) landmarks or (B, 5, 2) eyes, nose tip, mouth corners, in pixels.
            validate: See `copo.vision.align.crop`.

        Raises:
            CopoError: There are neither 68 nor 5 points, or they coincide.
        """
        if points.shape[1] == 68:
            eyes = [(points[:, a] + points[:, b]) / 2 for a, b in ((36, 39), (42, 45))]
            points = torch.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], dim=1)
        if points.shape[1] != 5:
            raise CopoError(f"ArcFace: {points.shape[1]} landmarks: give 68 (iBUG) or five")
        matrix = similarity(points, self.five, validate)
        return crop(pictures + 1, matrix, self.size, validate=validate) - 1

    def describe(self, crops: Tensor) -> Tensor:
        """(B, 3, 112, 112) crops in [-1, 1] -> (B, 512) of length 1."""
        return nn.functional.normalize(self.network(crops), dim=1)
