"""What cameras, screens and networks do to pictures: colour, blur, loss of size, noise, JPEG; batched."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.constants import constant
from copo.training.analyser.chance import Chance
from copo.training.analyser.config import DegradeConfig
from copo.training.analyser.linear import along, block_cosines, blurring, shrinking, spread

_LUMA = (0.299, 0.587, 0.114)
_SMALLER = (0.2, 0.8)
"""What is left of the size of pictures that were small once."""
# the example tables of the JPEG standard (ITU-T T.81, annex K), rows of frequencies
_LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *([99] * 32),
)  # fmt: skip


def degrade(pictures: Tensor, config: DegradeConfig, chance: Chance) -> Tensor:
    """(B, 3, S, S) in [-1, 1] -> the same, worse; each picture in its own way."""
    count, size = len(pictures), pictures.shape[3]
    pictures = along(softening(count, size, config, chance), colour(pictures, config, chance))
    pictures = noise(pictures, config, chance)
    quality = chance.between(15, 90, count)
    chosen = chance.flag(config.jpeg, count, 1, 1, 1)
    return torch.where(chosen, jpeg(pictures, quality), pictures).clamp(-1, 1)


def colour(pictures: Tensor, config: DegradeConfig, chance: Chance) -> Tensor:
    """Brightness, contrast, saturation, tint, now and then no colour at all."""
    count = len(pictures)
    drawn = chance.between(-1, 1, count, 6, 1, 1)
    factors = (
        drawn[:, :5] * constant((config.saturation, *([config.tint] * 3), config.contrast), drawn)[:, None, None]
    ).exp()
    saturation = factors[:, :1] * ~chance.flag(config.grey, count, 1, 1, 1)
    grey = (pictures * constant(_LUMA, pictures)[:, None, None]).sum(1, keepdim=True)
    pictures = torch.lerp(grey, pictures, saturation.expand_as(pictures))
    pictures = (pictures + 1) * factors[:, 1:4] - 1
    middle = pictures.mean((1, 2, 3), keepdim=True)
    contrast = factors[:, 4:]
    # middle + (pictures - middle) contrast + brightness
    return torch.addcmul(middle * (1 - contrast) + config.brightness * drawn[:, 5:], pictures, contrast).clamp(-1, 1)


def softening(count: int, size: int, config: DegradeConfig, chance: Chance) -> Tensor:
    """(count, 1, size, size) matrices that blur some pictures and take the resolution of some."""
    sigma = chance.flag(config.blurred, count) * config.blur * (size / 256) * chance.unit(count)
    soft = blurring(sigma, size)
    low, high = _SMALLER
    large, small = shrinking(chance.between(low, high, count), size, high)
    return torch.where(chance.flag(config.reduced, count, 1, 1, 1), large @ (small @ soft), soft)


def blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of square pictures with (B,) standard deviations in pixels (0: none)."""
    return along(blurring(sigma, pictures.shape[3]), pictures)


def noise(pictures: Tensor, config: DegradeConfig, chance: Chance) -> Tensor:
    """Noise of pixels, partly the same in all channels."""
    batch, _, height, width = pictures.shape
    strength = config.noise * chance.unit(batch, 1, 1, 1).square() * chance.flag(config.noisy, batch, 1, 1, 1)
    drawn = chance.normal(batch, 4, height, width)
    return pictures + strength * (0.6 * drawn[:, :1] + 0.8 * drawn[:, 1:])


def jpeg(pictures: Tensor, quality: Tensor) -> Tensor:
    """What JPEG leaves of pictures: 8 x 8 cosine transform, quantised, with half the colour resolution.

    Args:
        pictures: (B, 3, S, S) in [-1, 1]; S a multiple of 16.
        quality: (B,) 1 to 99, on the scale of the IJG's program.

    Returns:
        (B, 3, S, S) in [-1, 1] up to ringing.
    """
    red, green, blue = ((pictures + 1) * 127.5).split(1, dim=1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue - 128
    chroma = torch.cat([(blue - luma - 128) * 0.564, (red - luma - 128) * 0.713], dim=1)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    luma = _quantised(luma, _LUMA_TABLE, scale) + 128
    small = _quantised(F.avg_pool2d(chroma, 2), _CHROMA_TABLE, scale)
    cb, cr = spread(small, pictures.shape[3], "bilinear").split(1, dim=1)
    out = torch.cat([luma + cr / 0.713, luma - 0.344 * cb - 0.714 * cr, luma + cb / 0.564], dim=1)
    return out / 127.5 - 1


def _quantised(planes: Tensor, table: tuple[int, ...], scale: Tensor) -> Tensor:
    """(B, C, S, S) through the quantised cosine transform of 8 x 8 blocks."""
    size = planes.shape[3]
    steps = (constant(tuple(map(float, table)), planes).view(8, 8) * scale[:, None, None]).round().clamp(1, 255)
    step = steps[:, None].repeat(1, 1, size // 8, size // 8)
    transform = block_cosines(size, planes)
    freq = (along(transform, planes) / step).round() * step
    return along(transform.mT, freq)
