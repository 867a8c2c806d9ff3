"""Inception features for FID and KID as published, where the user has the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn

from copo.vision.models import find_model
from copo.vision.networks.inception_fid import SIZE, InceptionFid
from copo.vision.weights import load_weights


class InceptionFeatures(nn.Module):
    """2048 features of a picture."""

    def __init__(self, network: InceptionFid) -> None:
        """Args: network: With its weights."""
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the weights.

        Args:
            path: pt_inception-2015-12-05-6726825d.pth; by default the fetched one.

        Raises:
            CopoError: The file is missing, damaged or of another network.
        """
        path = Path(path) if path else find_model("inception-fid")
        return cls(load_weights(InceptionFid(), path, "Inception"))

    def features(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 2048); scaled to 299 px, bilinear without smoothing (pytorch-fid)."""
        if pictures.shape[2:] != (SIZE, SIZE):
            pictures = F.interpolate(pictures, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
        return self.network.features(pictures)
