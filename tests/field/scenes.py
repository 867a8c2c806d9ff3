"""An ellipsoidal head whose planes and decoder weights are written down by hand, so that everything about it is known.

Plane features add up over the planes, so a sum of functions of two coordinates each is representable: here
q = (x/a)^2 + (y/b)^2 + (z/c)^2, which is 1 on the surface. The decoder turns q into density, height into hair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from copo.config import GeneratorConfig
from copo.networks.decoder import Decoder

AXES = (0.075, 0.1, 0.085)
"""Half axes of the head in metres."""
BOX = 0.185
CONFIG = GeneratorConfig(
    w_dim=32,
    mapping_layers=2,
    channel_base=256,
    channel_max=16,
    plane_resolution=128,
    plane_channels=8,
    decoder_hidden=16,
    feature_channels=8,
    sr_channels=(16, 16),
)
SKIN, HAIR = 1, 17
HAIR_LINE = 0.045
"""Height above which the head is hair, metres."""


def head_planes(mouth: float = 0.0, shift: float = 0.0, resolution: int = 128) -> Tensor:
    """(1, 3, 8, R, R) planes.

    Args:
        mouth: Height in metres of a bulge at the lower front (and, as a plane cannot tell, the back) of the head.
        shift: Moves the texture, so that two heads differ everywhere.
        resolution: R.
    """
    grid = torch.linspace(-(BOX + 1e-5), BOX + 1e-5, resolution, dtype=torch.float64)
    second, first = torch.meshgrid(grid, grid, indexing="ij")  # height and width of a plane
    planes = torch.zeros(3, 8, resolution, resolution, dtype=torch.float64)
    a, b, c = AXES
    planes[0, 0] = (first / a) ** 2 + (second / c) ** 2
    bulge = torch.exp(-((first / 0.03) ** 2) - ((second + 0.04) / 0.02) ** 2)
    planes[1, 0] = (second / b) ** 2 - 2 * mouth / c * bulge
    planes[1, 1] = second
    planes[1, 2] = torch.sin(60 * first + 20 * second + shift)
    planes[2, 3] = torch.cos(50 * first - 30 * second + shift)
    planes[0, 4] = torch.sin(40 * second + 70 * first + shift)
    return planes[None].float()


def head_decoder() -> Decoder:
    """Density rises within about a millimetre around q = 1; above HAIR_LINE the head is hair; air is background."""
    decoder = Decoder(CONFIG)
    hidden, hidden_bias = torch.zeros(16, 8), torch.zeros(16)
    hidden[0, 0], hidden_bias[0] = -300, 300  # about 300 (1 - q) inside, nothing outside
    hidden[1, 1], hidden_bias[1] = 200, 4 - 200 * HAIR_LINE  # 4 at the hair line
    for unit in (2, 3, 4):
        hidden[unit, unit] = 1
    out, bias = torch.zeros(8 + 1 + 19, 16), torch.zeros(8 + 1 + 19)
    for color in range(3):
        out[color, 2 + color] = 4
        bias[color] = -3
    for feature in range(3, 8):
        out[feature, 2 + feature % 3] = 0.5 * feature
    out[8, 0], bias[8] = 700, -10
    classes, class_bias = out[9:], bias[9:]
    classes[0, 0], class_bias[0] = -3640, 60
    classes[HAIR, 1] = 2
    class_bias[SKIN] = 8
    with torch.no_grad():
        decoder.hidden.weight.copy_(hidden / decoder.hidden.weight_gain)
        decoder.hidden.bias.copy_(hidden_bias)
        decoder.picture.weight.copy_(out[:9] / decoder.picture.weight_gain)
        decoder.picture.bias.copy_(bias[:9])
        decoder.semantic.weight.copy_(classes / decoder.semantic.weight_gain)
        decoder.semantic.bias.copy_(class_bias)
    return decoder.requires_grad_(False)
