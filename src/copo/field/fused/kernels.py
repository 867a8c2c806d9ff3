"""Triton kernels of the ray march: tri-plane sampling, decoder and compositing without a value per sample in memory.

Imported only where Triton is used. `march.py` holds the functions that people call, `field/render.py` the plain PyTorch
twin whose semantics these kernels follow.

A program holds RAYS neighbouring rays by STEPS consecutive samples, one tile row per sample, and walks along the rays.
Plane features are read in half precision with the channels of a texel side by side (64 bytes for 32 channels), blended
in float32, and go through the decoder's two matrix products on the tensor cores. What leaves a program is a row per
ray. The one exception is `place_samples`, which writes the depths of the samples: one number each, which the march
reads and its backward pass reads again.

The output layer of the decoder is a tile "heads" with the columns
    0 density | 1-3 colours | 4 .. 4 + K - 1 class logits | zeros up to a power of two, at least one.
The features that have no activation are not in it: their weighted sum along a ray is their linear layer applied to the
weighted sum of hidden vectors, once per ray. Composited rows use the same columns: 0 depth | 1-3 colours | classes |
4 + K opacity.
"""

from __future__ import annotations

import triton
import triton.language as tl

COLOUR_SCALE = tl.constexpr(1.002)  # published decoder: sigmoid x 1.002 - 0.001
COLOUR_OFFSET = tl.constexpr(-0.001)
PDF_FLOOR = tl.constexpr(1e-5)  # published importance sampling: see field/sampling.py
NEGATIVE = tl.constexpr(-1e30)


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


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
    u = u[:, None]
    v = v[:, None]
    above = tl.load(at).to(tl.float32) * (1.0 - u) + tl.load(at + stride_x).to(tl.float32) * u
    below = tl.load(at + stride_y).to(tl.float32) * (1.0 - u) + tl.load(at + stride_y + stride_x).to(tl.float32) * u
    return above * (1.0 - v) + below * v


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
def load_ray(vectors, image, rays, n_rays):
    """Three (RAYS,) components; rays beyond the last repeat the last."""
    at = vectors + (image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)) * 3
    return tl.load(at), tl.load(at + 1), tl.load(at + 2)


@triton.jit
def inside_box(x, y, z, box):
    return (tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)) <= box).to(tl.float32)


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
        e = tl.exp(logits - tl.max(logits, axis=1)[:, None])
        p = tl.sum(tl.where(chosen[None, :], e, 0.0), axis=1) / tl.sum(e, axis=1)
        rise = tl.minimum(tl.maximum((p - 0.5) / softness + 0.5, 0.0), 1.0)
        share = rise * rise * (3.0 - 2.0 * rise)
    return share


@triton.jit
def column_of(tile, columns, index):
    return tl.sum(tl.where((columns == index)[None, :], tile, 0.0), axis=1)


@triton.jit
def head_values(heads, t, columns, K: tl.constexpr):
    """What a sample adds to its ray, before its weight: (M, NH) head pre-activations, (M,) depths -> (M, NH)."""
    is_class = class_columns(columns, K)[None, :]
    top = tl.max(tl.where(is_class, heads, NEGATIVE), axis=1)
    e = tl.exp(tl.where(is_class, heads - top[:, None], -heads))  # exp(-x) gives the colours' sigmoid
    total = tl.sum(tl.where(is_class, e, 0.0), axis=1)
    values = tl.where(is_class, e / total[:, None], COLOUR_SCALE / (1.0 + e) + COLOUR_OFFSET)
    values = tl.where((columns == 0)[None, :], t[:, None], values)
    return tl.where((columns < 4 + K)[None, :], values, (columns == 4 + K).to(tl.float32)[None, :])


