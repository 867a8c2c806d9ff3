"""The point decoder: tri-plane features to colour, features, density and class probabilities."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copo.config import GeneratorConfig
from copo.networks.layers import Linear, full_precision

COLOUR_SCALE = 1.002
COLOUR_OFFSET = -0.001
"""Colours are sigmoid * COLOUR_SCALE + COLOUR_OFFSET (paper)."""


class DecodedField(NamedTuple):
    """What the field is at some points.

    Attributes:
        features: (..., F): 3 colours in about [0, 1], then F - 3 unbounded features.
        density: (..., 1), at least 0, per scene unit of length.
        classes: (..., K) probabilities.
        class_logits: (..., K) their logarithms up to a constant.
    """

    features: Tensor
    density: Tensor
    classes: Tensor
    class_logits: Tensor


class DecoderWeights(NamedTuple):
    """Effective float32 weights of the decoder, run-time gains folded in.

    Attributes:
        hidden_weight: (H, C).
        hidden_bias: (H,).
        out_weight: (F + 1 + K, H); rows: 3 colours, F - 3 features, density, K classes, all before their activation.
        out_bias: (F + 1 + K,).
    """

    hidden_weight: Tensor
    hidden_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


class Decoder(nn.Module):
    """A hidden layer with softplus, a head for colour, features and density, and one for the classes (paper).

    Args:
        config: Sizes.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.hidden = Linear(config.plane_channels, config.decoder_hidden, bias_init=1.0)
        self.picture = Linear(config.decoder_hidden, config.feature_channels + 1, bias_init=1.0)
        self.semantic = Linear(config.decoder_hidden, config.class_count, bias_init=1.0)
        self.feature_channels = config.feature_channels

    def linears(self) -> DecoderWeights:
        """The effective weights, differentiable, for fused kernels."""
        hidden_weight, hidden_bias = self.hidden.effective()
        heads = [self.picture.effective(), self.semantic.effective()]
        return DecoderWeights(
            hidden_weight, hidden_bias, torch.cat([w for w, _ in heads]), torch.cat([b for _, b in heads])
        )

    def forward(self, features: Tensor) -> DecodedField:
        """Summed plane features (..., C) -> the field, in float32."""
        hidden = F.softplus(self.hidden(features))
        picture = self.picture(hidden)
        logits = self.semantic(hidden)
        colour, other, density = picture.split([3, self.feature_channels - 3, 1], dim=-1)
        colour = torch.sigmoid(colour) * COLOUR_SCALE + COLOUR_OFFSET
        return DecodedField(
            torch.cat([colour, other], dim=-1), F.softplus(density), torch.softmax(logits, dim=-1), logits
        )

    def density(self, features: Tensor) -> Tensor:
        """Summed plane features (..., C) -> density (..., 1) alone, float32: cheaper for proposals and shapes."""
        row = self.feature_channels
        weight, bias = self.picture.effective()
        with full_precision(features):
            out = F.linear(F.softplus(self.hidden(features)), weight[row : row + 1], bias[row : row + 1])
        return F.softplus(out)
