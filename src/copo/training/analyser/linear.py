"""Enlarging, blurring and shrinking pictures as matrix products along rows and columns.

PyTorch's interpolation kernels give one thread all pictures and channels of a pixel, so that a batch of small pictures
leaves a GPU idle; products keep it busy, and every picture can have its own strength in one call of fixed shape.
Matrices that do not change are made once, because a CUDA graph can hold no copies from the host.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Mode = Literal["bicubic", "bilinear"]
_BLUR_RADIUS = 6


def spread(knots: Tensor, size: int, mode: Mode = "bicubic") -> Tensor:
    """(B, C, h, w) -> (B, C, size, size), as `F.interpolate` does without aligned corners."""
    return along(enlarging(knots.shape[2], size, mode, knots), knots, enlarging(knots.shape[3], size, mode, knots))


def along(rows: Tensor, pictures: Tensor, columns: Tensor | None = None) -> Tensor:
    """Apply matrices to the columns and the rows of pictures.

    Args:
        rows: (H', H) or (B, 1, H', H), along the height.
        pictures: (B, C, H, W).
        columns: (W', W) or (B, 1, W', W), along the width; the same as `rows` where None.

    Returns:
        (B, C, H', W').
    """
    columns = rows if columns is None else columns
    return rows @ (pictures @ columns.mT)


def enlarging(cells: int, size: int, mode: Mode, like: Tensor) -> Tensor:
    """(size, cells) matrix of `F.interpolate`."""
    return _enlarging(cells, size, mode, like.device, like.dtype)


@functools.lru_cache(maxsize=64)
def _enlarging(cells: int, size: int, mode: Mode, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        knots = torch.eye(cells)[None, :, :, None]
        wide = F.interpolate(knots, size=(size, 1), mode=mode, align_corners=False)
        return wide[0, :, :, 0].mT.contiguous().to(device, dtype)


def blurring(sigma: Tensor, size: int) -> Tensor:
    """(B,) standard deviations in pixels -> (B, 1, size, size) Gaussian blurs that mirror the picture at its border."""
    weight = torch.exp(
        _square_distances(size, sigma.device) * (-0.5 / sigma.clamp_min(0.05).square())[:, None, None, None]
    )
    weight = weight.sum(1, keepdim=True)
    return weight / weight.sum(3, keepdim=True)


@functools.lru_cache(maxsize=16)
def _square_distances(size: int, device: torch.device) -> Tensor:
    """(3, size, size) squared distance from pixel i to pixel j and to its mirror images beyond both borders."""
    with torch.inference_mode(False):
        i, j = torch.arange(size)[:, None], torch.arange(size)[None]
        away = torch.stack([i - j, i + j, 2 * (size - 1) - j - i]).float()
        seen = torch.stack([j >= 0, j > 0, j < size - 1]).expand_as(away) & (away.abs() <= _BLUR_RADIUS)
        return torch.where(seen, away.square(), 1e9).to(device)


def shrinking(share: Tensor, size: int, largest: float) -> tuple[Tensor, Tensor]:
    """Matrices that make pictures smaller, with antialiasing, and large again.

    Args:
        share: (B,) of the size that is left, at most `largest`.
        size: Of the pictures.
        largest: Bound, below 1.

    Returns:
        (B, 1, size, K) and (B, 1, K, size), whose product is `F.interpolate` down and up, bilinear.
    """
    most = math.ceil(largest * size)
    full, few = (torch.arange(n, device=share.device, dtype=share.dtype) for n in (size, most))
    small = (share * size).floor().clamp(min(8, most), most)[:, None, None, None]
    factor = small / size
    down = (1 - ((full + 0.5) * factor - (few + 0.5)[:, None]).abs()).clamp_min(0)
    down = down / down.sum(3, keepdim=True).clamp_min(1e-6)
    source = torch.minimum(((full[:, None] + 0.5) * factor - 0.5).clamp_min(0), small - 1)
    return (1 - (source - few).abs()).clamp_min(0), down


def block_cosines(size: int, like: Tensor) -> Tensor:
    """(size, size) orthonormal cosine transform of blocks of eight."""
    return _block_cosines(size, like.device, like.dtype)


@functools.lru_cache(maxsize=16)
def _block_cosines(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        k = torch.arange(8, dtype=torch.float64)
        rows = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) * 0.5
        rows[0] /= math.sqrt(2)
        return torch.block_diag(*([rows] * (size // 8))).to(device, dtype)
