"""Triton kernels of `pointwise.py`: one pass over memory for what PyTorch does in three to six.

Pictures are channels-last: a row is a pixel, a column a channel. Sums over pixels are made in float32, a partial sum
for each program, added up by atomics. Imported only where Triton is used.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

SLOPE = tl.constexpr(0.2)  # StyleGAN2's leaky rectifier


@triton.jit
def forward(
    x, scale, bias, y, pixels, channels,
    SCALED: tl.constexpr, BIASED: tl.constexpr, ACTIVATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """y = act(x * scale[picture, channel] + bias[channel])."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture = tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < channels
    inside = (row < pixels)[:, None] & known[None, :]
    place = (picture.to(tl.int64) * pixels + row)[:, None] * channels + column[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        value = value * tl.load(scale + picture * channels + column, mask=known, other=0.0)[None, :]
    if BIASED:
        value = value + tl.load(bias + column, mask=known, other=0.0)[None, :]
    if ACTIVATE:
        value = tl.where(value > 0, value, value * SLOPE)
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    dy, seen, scale, bias, dx, dscale, dbias, pixels, channels,
    SCALED: tl.constexpr, BIASED: tl.constexpr, ACTIVATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradients of `forward`. `seen` is x where there is a scale, otherwise y, whose sign is that of the sum."""
    picture = tl.program_id(1)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < channels
    factor = tl.zeros([COLUMNS], tl.float32) + 1.0
    shift = tl.zeros([COLUMNS], tl.float32)
    if SCALED:
        factor = tl.load(scale + picture * channels + column, mask=known, other=0.0)
        if BIASED:
            shift = tl.load(bias + column, mask=known, other=0.0)
    of_scale = tl.zeros([COLUMNS], tl.float32)
    of_bias = tl.zeros([COLUMNS], tl.float32)
    for block in tl.static_range(BLOCKS):
        row = (tl.program_id(0) * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (row < pixels)[:, None] & known[None, :]
        place = (picture.to(tl.int64) * pixels + row)[:, None] * channels + column[None, :]
        gradient = tl.load(dy + place, mask=inside, other=0.0).to(tl.float32)
        if SCALED or ACTIVATE:
            value = tl.load(seen + place, mask=inside, other=0.0).to(tl.float32)
            if ACTIVATE:
                gradient = tl.where(value * factor[None, :] + shift[None, :] > 0, gradient, gradient * SLOPE)
            if SCALED:
                of_scale += tl.sum(gradient * value, axis=0)
        if BIASED:
            of_bias += tl.sum(gradient, axis=0)
        tl.store(dx + place, (gradient * factor[None, :]).to(dx.dtype.element_ty), mask=inside)
    if SCALED:
        tl.atomic_add(dscale + picture * channels + column, of_scale, mask=known)
    if BIASED:
        tl.atomic_add(dbias + column, of_bias, mask=known)


@triton.jit
def double(x, y, height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Bilinear upsampling by 2, the nearest pixel beyond the border. A row is an output pixel."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known = (column < channels)[None, :]
    i, j = row // (2 * width), row % (2 * width)
    inside = (i < 2 * height)[:, None] & known
    near_i, near_j = i // 2, j // 2
    far_i = tl.minimum(tl.maximum(near_i + 2 * (i % 2) - 1, 0), height - 1)
    far_j = tl.minimum(tl.maximum(near_j + 2 * (j % 2) - 1, 0), width - 1)
    start = x + picture * height * width * channels + column[None, :]
    a = tl.load(start + (near_i * width + near_j)[:, None] * channels, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(start + (near_i * width + far_j)[:, None] * channels, mask=inside, other=0.0).to(tl.float32)
    c = tl.load(start + (far_i * width + near_j)[:, None] * channels, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(start + (far_i * width + far_j)[:, None] * channels, mask=inside, other=0.0).to(tl.float32)
    value = 0.75 * (0.75 * a + 0.25 * b) + 0.25 * (0.75 * c + 0.25 * d)
    place = (picture * 4 * height * width + row)[:, None] * channels + column[None, :]
    tl.store(y + place, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def double_backward(dy, dx, height, width, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Gradient of `double`: a row is an input pixel, which four by four output pixels look at."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    picture = tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    known = (column < channels)[None, :]
    i, j = row // width, row % width
    inside = (i < height)[:, None] & known
    start = dy + picture * 4 * height * width * channels + column[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for a in tl.static_range(4):
        p = 2 * i - 1 + a
        weight_i = tl.where((a == 0) | (a == 3), 0.25, 0.75) + tl.zeros([ROWS], tl.float32)
        weight_i = tl.where((a == 1) & (i == 0), 1.0, weight_i)
        weight_i = tl.where((a == 2) & (i == height - 1), 1.0, weight_i)
        known_i = (p >= 0) & (p < 2 * height)
        for b in tl.static_range(4):
            q = 2 * j - 1 + b
            weight_j = tl.where((b == 0) | (b == 3), 0.25, 0.75) + tl.zeros([ROWS], tl.float32)
            weight_j = tl.where((b == 1) & (j == 0), 1.0, weight_j)
            weight_j = tl.where((b == 2) & (j == width - 1), 1.0, weight_j)
            seen = inside & (known_i & (q >= 0) & (q < 2 * width))[:, None]
            value = tl.load(start + (p * 2 * width + q)[:, None] * channels, mask=seen, other=0.0).to(tl.float32)
            total += value * (weight_i * weight_j)[:, None]
    place = (picture * height * width + row)[:, None] * channels + column[None, :]
    tl.store(dx + place, total.to(dx.dtype.element_ty), mask=inside)
