"""Deep3DFaceRecon's regressor (Deng et al. 2019): ResNet-50 and one linear head for each kind of coefficient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from copo.vision.networks.resnet import Bottleneck, ResNet

SIZES: dict[str, int] = {
    "shape": 80,
    "expression": 64,
    "albedo": 80,
    "angles": 3,
    "illumination": 27,
    "shift": 2,
    "z": 1,
}
"""The coefficients in the order of the heads; "shift" is the translation in x and y, "z" that in z."""


class Deep3DNet(nn.Module):
    """Names of parameters are those of the published `net_recon`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(Bottleneck, (3, 4, 6, 3))
        self.final_layers = nn.ModuleList(nn.Conv2d(2048, size, 1) for size in SIZES.values())

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, 224, 224) RGB in [0, 1] -> (B, 257) coefficients, in the order of `SIZES`."""
        pooled = self.backbone(pictures)[-1].mean((2, 3), keepdim=True)
        return torch.cat([layer(pooled) for layer in self.final_layers], dim=1).flatten(1)