@triton.jit
def place_samples(
    planes, static, origins, directions, w1, b1, heads_w, heads_b, coarse_random, quantiles, depths,
    n_rays, n_coarse, n_fine, size, stride_b, stride_p, stride_y, stride_x, scale, box, near, far, distance,
    last_step, class_bits, softness,
    C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, RAYS: tl.constexpr, NC: tl.constexpr,
    NF: tl.constexpr, BLEND: tl.constexpr, CLIP: tl.constexpr, JITTER: tl.constexpr, MERGE: tl.constexpr,
):  # fmt: skip
    """Coarse densities, importance samples, and both sets of depths merged in order: (B, R, n_coarse + n_fine).

    With MERGE off only the fine depths are written, (B, R, n_fine). BLEND 3 places by the static field alone.
    """
    rays = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    image = tl.program_id(1)
    ox, oy, oz = load_ray(origins, image, rays, n_rays)
    dx, dy, dz = load_ray(directions, image, rays, n_rays)
    row = image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)

    i = tl.arange(0, NC)
    start = tl.sqrt(ox * ox + oy * oy + oz * oz) - distance + near
    step = (far - near) / (n_coarse - 1)
    t = start[:, None] + step * i[None, :].to(tl.float32)
    t_next = t + step
    if JITTER:
        at = coarse_random + row[:, None] * n_coarse + i[None, :]
        t += step * (tl.load(at, mask=i[None, :] < n_coarse, other=0.5) - 0.5)
        t_next += step * (tl.load(at + 1, mask=i[None, :] < n_coarse - 1, other=0.5) - 0.5)

    M: tl.constexpr = RAYS * NC
    x = tl.reshape(ox[:, None] + dx[:, None] * t, (M,))
    y = tl.reshape(oy[:, None] + dy[:, None] * t, (M,))
    z = tl.reshape(oz[:, None] + dz[:, None] * t, (M,))
    channels = tl.arange(0, C)
    c = tl.arange(0, C)
    h = tl.arange(0, HID)
    w1_tile = tl.load(w1 + c[:, None] * HID + h[None, :])
    b1_tile = tl.load(b1 + h)
    density_row = tl.load(heads_w + h * NH).to(tl.float32)
    density_bias = tl.load(heads_b)
    planes += image.to(tl.int64) * stride_b
    hidden = hidden_layer(plane_features(planes, x, y, z, scale, size, stride_p, stride_y, stride_x, channels), w1_tile, b1_tile)
    density = softplus(tl.sum(hidden * density_row[None, :], axis=1) + density_bias)
    if BLEND > 0:
        columns = tl.arange(0, NH)
        static += image.to(tl.int64) * stride_b
        still = hidden_layer(plane_features(static, x, y, z, scale, size, stride_p, stride_y, stride_x, channels), w1_tile, b1_tile)
        still_density = softplus(tl.sum(still * density_row[None, :], axis=1) + density_bias)
        heads_tile = tl.load(heads_w + h[:, None] * NH + columns[None, :])
        heads = tl.dot(still.to(heads_tile.dtype), heads_tile) + tl.load(heads_b + columns)[None, :]
        share = static_share(heads, columns, class_bits, softness, K, BLEND)
        density = share * still_density + (1.0 - share) * density
    if CLIP:
        density *= inside_box(x, y, z, box)

    density = tl.reshape(density, (RAYS, NC))
    is_last = (i == n_coarse - 1)[None, :]
    thickness = tl.where(is_last, last_step, t_next - t) * density
    passing = tl.where((i < n_coarse - 1)[None, :], thickness, 0.0)
    light = tl.exp(passing - tl.cumsum(passing, axis=1))
    weights = (1.0 - tl.exp(-thickness)) * light

    # Edges of the bins lie between coarse depths; the first and the last weight are not used.
    mass = tl.where(((i > 0) & (i < n_coarse - 1))[None, :], weights + 2.0 * PDF_FLOOR, 0.0)
    cdf = tl.cumsum(mass, axis=1) / tl.sum(mass, axis=1)[:, None]
    edge = 0.5 * (t + t_next)
    is_edge = (i < n_coarse - 1)[None, :, None]

    j = tl.arange(0, NF)
    if JITTER:
        u = tl.load(quantiles + row[:, None] * n_fine + j[None, :], mask=j[None, :] < n_fine, other=1.0)
    else:
        u = tl.broadcast_to((j.to(tl.float32) / tl.maximum(n_fine - 1, 1))[None, :], (RAYS, NF))
        u = tl.minimum(u, 1.0)
    above = tl.sum(((cdf[:, :, None] < u[:, None, :]) & is_edge).to(tl.int32), axis=1)
    below = tl.maximum(above - 1, 0)
    above = tl.minimum(above, n_coarse - 2)
    cdf_low = tl.gather(cdf, below, axis=1)
    edge_low = tl.gather(edge, below, axis=1)
    rise = tl.gather(cdf, above, axis=1) - cdf_low
    rise = tl.where(rise < PDF_FLOOR, 1.0, rise)
    fine = edge_low + (u - cdf_low) / rise * (tl.gather(edge, above, axis=1) - edge_low)
    fine = tl.associative_scan(fine, 1, larger)  # rounding must not break the order

    ok = (rays < n_rays)[:, None]
    if MERGE:
        # The place of a sample among all is its place in its own set plus the number of earlier ones in the other.
        earlier_fine = tl.sum(((fine[:, None, :] < t[:, :, None]) & (j < n_fine)[None, None, :]).to(tl.int32), axis=2)
        earlier_coarse = tl.sum(((t[:, :, None] <= fine[:, None, :]) & (i < n_coarse)[None, :, None]).to(tl.int32), axis=1)
        base = depths + row[:, None] * (n_coarse + n_fine)
        tl.store(base + i[None, :] + earlier_fine, t, mask=ok & (i < n_coarse)[None, :])
        tl.store(base + j[None, :] + earlier_coarse, fine, mask=ok & (j < n_fine)[None, :])
    else:
        tl.store(depths + row[:, None] * n_fine + j[None, :], fine, mask=ok & (j < n_fine)[None, :])


