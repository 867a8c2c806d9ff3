"""What cameras, screens and networks do to pictures: colour, blur, loss of size, noise, JPEG; batched."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.training.analyser.chance import Chance
from copo.training.analyser.config import DegradeConfig

_LUMA = (0.299, 0.587, 0.114)
_BLUR_RADIUS = 6
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
    scale = pictures.shape[3] / 256
    pictures = colour(pictures, config, chance)
    pictures = blur(
        pictures, chance.flag(config.blurred, len(pictures)) * config.blur * scale * chance.unit(len(pictures))
    )
    pictures = reduce(pictures, config, chance)
    pictures = noise(pictures, config, chance)
    quality = chance.between(15, 90, len(pictures))
    return torch.where(
        chance.flag(config.jpeg, len(pictures))[:, None, None, None], jpeg(pictures, quality), pictures
    ).clamp(-1, 1)


def colour(pictures: Tensor, config: DegradeConfig, chance: Chance) -> Tensor:
    """Brightness, contrast, saturation, tint, now and then no colour at all."""
    count = len(pictures)

    def factor(largest: float, channels: int = 1) -> Tensor:
        return (largest * chance.between(-1, 1, count, channels, 1, 1)).exp()

    grey = (pictures * pictures.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    saturation = factor(config.saturation) * ~chance.flag(config.grey, count, 1, 1, 1)
    pictures = grey + (pictures - grey) * saturation
    pictures = (pictures + 1) * factor(config.tint, 3) - 1
    middle = pictures.mean((1, 2, 3), keepdim=True)
    pictures = middle + (pictures - middle) * factor(config.contrast)
    return (pictures + config.brightness * chance.between(-1, 1, count, 1, 1, 1)).clamp(-1, 1)


def blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B,) standard deviations in pixels (0: none)."""
    batch, channels, height, width = pictures.shape
    steps = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=pictures.device, dtype=pictures.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma.clamp_min(0.05)[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(pictures, [_BLUR_RADIUS] * 4, mode="reflect").reshape(1, batch * channels, *(
        height + 2 * _BLUR_RADIUS, width + 2 * _BLUR_RADIUS,
    ))  # fmt: skip
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return flat.view(batch, channels, height, width)


def reduce(pictures: Tensor, config: DegradeConfig, chance: Chance) -> Tensor:
    """Some pictures were small once; three sizes in a batch."""
    size = pictures.shape[3]
    for _ in range(3):
        small = max(int(size * chance.number(0.2, 0.8)), 8)
        less = F.interpolate(pictures, size=(small, small), mode="bilinear", align_corners=False, antialias=True)
        more = F.interpolate(less, size=(size, size), mode="bilinear", align_corners=False)
        chosen = chance.flag(config.reduced / 3, len(pictures), 1, 1, 1)
        pictures = torch.where(chosen, more, pictures)
    return pictures


def noise(pictures: Tensor, config: DegradeConfig, chance: Chance) -> Tensor:
    """Noise of pixels, partly the same in all channels."""
    batch, _, height, width = pictures.shape
    strength = config.noise * chance.unit(batch, 1, 1, 1).square() * chance.flag(config.noisy, batch, 1, 1, 1)
    grey, each = chance.normal(batch, 1, height, width), chance.normal(batch, 3, height, width)
    return pictures + strength * (0.6 * grey + 0.8 * each)


def jpeg(pictures: Tensor, quality: Tensor) -> Tensor:
    """What JPEG leaves of pictures: 8 x 8 cosine transform, quantised, with half the colour resolution.

    Args:
        pictures: (B, 3, H, W) in [-1, 1]; H and W multiples of 16.
        quality: (B,) 1 to 99, on the scale of the IJG's program.

    Returns:
        (B, 3, H, W) in [-1, 1] up to ringing.
    """
    red, green, blue = ((pictures + 1) * 127.5).unbind(1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue - 128
    chroma = torch.stack([(blue - luma - 128) * 0.564, (red - luma - 128) * 0.713], dim=1)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100
    luma = _quantised(luma[:, None], _LUMA_TABLE, scale)
    small = _quantised(F.avg_pool2d(chroma, 2), _CHROMA_TABLE, scale)
    cb, cr = F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False).unbind(1)
    luma = luma[:, 0] + 128
    out = torch.stack([luma + cr / 0.713, luma - 0.344 * cb - 0.714 * cr, luma + cb / 0.564], dim=1)
    return out / 127.5 - 1


def _quantised(planes: Tensor, table: tuple[int, ...], scale: Tensor) -> Tensor:
    """(B, C, H, W) through the quantised cosine transform of 8 x 8 blocks."""
    steps = (planes.new_tensor(table).view(8, 8) * scale[:, None, None]).round().clamp(1, 255)
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # (B, C, h, 8, w, 8)
    transform = _cosines(planes)
    with torch.autocast(planes.device.type, enabled=False):
        freq = torch.einsum("ui,bchiwj,vj->bchuwv", transform, blocks, transform)
        step = steps[:, None, None, :, None, :]
        freq = (freq / step).round() * step
        back = torch.einsum("ui,bchuwv,vj->bchiwj", transform, freq, transform)
    return back.flatten(4, 5).flatten(2, 3)


def _cosines(like: Tensor) -> Tensor:
    """(8, 8) orthonormal discrete cosine transform."""
    k = torch.arange(8, dtype=like.dtype, device=like.device)
    rows = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) * 0.5
    rows[0] /= math.sqrt(2)
    return rows
