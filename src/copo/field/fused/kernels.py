"""Triton kernels of the ray march: tri-plane sampling, decoder and compositing without a vector per sample in memory.

Imported only where Triton is used. `march.py` holds the functions that people call, `field/render.py` the plain PyTorch
twin whose semantics these kernels follow.

A program of the march holds RAYS neighbouring rays and takes one sample of each at a time, front to back: a tile has
one row per ray, sums along rays stay in registers and need no exchange between threads. Plane features are read in half
precision with the channels of a texel side by side (64 bytes for 32 channels), blended in float32, and go through the
decoder's matrix products on the tensor cores. What leaves a program is a row per ray. Per sample there are only
numbers: the density of coarse samples (`densities`) and the depths (`place_samples`). Loops are `while` loops because
Triton's interpreter, which the tests use without a GPU, cannot take a range from an argument.

The output layer of the decoder is a tile "heads" with the columns
    0 density | 1-3 colours | 4 .. 4 + K - 1 class logits | zeros up to a power of two, at least one.
The features that have no activation are not in it: their weighted sum along a ray is their linear layer applied to the
weighted sum of hidden vectors, once per ray. Composited rows use the same columns: 0 depth | 1-3 colours | classes |
4 + K opacity.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from copo.field.fused import interpreted

COLOUR_SCALE = tl.constexpr(1.002)  # published decoder: sigmoid x 1.002 - 0.001
COLOUR_OFFSET = tl.constexpr(-0.001)
PDF_FLOOR = tl.constexpr(1e-5)  # published importance sampling: see field/sampling.py
NEGATIVE = tl.constexpr(-1e30)
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


if interpreted():

    @triton.jit
    def log2(x):
        return tl.log2(x)

else:

    @triton.jit
    def log2(x):
        return libdevice.fast_log2f(x)  # one instruction; tl.log2 is a polynomial of two dozen


@triton.jit
def exp(x):
    return tl.exp2(x * LOG2_E)  # tl.exp also takes care of denormal numbers, in three more instructions


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + LN_2 * log2(1.0 + exp(-tl.abs(x)))


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def texel(coordinate, scale, size):
    """World coordinates to the lower texel of each and the share of the next (corners aligned, border clamped)."""
    x = (tl.minimum(tl.maximum(coordinate * scale, -1.0), 1.0) + 1.0) * (0.5 * (size - 1))
    low = tl.minimum(tl.floor(x), size - 2.0)
    return low.to(tl.int32), x - low


@triton.jit
def bilinear(plane, column, row, u, v, stride_y, stride_x, channels):
    """One plane at (M,) texels -> (M, C) float32."""
    at = plane + (row * stride_y + column * stride_x)[:, None] + channels[None, :]
    both = u * v
    f = tl.load(at).to(tl.float32) * (1.0 - u - v + both)[:, None]
    f += tl.load(at + stride_x).to(tl.float32) * (u - both)[:, None]
    f += tl.load(at + stride_y).to(tl.float32) * (v - both)[:, None]
    f += tl.load(at + stride_y + stride_x).to(tl.float32) * both[:, None]
    return f


@triton.jit
def plane_features(planes, x, y, z, scale, size, stride_p, stride_y, stride_x, channels):
    """Sum of the planes xz, xy, yz (first named coordinate along the width) at (M,) points -> (M, C) float32."""
    ix, fx = texel(x, scale, size)
    iy, fy = texel(y, scale, size)
    iz, fz = texel(z, scale, size)
    f = bilinear(planes, ix, iz, fx, fz, stride_y, stride_x, channels)
    f += bilinear(planes + stride_p, ix, iy, fx, fy, stride_y, stride_x, channels)
    f += bilinear(planes + 2 * stride_p, iy, iz, fy, fz, stride_y, stride_x, channels)
    return f


@triton.jit
def hidden_layer(features, w1, b1):
    """(M, C) -> (M, HID) float32."""
    return softplus(tl.dot(features.to(w1.dtype), w1) + b1[None, :])


@triton.jit
def head_layer(hidden, heads_w, heads_b):
    """(M, HID) -> (M, NH) float32, before activations."""
    return tl.dot(hidden.to(heads_w.dtype), heads_w) + heads_b[None, :]


@triton.jit
def load_ray(vectors, rows):
    """Three (RAYS,) components."""
    return tl.load(vectors + rows * 3), tl.load(vectors + rows * 3 + 1), tl.load(vectors + rows * 3 + 2)


@triton.jit
def load_decoder(w1, b1, heads_w, heads_b, C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr):
    c = tl.arange(0, C)
    h = tl.arange(0, HID)
    columns = tl.arange(0, NH)
    return (
        tl.load(w1 + c[:, None] * HID + h[None, :]),
        tl.load(b1 + h),
        tl.load(heads_w + h[:, None] * NH + columns[None, :]),
        tl.load(heads_b + columns),
    )


@triton.jit
def inside_box(x, y, z, box):
    return (tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)) <= box).to(tl.float32)


@triton.jit
def column_of(tile, columns, index):
    return tl.sum(tl.where((columns == index)[None, :], tile, 0.0), axis=1)


@triton.jit
def class_columns(columns, K: tl.constexpr):
    return (columns >= 4) & (columns < 4 + K)


@triton.jit
def static_share(heads, columns, class_bits, softness, K: tl.constexpr, BLEND: tl.constexpr):
    """(M,) in [0, 1]: how far a sample belongs to the static field, by that field's class logits (see `Blend.share`).
    BLEND 1 is hard, 2 is soft."""
    is_class = class_columns(columns, K)
    chosen = (((class_bits >> tl.maximum(columns - 4, 0)) & 1) == 1) & is_class
    if BLEND == 1:
        best = tl.max(tl.where(chosen[None, :], heads, NEGATIVE), axis=1)
        rest = tl.max(tl.where((is_class & (chosen == 0))[None, :], heads, NEGATIVE), axis=1)
        share = (best >= rest).to(tl.float32)
    else:
        logits = tl.where(is_class[None, :], heads, NEGATIVE)
        e = exp(logits - tl.max(logits, axis=1)[:, None])
        p = tl.sum(tl.where(chosen[None, :], e, 0.0), axis=1) / tl.sum(e, axis=1)
        rise = tl.minimum(tl.maximum((p - 0.5) / softness + 0.5, 0.0), 1.0)
        share = rise * rise * (3.0 - 2.0 * rise)
    return share


@triton.jit
def head_values(heads, t, columns, K: tl.constexpr):
    """What a sample adds to its ray, before its weight: (M, NH) head pre-activations, (M,) depths -> (M, NH)."""
    is_class = class_columns(columns, K)[None, :]
    top = tl.max(tl.where(is_class, heads, NEGATIVE), axis=1)
    e = exp(tl.where(is_class, heads - top[:, None], -heads))  # exp(-x) gives the colours' sigmoid
    total = tl.sum(tl.where(is_class, e, 0.0), axis=1)
    values = tl.where(is_class, e / total[:, None], COLOUR_SCALE / (1.0 + e) + COLOUR_OFFSET)
    values = tl.where((columns == 0)[None, :], t[:, None], values)
    return tl.where((columns < 4 + K)[None, :], values, (columns == 4 + K).to(tl.float32)[None, :])


@triton.jit
def densities(
    planes, static, origins, directions, w1, b1, heads_w, heads_b, random, out,
    n_rays, n_samples, size, stride_b, stride_p, stride_y, stride_x, still_b, scale, box, near, step, distance,
    class_bits, softness,
    C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, RAYS: tl.constexpr, BLEND: tl.constexpr,
    CLIP: tl.constexpr, JITTER: tl.constexpr,
):  # fmt: skip
    """Density at uniform (jittered) depths: (B, R, n_samples)."""
    rays = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    image = tl.program_id(1)
    rows = image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)
    ox, oy, oz = load_ray(origins, rows)
    dx, dy, dz = load_ray(directions, rows)
    start = tl.sqrt(ox * ox + oy * oy + oz * oz) - distance + near
    channels = tl.arange(0, C)
    columns = tl.arange(0, NH)
    w1_tile, b1_tile, heads_tile, bias_tile = load_decoder(w1, b1, heads_w, heads_b, C, HID, NH)
    density_row = tl.load(heads_w + tl.arange(0, HID) * NH).to(tl.float32)
    density_bias = tl.load(heads_b)
    planes += image.to(tl.int64) * stride_b
    static += image.to(tl.int64) * still_b
    i = 0
    while i < n_samples:
        t = start + step * i
        if JITTER:
            t += step * (tl.load(random + rows * n_samples + i) - 0.5)
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        features = plane_features(planes, x, y, z, scale, size, stride_p, stride_y, stride_x, channels)
        hidden = hidden_layer(features, w1_tile, b1_tile)
        density = softplus(tl.sum(hidden * density_row[None, :], axis=1) + density_bias)
        if BLEND > 0:
            features = plane_features(static, x, y, z, scale, size, stride_p, stride_y, stride_x, channels)
            still = hidden_layer(features, w1_tile, b1_tile)
            share = static_share(head_layer(still, heads_tile, bias_tile), columns, class_bits, softness, K, BLEND)
            still_density = softplus(tl.sum(still * density_row[None, :], axis=1) + density_bias)
            density = share * still_density + (1.0 - share) * density
        if CLIP:
            density *= inside_box(x, y, z, box)
        tl.store(out + rows * n_samples + i, density, mask=rays < n_rays)
        i += 1


@triton.jit
def count_below(values, keys, n_values, LENGTH: tl.constexpr):
    """How many of the first n_values of each ascending row of (R, LENGTH) are below each key of (R, K)."""
    count = tl.zeros_like(keys).to(tl.int32)
    step = LENGTH + 0
    while step > 0:
        candidate = count + step
        value = tl.gather(values, tl.minimum(candidate, LENGTH) - 1, axis=1)
        count = tl.where((candidate <= n_values) & (value < keys), candidate, count)
        step = step // 2
    return count


@triton.jit
def place_samples(
    density, origins, random, quantiles, depths,
    n_rows, n_coarse, n_fine, near, step, distance, last_step,
    RAYS: tl.constexpr, NC: tl.constexpr, NF: tl.constexpr, JITTER: tl.constexpr,
):  # fmt: skip
    """Importance samples after coarse densities (rows, n_coarse); both sets in order: depths (rows, n_coarse + n_fine).

    NC and NF are powers of two that hold the counts.
    """
    rays = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    ok = (rays < n_rows)[:, None]
    rows = tl.minimum(rays, n_rows - 1).to(tl.int64)
    ox, oy, oz = load_ray(origins, rows)
    start = tl.sqrt(ox * ox + oy * oy + oz * oz) - distance + near
    i = tl.arange(0, NC)
    number = tl.broadcast_to(i[None, :].to(tl.float32), (RAYS, NC))
    at = rows[:, None] * n_coarse + i[None, :]
    if JITTER:
        move = tl.load(random + at, mask=(i < n_coarse)[None, :], other=0.5) - 0.5
        move_next = tl.load(random + at + 1, mask=(i < n_coarse - 1)[None, :], other=0.5) - 0.5
    else:
        move = tl.zeros((RAYS, NC), tl.float32)
        move_next = move
    t = start[:, None] + step * (number + move)
    t_next = start[:, None] + step * (number + 1.0 + move_next)
    thickness = tl.where((i == n_coarse - 1)[None, :], last_step, t_next - t)
    thickness *= tl.load(density + at, mask=(i < n_coarse)[None, :], other=0.0)
    passing = tl.where((i < n_coarse - 1)[None, :], thickness, 0.0)
    weights = (1.0 - exp(-thickness)) * exp(passing - tl.cumsum(passing, axis=1))

    # The bins lie between the middles of coarse steps; the first and the last weight are not used.
    mass = tl.where(((i > 0) & (i < n_coarse - 1))[None, :], weights + 2.0 * PDF_FLOOR, 0.0)
    cdf = tl.cumsum(mass, axis=1) / tl.sum(mass, axis=1)[:, None]
    edge = 0.5 * (t + t_next)
    j = tl.arange(0, NF)
    if JITTER:
        u = tl.load(quantiles + rows[:, None] * n_fine + j[None, :], mask=(j < n_fine)[None, :], other=1.0)
    else:
        u = tl.broadcast_to(tl.minimum(j.to(tl.float32) / tl.maximum(n_fine - 1, 1), 1.0)[None, :], (RAYS, NF))
    above = count_below(cdf, u, n_coarse - 1, NC)
    below = tl.maximum(above - 1, 0)
    above = tl.minimum(above, n_coarse - 2)
    cdf_low = tl.gather(cdf, below, axis=1)
    edge_low = tl.gather(edge, below, axis=1)
    rise = tl.gather(cdf, above, axis=1) - cdf_low
    rise = tl.where(rise < PDF_FLOOR, 1.0, rise)
    fine = edge_low + (u - cdf_low) / rise * (tl.gather(edge, above, axis=1) - edge_low)
    fine = tl.associative_scan(fine, 1, larger)  # rounding must not break the order

    # The place of a sample among all is its place in its own set plus the number of earlier ones in the other. A fine
    # sample lies around the coarse one behind its lower edge; only that one needs a comparison.
    earlier_coarse = below + 1 + (tl.gather(t, below + 1, axis=1) <= fine).to(tl.int32)
    earlier_fine = count_below(earlier_coarse, tl.broadcast_to(i[None, :] + 1, (RAYS, NC)), n_fine, NF)
    base = depths + rows[:, None] * (n_coarse + n_fine)
    tl.store(base + i[None, :] + earlier_fine, t, mask=ok & (i < n_coarse)[None, :])
    tl.store(base + j[None, :] + earlier_coarse, fine, mask=ok & (j < n_fine)[None, :])


@triton.jit
def march_forward(
    planes, static, origins, directions, depths, w1, b1, heads_w, heads_b, linear_w, linear_b, out, row_sum,
    n_rays, n_samples, n_features, size, stride_b, stride_p, stride_y, stride_x, still_b, scale, box, last_step, far,
    distance,
    cutoff, class_bits, softness,
    C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, NF: tl.constexpr, RAYS: tl.constexpr,
    BLEND: tl.constexpr, CLIP: tl.constexpr, STOP: tl.constexpr, DYNAMIC_LABELS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Depths (B, R, n_samples) -> composited rows (B, R, NH) and features (B, R, n_features), float32.

    Light that passes a ray counts as seen at its far end. With STOP a program ends once all of its rays have passed the
    optical thickness `cutoff`. With SUMS the outputs are bare sums along rays, for gradients: hidden vectors
    (B, R, HID) instead of features, and depth without what the far end adds.
    """
    rays = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    image = tl.program_id(1)
    rows = image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)
    ox, oy, oz = load_ray(origins, rows)
    dx, dy, dz = load_ray(directions, rows)
    planes += image.to(tl.int64) * stride_b
    static += image.to(tl.int64) * still_b
    depths += rows * n_samples
    channels = tl.arange(0, C)
    columns = tl.arange(0, NH)
    w1_tile, b1_tile, heads_tile, bias_tile = load_decoder(w1, b1, heads_w, heads_b, C, HID, NH)
    hidden_acc = tl.zeros((RAYS, HID), tl.float32)
    row_acc = tl.zeros((RAYS, NH), tl.float32)
    passed = tl.zeros((RAYS,), tl.float32)  # optical thickness in front of the sample
    i = 0
    going = True
    while going:
        t = tl.load(depths + i)  # not carried over: loaded where needed, it need not change its layout
        t_next = tl.load(depths + tl.minimum(i + 1, n_samples - 1))
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        features = plane_features(planes, x, y, z, scale, size, stride_p, stride_y, stride_x, channels)
        hidden = hidden_layer(features, w1_tile, b1_tile)
        heads = head_layer(hidden, heads_tile, bias_tile)
        density = softplus(column_of(heads, columns, 0))
        if BLEND > 0:
            features = plane_features(static, x, y, z, scale, size, stride_p, stride_y, stride_x, channels)
            still = hidden_layer(features, w1_tile, b1_tile)
            still_heads = head_layer(still, heads_tile, bias_tile)
            share = static_share(still_heads, columns, class_bits, softness, K, BLEND)
            part = share * softplus(column_of(still_heads, columns, 0))
            density = part + (1.0 - share) * density
            if BLEND == 2:
                share = tl.where((share == 0.0) | (share == 1.0), share, part / tl.maximum(density, 1e-12))
            hidden = share[:, None] * still + (1.0 - share[:, None]) * hidden
            labels = heads
            heads = head_layer(hidden, heads_tile, bias_tile)
        if CLIP:
            density *= inside_box(x, y, z, box)
        values = head_values(heads, t, columns, K)
        if DYNAMIC_LABELS:
            values = tl.where((columns >= 4)[None, :], head_values(labels, t, columns, K), values)
        thickness = density * tl.where(i == n_samples - 1, last_step, t_next - t)
        weights = (1.0 - exp(-thickness)) * exp(-passed)
        passed += thickness
        hidden_acc += weights[:, None] * hidden
        row_acc += weights[:, None] * values
        i += 1
        going = i < n_samples
        if STOP:
            going = going & (tl.min(passed, axis=0) < cutoff)

    ok = (rays < n_rays)[:, None]
    if SUMS:
        tl.store(out + rows[:, None] * HID + tl.arange(0, HID)[None, :], hidden_acc, mask=ok)
    else:
        f = tl.arange(0, NF)
        weight = tl.load(linear_w + tl.arange(0, HID)[:, None] * NF + f[None, :])
        alpha = column_of(row_acc, columns, 4 + K)
        shown = tl.dot(hidden_acc.to(weight.dtype), weight) + alpha[:, None] * tl.load(linear_b + f)[None, :]
        for colour in tl.static_range(3):
            value = column_of(row_acc, columns, 1 + colour)
            shown = tl.where((f == colour)[None, :], value[:, None], shown)
        tl.store(out + rows[:, None] * n_features + f[None, :], shown, mask=ok & (f < n_features)[None, :])
        end = tl.sqrt(ox * ox + oy * oy + oz * oz) - distance + far
        row_acc += tl.where((columns == 0)[None, :], ((1.0 - alpha) * end)[:, None], 0.0)
    tl.store(row_sum + rows[:, None] * NH + columns[None, :], row_acc, mask=ok)