@triton.jit
def sample_tile(
    planes, static, ox, oy, oz, dx, dy, dz, depths, row, start, n_samples, size, stride_p, stride_y, stride_x, scale,
    box, last_step, class_bits, softness, w1, b1, heads_w, heads_b,
    C: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, RAYS: tl.constexpr, STEPS: tl.constexpr, BLEND: tl.constexpr,
    CLIP: tl.constexpr,
):  # fmt: skip
    """One tile of samples decoded: depth (M,), step length (M,), dynamic and blended hidden layer (M, HID), head
    pre-activations (M, NH) and density (M,). Rows past the last sample have density 0."""
    M: tl.constexpr = RAYS * STEPS
    i = start + tl.arange(0, STEPS)
    at = depths + row[:, None] * n_samples + tl.minimum(i, n_samples - 1)[None, :]
    t = tl.load(at)
    step = tl.where((i < n_samples - 1)[None, :], tl.load(at + 1, mask=(i < n_samples - 1)[None, :], other=0.0) - t, last_step)
    x = tl.reshape(ox[:, None] + dx[:, None] * t, (M,))
    y = tl.reshape(oy[:, None] + dy[:, None] * t, (M,))
    z = tl.reshape(oz[:, None] + dz[:, None] * t, (M,))
    exists = tl.reshape(tl.broadcast_to((i < n_samples).to(tl.float32)[None, :], (RAYS, STEPS)), (M,))
    channels = tl.arange(0, C)
    columns = tl.arange(0, NH)
    hidden = hidden_layer(plane_features(planes, x, y, z, scale, size, stride_p, stride_y, stride_x, channels), w1, b1)
    if BLEND > 0:
        still = hidden_layer(plane_features(static, x, y, z, scale, size, stride_p, stride_y, stride_x, channels), w1, b1)
        still_heads = tl.dot(still.to(heads_w.dtype), heads_w) + heads_b[None, :]
        share = static_share(still_heads, columns, class_bits, softness, K, BLEND)
        heads = tl.dot(hidden.to(heads_w.dtype), heads_w) + heads_b[None, :]
        part = share * softplus(column_of(still_heads, columns, 0))
        density = part + (1.0 - share) * softplus(column_of(heads, columns, 0))
        if BLEND == 2:
            share = tl.where((share == 0.0) | (share == 1.0), share, part / tl.maximum(density, 1e-12))
        shown = share[:, None] * still + (1.0 - share[:, None]) * hidden
        heads = tl.dot(shown.to(heads_w.dtype), heads_w) + heads_b[None, :]
    else:
        shown = hidden
        heads = tl.dot(hidden.to(heads_w.dtype), heads_w) + heads_b[None, :]
        density = softplus(column_of(heads, columns, 0))
    if CLIP:
        density *= inside_box(x, y, z, box)
    return tl.reshape(t, (M,)), step, hidden, shown, heads, density * exists


