"""Triton kernels of the picture networks: everything around the convolutions themselves, which are cuDNN's.

A modulated layer is demodulation * conv(style * x, weight) + noise + bias, leaky rectifier. What comes before and after
the convolution reads and writes the picture once: `expand` after an upsampling convolution (whose four output phases
are channels of one convolution, see `fused/pictures.py`), `finish` after a plain one, together with the 1 x 1 layer
that turns the picture into planes, colours or the skip branch of a residual block. Each writes the picture already
multiplied by the next layer's style. Pictures are (B, H, W, C) in half precision, vectors float32.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

SLOPE = tl.constexpr(0.2)  # leaky rectifier (published networks)
CLAMP = tl.constexpr(256.0)  # bound of half-precision activations (published networks)
EPSILON = tl.constexpr(1e-8)  # of second-moment normalisation and of demodulation (published networks)


@triton.jit
def dense(x, picks, weight, bias, out, n_rows, n_inputs, stride_b, stride_i, ROWS: tl.constexpr, INPUTS: tl.constexpr,
          ACTIVATE: tl.constexpr):  # fmt: skip
    """out[b] = weight x[b, pick] + bias, where each block of ROWS rows has its own pick; INPUTS is a power of two."""
    block, image = tl.program_id(0), tl.program_id(1)
    rows = block * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, INPUTS)
    used = i < n_inputs
    vector = tl.load(x + image * stride_b + tl.load(picks + block) * stride_i + i, mask=used, other=0.0)
    exists = rows < n_rows
    tile = tl.load(weight + rows[:, None] * n_inputs + i[None, :], mask=exists[:, None] & used[None, :], other=0.0)
    y = tl.sum(tile * vector[None, :], axis=1) + tl.load(bias + rows, mask=exists, other=0.0)
    if ACTIVATE:
        y = tl.maximum(y, SLOPE * y)
    tl.store(out + image * n_rows + rows, y, mask=exists)


@triton.jit
def mapping_input(z, pose, embed, embed_bias, out, n_z, n_w, Z: tl.constexpr, W: tl.constexpr):
    """[z | embedded pose (2 numbers)], each divided by the root of its mean square."""
    image = tl.program_id(0)
    i = tl.arange(0, Z)
    v = tl.load(z + image * n_z + i, mask=i < n_z, other=0.0)
    v *= tl.rsqrt(tl.sum(v * v, axis=0) / n_z + EPSILON)
    tl.store(out + image * (n_z + n_w) + i, v, mask=i < n_z)
    j = tl.arange(0, W)
    ok = j < n_w
    w = tl.load(embed_bias + j, mask=ok, other=0.0)
    w += tl.load(embed + 2 * j, mask=ok, other=0.0) * tl.load(pose + 2 * image)
    w += tl.load(embed + 2 * j + 1, mask=ok, other=0.0) * tl.load(pose + 2 * image + 1)
    w *= tl.rsqrt(tl.sum(w * w, axis=0) / n_w + EPSILON)
    tl.store(out + image * (n_z + n_w) + n_z + j, w, mask=ok)


@triton.jit
def demodulate(
    styles, table, energy, scaled, demodulation, n_styles, n_outputs, ROWS: tl.constexpr, INPUTS: tl.constexpr
):
    """Styles to mean square 1 / fan_in, and the demodulation of ROWS output channels of one 3 x 3 layer.

    A block's row of `table` (int32): its layer's first style, number of inputs, where its rows of `energy` (weights
    squared and summed over the kernel) start, its first output channel, whether it stores the scaled styles.
    """
    block, image = tl.program_id(0), tl.program_id(1)
    entry = table + block * 5
    first = tl.load(entry)
    n_inputs = tl.load(entry + 1)
    i = tl.arange(0, INPUTS)
    used = i < n_inputs
    s = tl.load(styles + image * n_styles + first + i, mask=used, other=0.0)
    scale = tl.rsqrt(tl.sum(s * s, axis=0) / n_inputs + EPSILON) * tl.rsqrt(9.0 * n_inputs)
    s *= scale
    scales = (used & (tl.load(entry + 4) == 1)) != 0  # "!= 0": see copo.head.raster_triton
    tl.store(scaled + image * n_styles + first + i, s, mask=scales)
    rows = tl.arange(0, ROWS)
    at = energy + tl.load(entry + 2) + rows[:, None] * n_inputs + i[None, :]
    total = tl.sum(tl.load(at, mask=used[None, :], other=0.0) * (s * s)[None, :], axis=1)
    d = tl.rsqrt(total + EPSILON * scale * scale)
    tl.store(demodulation + image * n_outputs + tl.load(entry + 3) + rows, d)


@triton.jit
def activate(y, gain):
    y = tl.maximum(y, SLOPE * y) * gain
    return tl.minimum(tl.maximum(y, -CLAMP), CLAMP)


@triton.jit
def expand(
    y, demodulation, bias, noise, style, out, width, stride_d, stride_s, gain,
    C: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """After an upsampling convolution: (B, h, w, 4 phases, C) -> (B, 2h, 2w, C), activated, times the next style.

    width is that of the output; the grid covers its pixels exactly.
    """
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = tl.program_id(2)
    n_pixels = tl.num_programs(0) * PIXELS
    row, column = pixels // width, pixels % width
    source = ((row // 2) * (width // 2) + column // 2) * 4 + (row % 2) * 2 + column % 2
    start = image.to(tl.int64) * n_pixels * C
    x = tl.load(y + start + source[:, None] * C + c[None, :]).to(tl.float32)
    x = x * tl.load(demodulation + image * stride_d + c)[None, :] + tl.load(bias + c)[None, :]
    if NOISE:
        x += tl.load(noise + pixels)[:, None]
    x = activate(x, gain) * tl.load(style + image * stride_s + c)[None, :]
    tl.store(out + start + pixels[:, None] * C + c[None, :], x.to(out.dtype.element_ty))


@triton.jit
def upsampled(low, row, column, width, columns, N: tl.constexpr, EDGE: tl.constexpr):
    """Bilinear upsampling by 2 of a picture (h, w, N) -> (M, columns) at output rows and columns; beyond the border
    there are zeros, or with EDGE the nearest pixel. `width` is that of the output, which is square."""
    side = width // 2
    near_row, near_column = row // 2, column // 2
    far_row, far_column = near_row + 2 * (row % 2) - 1, near_column + 2 * (column % 2) - 1
    far_row_share = tl.where((far_row >= 0) & (far_row < side), 0.25, 0.0)
    far_column_share = tl.where((far_column >= 0) & (far_column < side), 0.25, 0.0)
    far_row = tl.minimum(tl.maximum(far_row, 0), side - 1)
    far_column = tl.minimum(tl.maximum(far_column, 0), side - 1)
    near_row_share = tl.where(EDGE & (far_row_share == 0.0), 1.0, 0.75)
    near_column_share = tl.where(EDGE & (far_column_share == 0.0), 1.0, 0.75)
    ok = (columns < N)[None, :]
    base = low + columns[None, :]
    a = tl.load(base + ((near_row * side + near_column) * N)[:, None], mask=ok, other=0.0).to(tl.float32)
    b = tl.load(base + ((near_row * side + far_column) * N)[:, None], mask=ok, other=0.0).to(tl.float32)
    c = tl.load(base + ((far_row * side + near_column) * N)[:, None], mask=ok, other=0.0).to(tl.float32)
    d = tl.load(base + ((far_row * side + far_column) * N)[:, None], mask=ok, other=0.0).to(tl.float32)
    near = a * near_column_share[:, None] + b * far_column_share[:, None]
    far = c * near_column_share[:, None] + d * far_column_share[:, None]
    return near * near_row_share[:, None] + far * far_row_share[:, None]


@triton.jit
def finish(
    y, demodulation, bias, noise, residual, style, out, weight, picture_style, picture_bias, below, picture,
    width, stride_d, stride_s, gain,
    C: tl.constexpr, N: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATE: tl.constexpr, NOISE: tl.constexpr, RESIDUAL: tl.constexpr, OUT: tl.constexpr, STYLED: tl.constexpr,
    BELOW: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """After a plain convolution: (B, H, W, C) -> x = activated y [+ upsampled residual], and from it
        out (B, H, W, C) = x times the next style,
        picture (B, H, W, N) = 1 x 1 layer of x [times its own style] + bias [+ the picture below, upsampled].

    Programs of the second grid axis share the picture's columns. The weight is stored (C, a multiple of COLUMNS).
    """
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    part = tl.program_id(1)
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    image = tl.program_id(2)
    n_pixels = tl.num_programs(0) * PIXELS
    n_columns = tl.num_programs(1) * COLUMNS
    first = image.to(tl.int64) * n_pixels
    row, column = pixels // width, pixels % width
    sums = tl.zeros((PIXELS, COLUMNS), tl.float32)
    for start in range(0, C, CHANNELS):
        c = start + tl.arange(0, CHANNELS)
        at = (first + pixels)[:, None] * C + c[None, :]
        x = tl.load(y + at).to(tl.float32)
        if ACTIVATE:
            x = x * tl.load(demodulation + image * stride_d + c)[None, :] + tl.load(bias + c)[None, :]
            if NOISE:
                x += tl.load(noise + pixels)[:, None]
            x = activate(x, gain)
        if RESIDUAL:
            x += upsampled(residual + (first // 4) * C, row, column, width, c, C, EDGE)
        if OUT:
            scaled = x * tl.load(style + image * stride_s + c)[None, :]
            tl.store(out + at, scaled.to(out.dtype.element_ty), mask=((part == 0) & (c < C)[None, :]) != 0)
        if STYLED:
            x *= tl.load(picture_style + image * stride_s + c)[None, :]
        tile = tl.load(weight + c[:, None] * n_columns + columns[None, :])
        sums += tl.dot(x.to(weight.dtype.element_ty), tile)
    sums += tl.load(picture_bias + columns)[None, :]
    if BELOW:
        sums += upsampled(below + (first // 4) * N, row, column, width, columns, N, EDGE)
    at = picture + (first + pixels)[:, None] * N + columns[None, :]
    tl.store(at, sums.to(picture.dtype.element_ty), mask=(columns < N)[None, :])
