"""The field itself: points in, density and the decoder's hidden layer out; heads applied where they are needed.

The decoder's features leave its last layer without an activation, so their weighted sum along a ray is that layer
applied to the weighted sum of the hidden vectors: 29 of the 52 outputs are computed once per ray instead of once per
sample. Colours and classes pass a sigmoid and a softmax, and are computed per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.field.planes import sample_planes
from copo.networks.decoder import COLOUR_OFFSET, COLOUR_SCALE, Decoder

COLORS = 3
"""The first features are colours."""


@dataclass(frozen=True)
class Probe:
    """What the field holds at points, before the heads.

    Attributes:
        density: (B, N) per metre.
        hidden: (B, N, H) the decoder's hidden layer.
        label_hidden: (B, N, H) what the class head reads: `hidden`, except in published blending.
        proposal: (B, N) the density that decides where fine samples go: `density`, except in published blending.
        static_share: (B, N) in [0, 1], how far the point belongs to the static field; None without blending.
    """

    density: Tensor
    hidden: Tensor
    label_hidden: Tensor
    proposal: Tensor
    static_share: Tensor | None = None


class Field(Protocol):
    """Anything that a ray can be marched through."""

    heads: Heads
    box: float
    """Half width of the cube that the planes cover, metres."""
    texel: float
    """Side of a texel of the planes, metres."""

    def probe(self, points: Tensor) -> Probe:
        """(B, N, 3) world points, metres -> what is there."""
        ...


class Heads:
    """The output rows of the point decoder, with run-time gains folded in.

    Rows are ordered [colours | features | density | classes].
    """

    def __init__(self, decoder: Decoder) -> None:
        weights = decoder.linears()
        self.hidden_weight, self.hidden_bias = weights.hidden_weight, weights.hidden_bias
        self.weight, self.bias = weights.out_weight, weights.out_bias
        self.features = decoder.feature_channels
        self.class_count = self.weight.shape[0] - self.features - 1

    def hidden(self, features: Tensor) -> Tensor:
        """(..., C) tri-plane features -> (..., H)."""
        return F.softplus(F.linear(features, self.hidden_weight, self.hidden_bias))

    def density(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (...) per metre."""
        row = self.features
        return F.softplus(F.linear(hidden, self.weight[row : row + 1], self.bias[row : row + 1]))[..., 0]

    def colors(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., 3), nominally in [0, 1]."""
        logits = F.linear(hidden, self.weight[:COLORS], self.bias[:COLORS])
        return torch.sigmoid(logits) * COLOUR_SCALE + COLOUR_OFFSET

    def linear_features(self, hidden: Tensor, alpha: Tensor) -> Tensor:
        """Features other than colours of weighted hidden vectors.

        Args:
            hidden: (..., H) sum of w_i h_i.
            alpha: (...) sum of w_i.

        Returns:
            (..., features - 3), the sum of w_i f_i.
        """
        rows = slice(COLORS, self.features)
        return F.linear(hidden, self.weight[rows]) + alpha[..., None] * self.bias[rows]

    def class_logits(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., K) before the softmax."""
        return F.linear(hidden, self.weight[self.features + 1 :], self.bias[self.features + 1 :])


class TriPlaneField:
    """The field of one generator pass.

    Args:
        planes: (B, 3, C, H, W).
        heads: The decoder's layers.
        box: Half width of the cube that the planes cover, metres.
    """

    def __init__(self, planes: Tensor, heads: Heads, box: float) -> None:
        self.planes, self.heads, self.box = planes, heads, box
        self.texel = 2 * box / max(planes.shape[-1] - 1, 1)

    def probe(self, points: Tensor) -> Probe:
        """See `Field`."""
        features = sample_planes(self.planes, points, self.box)
        hidden = self.heads.hidden(features.to(self.heads.hidden_weight.dtype))
        density = self.heads.density(hidden)
        return Probe(density, hidden, hidden, density)

    def __getitem__(self, index: slice) -> TriPlaneField:
        """A part of the batch."""
        return TriPlaneField(self.planes[index], self.heads, self.box)