@triton.jit
def march_forward(
    planes, static, origins, directions, depths, w1, b1, heads_w, heads_b, hidden_sum, row_sum,
    n_rays, n_samples, size, stride_b, stride_p, stride_y, stride_x, scale, box, last_step, cutoff, class_bits, softness,
    C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, RAYS: tl.constexpr, STEPS: tl.constexpr,
    BLEND: tl.constexpr, CLIP: tl.constexpr, STOP: tl.constexpr, DYNAMIC_LABELS: tl.constexpr,
):  # fmt: skip
    """Rays -> weighted sums along them: hidden vectors (B, R, HID) and the row described above (B, R, NH), float32."""
    M: tl.constexpr = RAYS * STEPS
    rays = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    image = tl.program_id(1)
    row = image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)
    ox, oy, oz = load_ray(origins, image, rays, n_rays)
    dx, dy, dz = load_ray(directions, image, rays, n_rays)
    planes += image.to(tl.int64) * stride_b
    static += image.to(tl.int64) * stride_b
    c = tl.arange(0, C)
    h = tl.arange(0, HID)
    columns = tl.arange(0, NH)
    w1_tile = tl.load(w1 + c[:, None] * HID + h[None, :])
    b1_tile = tl.load(b1 + h)
    heads_tile = tl.load(heads_w + h[:, None] * NH + columns[None, :])
    bias_tile = tl.load(heads_b + columns)

    hidden_acc = tl.zeros((RAYS, HID), tl.float32)
    row_acc = tl.zeros((RAYS, NH), tl.float32)
    passed = tl.zeros((RAYS,), tl.float32)  # optical thickness behind which the tile lies
    start = 0
    going = True
    while going:
        t, step, dynamic, hidden, heads, density = sample_tile(
            planes, static, ox, oy, oz, dx, dy, dz, depths, row, start, n_samples, size, stride_p, stride_y, stride_x,
            scale, box, last_step, class_bits, softness, w1_tile, b1_tile, heads_tile, bias_tile, C, NH, K, RAYS, STEPS, BLEND, CLIP,
        )  # fmt: skip
        thickness = step * tl.reshape(density, (RAYS, STEPS))
        is_last = (start + tl.arange(0, STEPS) >= n_samples - 1)[None, :]
        passing = tl.where(is_last, 0.0, thickness)
        weights = (1.0 - tl.exp(-thickness)) * tl.exp(passing - tl.cumsum(passing, axis=1) - passed[:, None])
        passed += tl.sum(passing, axis=1)
        if DYNAMIC_LABELS:
            labels = head_values(tl.dot(dynamic.to(heads_tile.dtype), heads_tile) + bias_tile[None, :], t, columns, K)
            values = tl.where((columns >= 4)[None, :], labels, head_values(heads, t, columns, K))
        else:
            values = head_values(heads, t, columns, K)
        hidden_acc += tl.sum(tl.reshape(hidden, (RAYS, STEPS, HID)) * weights[:, :, None], axis=1)
        row_acc += tl.sum(tl.reshape(values, (RAYS, STEPS, NH)) * weights[:, :, None], axis=1)
        start += STEPS
        going = start < n_samples
        if STOP:
            going = going & (tl.min(passed, axis=0) < cutoff)

    ok = (rays < n_rays)[:, None]
    tl.store(hidden_sum + row[:, None] * HID + h[None, :], hidden_acc, mask=ok)
    tl.store(row_sum + row[:, None] * NH + columns[None, :], row_acc, mask=ok)


