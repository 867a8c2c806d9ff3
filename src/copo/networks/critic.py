"""A second discriminator that looks through a frozen network (Sauer et al. 2021, "Projected GANs converge faster").

Features of a network that was trained on many pictures are mixed by fixed random convolutions, across channels and from
coarse to fine, so that no scale can be ignored; a small head for each scale says where it looks real. Small sets of
photographs, which a discriminator on pixels learns by heart, are enough for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from copo.errors import CopoError
from copo.networks.layers import LRELU_SLOPE

LAST_SIDE = 4
"""Heads reduce their map to about this side before they judge."""


class CriticHead(nn.Module):
    """Strided convolutions of bounded gain down to a few places, and a score for each.

    Args:
        width: Channels.
        halvings: How often the side is halved.
    """

    def __init__(self, width: int, halvings: int) -> None:
        super().__init__()
        down = [spectral_norm(nn.Conv2d(width, width, 4, stride=2, padding=1)) for _ in range(halvings)]
        self.down = nn.ModuleList(down)
        self.score = spectral_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> (B, places) scores."""
        for layer in self.down:
            x = F.leaky_relu(layer(x), LRELU_SLOPE)
        scores: Tensor = self.score(x).flatten(1)
        return scores


class FeatureCritic(nn.Module):
    """Scores of feature maps.

    Args:
        shapes: (channels, side) of each map, finest first; sides are halved from one to the next.
        width: Channels of mixtures and heads.

    Raises:
        CopoError: There are no maps.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], width: int = 64) -> None:
        super().__init__()
        if not shapes:
            raise CopoError("critic: the frozen network gives no maps")
        self.count = len(shapes)
        for i, (channels, _) in enumerate(shapes):
            self.register_buffer(f"across{i}", torch.randn(width, channels, 1, 1) * (1 / channels) ** 0.5)
            self.register_buffer(f"along{i}", torch.randn(width, width, 3, 3) * (1 / (9 * width)) ** 0.5)
        self.heads = nn.ModuleList(
            CriticHead(width, max((side // LAST_SIDE).bit_length() - 1, 0)) for _, side in shapes
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, h_i, w_i), finest first -> (B, places of all scales) scores."""
        mixed: list[Tensor] = []
        above: Tensor | None = None
        for i in reversed(range(self.count)):
            x = F.conv2d(maps[i], getattr(self, f"across{i}").to(maps[i].dtype))
            if above is not None:
                x = x + F.interpolate(above, x.shape[2:], mode="bilinear", align_corners=False)
            above = F.conv2d(x, getattr(self, f"along{i}").to(x.dtype), padding=1)
            mixed.insert(0, above)
        scores = [head(x).float() for head, x in zip(self.heads, mixed, strict=True)]
        return torch.cat(scores, dim=1)
