"""Scale, bias and leaky rectifier in one pass, and doubling a picture: Triton kernels on CUDA, plain PyTorch elsewhere.

A training step without `torch.compile` spends half of its time on such small operations; these kernels give most of it
back without a compiler's start-up time. The plain twins are `plain_modulate` and `plain_double`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SLOPE = 0.2
ROWS, COLUMNS, BLOCKS = 64, 64, 8
"""Pixels and channels of a tile; tiles of one program in the backward pass."""


@functools.cache
def _have_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def fused(x: Tensor) -> bool:
    """Whether the kernels serve this picture: CUDA (or Triton's interpreter), not float16, not inside torch.compile."""
    if x.dtype not in (torch.float32, torch.bfloat16) or torch.compiler.is_compiling():
        return False
    return x.is_cuda and _have_triton() and os.environ.get("TRITON_INTERPRET", "0") != "1"


def modulate(x: Tensor, scale: Tensor | None, bias: Tensor | None, activate: bool) -> Tensor:
    """act(x * scale + bias), where act is the leaky rectifier of slope 0.2 or nothing.

    Without a scale it can be differentiated twice in x (R1 does so), with one once.

    Args:
        x: (B, C, H, W).
        scale: (B, C) or None.
        bias: (C,) or None.
        activate: Whether the rectifier follows.

    Returns:
        (B, C, H, W) in the type of `x`.
    """
    if not fused(x):
        return plain_modulate(x, scale, bias, activate)
    return modulate_fused(x, scale, bias, activate)


def plain_modulate(x: Tensor, scale: Tensor | None, bias: Tensor | None, activate: bool) -> Tensor:
    """The plain twin of `modulate`."""
    if scale is not None:
        factor = scale.to(x.dtype)[:, :, None, None]
        x = x * factor if bias is None else torch.addcmul(bias.to(x.dtype)[:, None, None], x, factor)
    elif bias is not None:
        x = x + bias.to(x.dtype)[:, None, None]
    return F.leaky_relu(x, SLOPE) if activate else x


def modulate_fused(x: Tensor, scale: Tensor | None, bias: Tensor | None, activate: bool) -> Tensor:
    """`modulate` by the kernels, wherever they run."""
    x = x.contiguous(memory_format=torch.channels_last)
    scale = None if scale is None else scale.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    if scale is None:
        assert bias is not None, "nothing to do: give a scale, a bias or both"
        out: Tensor = _Bias.apply(x, bias, activate)
    else:
        out = _Scale.apply(x, scale, bias, activate)
    return out


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), bilinear, the nearest pixel beyond the border; differentiable once on CUDA."""
    return double_fused(x) if fused(x) else plain_double(x)


def plain_double(x: Tensor) -> Tensor:
    """The plain twin of `double`."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def double_fused(x: Tensor) -> Tensor:
    """`double` by the kernels, wherever they run."""
    out: Tensor = _Double.apply(x.contiguous(memory_format=torch.channels_last))
    return out


# --- autograd ---------------------------------------------------------------------------------------------------------


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bias: Tensor | None, activate: bool) -> Tensor:
        ctx.save_for_backward(x, scale, bias)
        ctx.activate = activate
        return _forward(x, scale, bias, activate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, bias = ctx.saved_tensors
        dx, dscale, dbias = _backward(dy, x, scale, bias, bias is not None, ctx.activate)
        return dx, dscale, dbias, None


class _Bias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, activate: bool) -> Tensor:
        y = _forward(x, None, bias, activate)
        ctx.save_for_backward(y)
        ctx.activate = activate
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        dx, dbias = _BiasBackward.apply(dy, y, ctx.activate)
        return dx, dbias, None


class _BiasBackward(torch.autograd.Function):
    """Linear in dy, so that its own gradient is the same map once more; y only chooses the slope."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, y: Tensor, activate: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(y)
        ctx.activate = activate
        ctx.set_materialize_grads(False)
        dx, _, dbias = _backward(dy, y, None, None, True, activate)
        assert dbias is not None
        return dx, dbias

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_dx: Tensor | None, of_dbias: Tensor | None) -> tuple[Tensor | None, ...]:
        (y,) = ctx.saved_tensors
        if of_dbias is not None:
            along = of_dbias.to(y.dtype)[None, :, None, None]
            of_dx = along.expand_as(y) if of_dx is None else of_dx + along
        if of_dx is None:
            return None, None, None
        return _backward(of_dx, y, None, None, False, ctx.activate)[0], None, None


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = torch.empty(
            (batch, channels, 2 * height, 2 * width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        columns = _columns(channels)
        grid = (-(-4 * height * width // ROWS), batch, -(-channels // columns))
        _kernels().double[grid](x, y, height, width, channels, ROWS=ROWS, COLUMNS=columns)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        dy = dy.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = dy.shape
        height, width = height // 2, width // 2
        dx = torch.empty(
            (batch, channels, height, width), dtype=dy.dtype, device=dy.device, memory_format=torch.channels_last
        )
        columns = _columns(channels)
        grid = (-(-height * width // ROWS), batch, -(-channels // columns))
        _kernels().double_backward[grid](dy, dx, height, width, channels, ROWS=ROWS, COLUMNS=columns)
        return dx


def _forward(x: Tensor, scale: Tensor | None, bias: Tensor | None, activate: bool) -> Tensor:
    batch, channels, height, width = x.shape
    y = torch.empty_like(x, memory_format=torch.channels_last)
    columns, pixels = _columns(channels), height * width
    grid = (-(-pixels // ROWS), batch, -(-channels // columns))
    _kernels().forward[grid](
        x, scale, bias, y, pixels, channels, SCALED=scale is not None, BIASED=bias is not None, ACTIVATE=activate,
        ROWS=ROWS, COLUMNS=columns,
    )  # fmt: skip
    return y


def _backward(
    dy: Tensor, seen: Tensor, scale: Tensor | None, bias: Tensor | None, of_bias: bool, activate: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients in x, scale and bias. `bias` itself is needed beside a scale only."""
    dy = dy.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = dy.shape
    dx = torch.empty_like(dy, memory_format=torch.channels_last)
    dscale = None if scale is None else torch.zeros_like(scale)
    dbias = torch.zeros(channels, device=dy.device, dtype=torch.float32) if of_bias else None
    columns, pixels = _columns(channels), height * width
    blocks = BLOCKS if pixels >= ROWS * BLOCKS else 1
    grid = (-(-pixels // (ROWS * blocks)), batch, -(-channels // columns))
    _kernels().backward[grid](
        dy, seen, scale, bias, dx, dscale, dbias, pixels, channels, SCALED=scale is not None, BIASED=of_bias,
        ACTIVATE=activate, ROWS=ROWS, COLUMNS=columns, BLOCKS=blocks,
    )  # fmt: skip
    return dx, dscale, dbias


def _columns(channels: int) -> int:
    return min(COLUMNS, max(16, 1 << (channels - 1).bit_length()))


@functools.cache
def _kernels() -> Any:
    from copo.networks import pointwise_kernels

    return pointwise_kernels