@triton.jit
def scatter(grad, column, row, u, v, value, stride_y, stride_x, channels):
    """Add (M, C) gradients to the four texels of one plane."""
    at = grad + (row * stride_y + column * stride_x)[:, None] + channels[None, :]
    u = u[:, None]
    v = v[:, None]
    above = value * (1.0 - v)
    below = value * v
    tl.atomic_add(at, above * (1.0 - u), sem="relaxed")
    tl.atomic_add(at + stride_x, above * u, sem="relaxed")
    tl.atomic_add(at + stride_y, below * (1.0 - u), sem="relaxed")
    tl.atomic_add(at + stride_y + stride_x, below * u, sem="relaxed")


@triton.jit
def march_backward(
    planes, origins, directions, depths, w1, b1, heads_w, heads_b, hidden_sum, row_sum, hidden_grad, row_grad,
    planes_grad, w1_grad, b1_grad, heads_w_grad, heads_b_grad,
    n_rays, n_tiles, n_samples, size, stride_b, stride_p, stride_y, stride_x, scale, box, last_step,
    C: tl.constexpr, HID: tl.constexpr, NH: tl.constexpr, K: tl.constexpr, RAYS: tl.constexpr, STEPS: tl.constexpr,
    CLIP: tl.constexpr, GRAD: tl.constexpr,
):  # fmt: skip
    """Gradients of the planes (B, H, W, 3, C) float32, which must be zero before, and of the decoder.

    The samples are decoded again. Programs stay and take one tile of rays after the other, so that each adds its share
    of the decoder's gradients to memory once, in its own slice of the `*_grad` buffers. The suffix sums that the
    gradient of a density needs are the ray's total less the running prefix. GRAD is the type of gradients that enter
    matrix products.
    """
    M: tl.constexpr = RAYS * STEPS
    c = tl.arange(0, C)
    h = tl.arange(0, HID)
    columns = tl.arange(0, NH)
    w1_tile = tl.load(w1 + c[:, None] * HID + h[None, :])
    b1_tile = tl.load(b1 + h)
    heads_tile = tl.load(heads_w + h[:, None] * NH + columns[None, :])
    bias_tile = tl.load(heads_b + columns)
    w1_acc = tl.zeros((C, HID), tl.float32)
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
        row = image.to(tl.int64) * n_rays + tl.minimum(rays, n_rays - 1)
        ox, oy, oz = load_ray(origins, image, rays, n_rays)
        dx, dy, dz = load_ray(directions, image, rays, n_rays)
        source = planes + image.to(tl.int64) * stride_b
        target = planes_grad + image.to(tl.int64) * (3 * size * size * C)
        ok = (rays < n_rays)[:, None]
        g_hidden = tl.load(hidden_grad + row[:, None] * HID + h[None, :], mask=ok, other=0.0)
        g_row = tl.load(row_grad + row[:, None] * NH + columns[None, :], mask=ok, other=0.0)
        rest = tl.sum(g_hidden * tl.load(hidden_sum + row[:, None] * HID + h[None, :]), axis=1)
        rest += tl.sum(g_row * tl.load(row_sum + row[:, None] * NH + columns[None, :]), axis=1)
        passed = tl.zeros((RAYS,), tl.float32)
        start = 0
        while start < n_samples:
            i = start + tl.arange(0, STEPS)
            at = depths + row[:, None] * n_samples + tl.minimum(i, n_samples - 1)[None, :]
            t = tl.load(at)
            before_last = (i < n_samples - 1)[None, :]
            step = tl.where(before_last, tl.load(at + 1, mask=before_last, other=0.0) - t, last_step)
            x = tl.reshape(ox[:, None] + dx[:, None] * t, (M,))
            y = tl.reshape(oy[:, None] + dy[:, None] * t, (M,))
            z = tl.reshape(oz[:, None] + dz[:, None] * t, (M,))
            exists = tl.reshape(tl.broadcast_to((i < n_samples).to(tl.float32)[None, :], (RAYS, STEPS)), (M,))
            if CLIP:
                exists *= inside_box(x, y, z, box)
            features = plane_features(source, x, y, z, scale, size, stride_p, stride_y, stride_x, c)
            hidden = hidden_layer(features, w1_tile, b1_tile)
            heads = tl.dot(hidden.to(heads_tile.dtype), heads_tile) + bias_tile[None, :]
            density = softplus(column_of(heads, columns, 0))
            slope = (1.0 - tl.exp(-density)) * exists  # derivative of softplus
            values = head_values(heads, tl.reshape(t, (M,)), columns, K)

            thickness = step * tl.reshape(density * exists, (RAYS, STEPS))
            passing = tl.where(before_last, thickness, 0.0)
            light = tl.exp(passing - tl.cumsum(passing, axis=1) - passed[:, None])
            passed += tl.sum(passing, axis=1)
            faded = tl.exp(-thickness)
            weights = (1.0 - faded) * light

            # Gradient of each weight, then of each density: what the sample shows less all that it hides.
            values_3d = tl.reshape(values, (RAYS, STEPS, NH))
            worth = tl.sum(values_3d * g_row[:, None, :], axis=2)
            worth += tl.sum(tl.reshape(hidden, (RAYS, STEPS, HID)) * g_hidden[:, None, :], axis=2)
            shown = weights * worth
            hides = rest[:, None] - tl.cumsum(shown, axis=1)
            rest -= tl.sum(shown, axis=1)
            d_thickness = light * faded * worth - tl.where(before_last, hides, 0.0)
            d_density = tl.reshape(tl.where(thickness > 0, step * d_thickness, 0.0), (M,))

            # Through the activations of the heads.
            g = tl.reshape(weights[:, :, None] * g_row[:, None, :], (M, NH))
            along = tl.sum(tl.where(is_class, values * g, 0.0), axis=1)
            s = (values - COLOUR_OFFSET) / COLOUR_SCALE
            d_heads = tl.where(is_class, values * (g - along[:, None]), 0.0)
            d_heads = tl.where(is_colour, g * COLOUR_SCALE * s * (1.0 - s), d_heads)
            d_heads = tl.where((columns == 0)[None, :], (d_density * slope)[:, None], d_heads)
            d_hidden = tl.dot(d_heads.to(GRAD), tl.trans(heads_tile).to(GRAD))
            d_hidden += tl.reshape(weights[:, :, None] * g_hidden[:, None, :], (M, HID))
            d_pre = d_hidden * (1.0 - tl.exp(-hidden))
            heads_acc += tl.dot(tl.trans(hidden.to(GRAD)), d_heads.to(GRAD))
            bias_acc += tl.sum(d_heads, axis=0)
            w1_acc += tl.dot(tl.trans(features.to(GRAD)), d_pre.to(GRAD))
            b1_acc += tl.sum(d_pre, axis=0)
            d_features = tl.dot(d_pre.to(GRAD), tl.trans(w1_tile).to(GRAD))

            ix, fx = texel(x, scale, size)
            iy, fy = texel(y, scale, size)
            iz, fz = texel(z, scale, size)
            scatter(target, ix, iz, fx, fz, d_features, size * 3 * C, 3 * C, c)
            scatter(target + C, ix, iy, fx, fy, d_features, size * 3 * C, 3 * C, c)
            scatter(target + 2 * C, iy, iz, fy, fz, d_features, size * 3 * C, 3 * C, c)
            start += STEPS
        tile += tl.num_programs(0)

    mine = tl.program_id(0)
    tl.store(w1_grad + mine * (C * HID) + c[:, None] * HID + h[None, :], w1_acc)
    tl.store(b1_grad + mine * HID + h, b1_acc)
    tl.store(heads_w_grad + mine * (HID * NH) + h[:, None] * NH + columns[None, :], heads_acc)
    tl.store(heads_b_grad + mine * NH + columns, bias_acc)
