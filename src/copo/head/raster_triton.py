"""Triton kernel of the rasteriser; its plain twin is `copo.head.raster._draw`, and both give the same bits.

One program draws one triangle: it walks over the triangle's box of pixels in blocks and lowers the depth buffer by
atomic minima. Multiply-add fusion is off and division is rounded as PyTorch's, so that edges shared by two triangles
are decided alike and pictures do not depend on the backend.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64


@triton.jit
def _nudged(edge, px, py, pz, qx, qy, qz):  # type: ignore[no-untyped-def]
    """See `copo.head.raster._nudged`."""
    right = py * qz - pz * qy
    down = pz * qx - px * qz
    return tl.where(edge != 0, edge, tl.where(right != 0, right, down))


@triton.jit
def _draw_kernel(  # type: ignore[no-untyped-def]
    buffer, corners, boxes, orientation, faces, pixels, width, near, far, BLOCK: tl.constexpr
):
    triangle = tl.program_id(0)
    box = boxes + triangle.to(tl.int64) * 4
    first_x, first_y = tl.load(box), tl.load(box + 1)
    box_w, box_h = tl.load(box + 2), tl.load(box + 3)
    total = box_w * box_h
    if total > 0:
        image = triangle // faces
        face = triangle - image * faces
        sign = tl.load(orientation + face)
        at = corners + triangle.to(tl.int64) * 9
        ax0, ay0, az = tl.load(at), tl.load(at + 1), tl.load(at + 2)
        bx0, by0, bz = tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)
        cx0, cy0, cz = tl.load(at + 6), tl.load(at + 7), tl.load(at + 8)
        target = buffer + image.to(tl.int64) * pixels
        start = 0
        while start < total:
            offset = start + tl.arange(0, BLOCK)
            row = first_y + offset // box_w
            column = first_x + offset % box_w
            px, py = column.to(tl.float32) + 0.5, row.to(tl.float32) + 0.5
            ax, ay = ax0 - px * az, ay0 - py * az
            bx, by = bx0 - px * bz, by0 - py * bz
            cx, cy = cx0 - px * cz, cy0 - py * cz
            ab = ax * by - ay * bx
            bc = bx * cy - by * cx
            ac = ax * cy - ay * cx
            area = ab + bc - ac
            depth = tl.math.div_rn(bc * az - ac * bz + ab * cz, tl.where(area != 0, area, 1.0))
            ab = _nudged(ab, ax, ay, az, bx, by, bz)
            bc = _nudged(bc, bx, by, bz, cx, cy, cz)
            ac = _nudged(ac, ax, ay, az, cx, cy, cz)
            front = ab > 0
            inside = (front == (bc > 0)) & (front == (ac < 0)) & (ab != 0) & (bc != 0) & (ac != 0)
            inside &= (sign == 0) | (front == (sign < 0))
            inside &= (area != 0) & (depth >= near) & (depth <= far) & (offset < total)
            key = (depth.to(tl.int32, bitcast=True).to(tl.int64) << 32) | face
            # "!= 0": the interpreter of Triton 3.9 makes integers of conditions that mix scalars and blocks
            tl.atomic_min(target + row * width + column, key, mask=inside != 0, sem="relaxed")
            start += BLOCK


def draw(
    buffer: Tensor, corners: Tensor, boxes: Tensor, orientation: Tensor, width: int, near: float, far: float
) -> None:
    """Lower `buffer` to the nearest (depth bits << 32 | triangle) of every pixel.

    Args:
        buffer: (B, H * W) int64, changed in place.
        corners: (B, F, 3, 3) float32 in pixel space, corners in the order of their vertex indices.
        boxes: (B, F, 4) int32: first column, first row, width, height of the pixels to test.
        orientation: (F,) 0 to draw both sides, else the sign of the corners' reordering: draw front sides only.
        width: Width of the picture.
        near: Nearest depth.
        far: Farthest depth.
    """
    batch, faces = corners.shape[:2]
    with torch.cuda.device_of(buffer):
        _draw_kernel[(batch * faces,)](
            buffer,
            corners.contiguous(),
            boxes.contiguous(),
            orientation.int().contiguous(),
            faces,
            buffer.shape[1],
            width,
            near,
            far,
            BLOCK=_BLOCK,
            num_warps=1,
            enable_fp_fusion=False,
        )