@triton.jit
def scatter(grad, column, row, u, v, value, stride_y, stride_x, channels):
    """Add (M, C) gradients to the four texels of one plane."""
    at = grad + (row * stride_y + column * stride_x)[:, None] + channels[None, :]
    both = u * v
    tl.atomic_add(at, value * (1.0 - u - v + both)[:, None], sem="relaxed")
    tl.atomic_add(at + stride_x, value * (u - both)[:, None], sem="relaxed")
    tl.atomic_add(at + stride_y, value * (v - both)[:, None], sem="relaxed")
    tl.atomic_add(at + stride_y + stride_x, value * both[:, None], sem="relaxed")


@triton.jit
def march_backward(
    planes, origins, directions, depths, w1, b1, heads_w, heads_b, hidden_sum, row_sum, hidden_grad, row_grad,
    planes_grad, w1_grad, b1_grad, heads_w_grad, heads_b_grad,
    n_rays, n_tiles, n_samples, size, stride_b, stride_p, stride_y, stride_x, scale, box, last_step,
    C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, RAYS: tl.constexpr, CLIP: tl.constexpr,
    GRAD: tl.constexpr,
):  # fmt: skip
    """Gradients of the planes (B, H, W, 3, C) float32, which must be zero before, and of the decoder.

    The samples are decoded again. Programs stay and take one tile of rays after the other, so that each writes its
    share of the decoder's gradients once, to its own slice of the `*_grad` buffers. What a density gains or loses
    depends on all that lies behind it: the ray's total less the running sum. GRAD is the type of gradients in matrix
    products.
    """
    c = tl.arange(0, C)
    h = tl.arange(0, HID)
    columns = tl.arange(0, NH)
    w1_tile, b1_tile, heads_tile, bias_tile = load_decoder(w1, b1, heads_w, heads_b, C, HID, NH)
    w1_acc = tl.zeros((HID, C), tl.float32)
    b1_acc = tl.zeros((HID,), tl.float32)
    heads_acc = tl.zeros((HID, NH), tl.float32)
    bias_acc = tl.zeros((NH,), tl.float32)
    tiles_per_image = tl.cdiv(n_rays, RAYS)
    is_class = class_columns(columns, K)[None, :]
    is_colour = ((columns >= 1) & (columns < 4))[None, :]

    tile = tl.program_id(0)
    while tile < n_tiles:
        image = tile // tiles_per_image
        rays = (tile % tiles_per_image) * RAYS + tl.arange(0, RAYS)
        rows = image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)
        ok = (rays < n_rays)[:, None]
        ox, oy, oz = load_ray(origins, rows)
        dx, dy, dz = load_ray(directions, rows)
        source = planes + image.to(tl.int64) * stride_b
        target = planes_grad + image.to(tl.int64) * (3 * size * size * C)
        g_hidden = tl.load(hidden_grad + rows[:, None] * HID + h[None, :], mask=ok, other=0.0)
        g_row = tl.load(row_grad + rows[:, None] * NH + columns[None, :], mask=ok, other=0.0)
        behind = tl.sum(g_hidden * tl.load(hidden_sum + rows[:, None] * HID + h[None, :]), axis=1)
        behind += tl.sum(g_row * tl.load(row_sum + rows[:, None] * NH + columns[None, :]), axis=1)
        passed = tl.zeros((RAYS,), tl.float32)
        at = depths + rows * n_samples
        i = 0
        while i < n_samples:
            t = tl.load(at + i)
            t_next = tl.load(at + tl.minimum(i + 1, n_samples - 1))
            is_last = i == n_samples - 1
            step = tl.where(is_last, last_step, t_next - t)
            x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
            features = plane_features(source, x, y, z, scale, size, stride_p, stride_y, stride_x, c)
            hidden = hidden_layer(features, w1_tile, b1_tile)
            heads = head_layer(hidden, heads_tile, bias_tile)
            density = softplus(column_of(heads, columns, 0))
            slope = 1.0 - exp(-density)  # derivative of softplus
            values = head_values(heads, t, columns, K)
            if CLIP:
                exists = inside_box(x, y, z, box)
                density *= exists
                slope *= exists

            # Gradient of the sample's weight, then of its density: what it shows less what it hides.
            faded = exp(-step * density)
            light = exp(-passed)
            weights = (1.0 - faded) * light
            passed += step * density
            worth = tl.sum(values * g_row, axis=1) + tl.sum(hidden * g_hidden, axis=1)
            behind -= weights * worth
            d_density = step * (light * faded * worth - tl.where(is_last, 0.0, behind))

            # Through the activations of the heads.
            g = weights[:, None] * g_row
            along = tl.sum(tl.where(is_class, values * g, 0.0), axis=1)
            s = (values - COLOUR_OFFSET) / COLOUR_SCALE
            d_heads = tl.where(is_class, values * (g - along[:, None]), 0.0)
            d_heads = tl.where(is_colour, g * COLOUR_SCALE * s * (1.0 - s), d_heads)
            d_heads = tl.where((columns == 0)[None, :], (d_density * slope)[:, None], d_heads)
            d_hidden = tl.dot(d_heads.to(GRAD), tl.trans(heads_tile).to(GRAD)) + weights[:, None] * g_hidden
            d_pre = d_hidden * (1.0 - exp(-hidden))
            heads_acc += tl.dot(tl.trans(hidden.to(GRAD)), d_heads.to(GRAD))
            bias_acc += tl.sum(d_heads, axis=0)
            w1_acc += tl.dot(tl.trans(d_pre.to(GRAD)), features.to(GRAD))
            b1_acc += tl.sum(d_pre, axis=0)
            d_features = tl.dot(d_pre.to(GRAD), tl.trans(w1_tile).to(GRAD))
            d_features = d_features.to(GRAD).to(tl.float32)  # changes its layout of threads once, not for every texel

            ix, fx = texel(x, scale, size)
            iy, fy = texel(y, scale, size)
            iz, fz = texel(z, scale, size)
            scatter(target, ix, iz, fx, fz, d_features, size * 3 * C, 3 * C, c)
            scatter(target + C, ix, iy, fx, fy, d_features, size * 3 * C, 3 * C, c)
            scatter(target + 2 * C, iy, iz, fy, fz, d_features, size * 3 * C, 3 * C, c)
            i += 1
        tile += tl.num_programs(0)

    mine = tl.program_id(0)
    tl.store(w1_grad + mine * (C * HID) + h[:, None] * C + c[None, :], w1_acc)
    tl.store(b1_grad + mine * HID + h, b1_acc)
    tl.store(heads_w_grad + mine * (HID * NH) + h[:, None] * NH + columns[None, :], heads_acc)
    tl.store(heads_b_grad + mine * NH + columns, bias_acc)
