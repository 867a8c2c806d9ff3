"""BiSeNet face parser: 19 classes at each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.vision.models import find_model
from copo.vision.networks.bisenet import BiSeNet
from copo.vision.protocols import Parsing, Picture, as_picture, to_tensor
from copo.vision.weights import load_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of RGB in [0, 1] over ImageNet: what the network was trained with."""


class BiSeNetParser(nn.Module):
    """A `copo.vision.protocols.Parser`; its weights are frozen."""

    size = 512
    mean: Tensor
    std: Tensor

    def __init__(self, network: BiSeNet) -> None:
        """Args: network: With its weights."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the weights.

        Args:
            path: `79999_iter.pth`; by default the fetched one.

        Raises:
            CopoError: The file is missing, damaged or of another network.
        """
        path = Path(path) if path else find_model("bisenet")
        return cls(load_weights(BiSeNet(), path, "BiSeNet"))

    def logits(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1], best at 512 px -> (B, 19, H, W)."""
        return self.network(((pictures + 1) / 2 - self.mean) / self.std)

    def probabilities(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 19, H, W); run at 512 px, differentiable."""
        size = (self.size, self.size)
        if pictures.shape[2:] == size:
            return self.logits(pictures).softmax(1)
        scaled = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=True)
        out = self.logits(scaled).softmax(1)
        return F.interpolate(out, size=pictures.shape[2:], mode="bilinear", align_corners=False)

    def parse(self, picture: Picture) -> Parsing:
        """Labels of a picture at its own size."""
        with torch.no_grad():
            out = self.probabilities(to_tensor(as_picture(picture)))[0]
        return Parsing(out.argmax(0).numpy().astype(np.uint8), out.numpy())
