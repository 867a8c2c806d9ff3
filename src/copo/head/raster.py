"""A triangle rasteriser in plain PyTorch: the same code on CPU and CUDA, and no compiler at install time.

How it works. Vertices go to *pixel space*, q = (z u, z v, z) with (u, v) the position in the picture in pixels. For a
sample at pixel position p every corner is moved to e = (q.x - p.x z, q.y - p.y z), and the three 2D cross products of
the moved corners are, up to one common factor, the perspective-correct barycentric coordinates of the point where the
ray through p meets the triangle (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997).
This holds for corners in front of, at and behind the camera alike, so a triangle that crosses the near plane needs no
new triangles: its fragments are tested against `near` and `far` one by one, which is the exact clipped shape.

Shared edges. The corners of a triangle are visited in the order of their vertex indices, so that both triangles at an
edge compute its cross product from the same numbers in the same order, whichever way they are wound: they disagree on
the side in every bit. A sample exactly on an edge is decided as if it were moved right by an infinitesimal amount, and
down by a still smaller one (the top-left rule). So there is neither a crack nor a pixel covered twice.

Visibility is one minimum per pixel over (depth bits << 32 | triangle): deterministic, and ties go to the lower
triangle. It is not differentiated; the barycentric coordinates and the depth of the visible triangle are, with respect
to the vertices.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from copo.errors import CopoError

Backend = Literal["auto", "torch", "triton", "nvdiffrast"]
"""Who resolves visibility: "auto" takes Triton on CUDA where it is installed, else plain PyTorch."""

EMPTY = torch.iinfo(torch.int64).max
"""Value of the depth buffer where there is no triangle."""

_CHUNK = 1 << 20
"""Most candidate fragments tested at once: bounds memory to about 150 MB."""

_SLACK, _NEAR_SLACK = 0.01, 2.0
"""Pixels by which a triangle's box grows against rounding: ordinary triangles, triangles that cross the near plane."""


@dataclass(frozen=True)
class Fragments:
    """The visible triangle at the centre of every pixel.

    Attributes:
        face: (B, H, W) int64 triangle index, -1 where there is none.
        barycentric: (B, H, W, 3) perspective-correct weights of the triangle's corners, in the order of `faces`; they
            sum to one, 0 where there is no triangle. Differentiable in the vertices.
        depth: (B, H, W) distance along the viewing axis in the unit of the vertices (metres), 0 where there is no
            triangle. Differentiable in the vertices.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, H, W) bool, where there is a triangle."""
        return self.face >= 0


def rasterize(
    vertices: Tensor,
    faces: Tensor,
    intrinsics: Tensor,
    size: int | tuple[int, int],
    near: float = 0.01,
    far: float = 100.0,
    cull_backfaces: bool = False,
    backend: Backend = "auto",
    validate: bool = True,
) -> Fragments:
    """Find the triangle that each pixel sees.

    Pixel (row i, column j) is sampled at ((j + 0.5) / W, (i + 0.5) / H) of the normalised picture.

    Args:
        vertices: (B, V, 3) camera space, x right, y down, z forward, metres.
        faces: (F, 3) int64 vertex indices, counter-clockwise seen from outside.
        intrinsics: (B, 3, 3) or (1, 3, 3), focal lengths and centre divided by width and height.
        size: Pixels: one number for a square picture, or (height, width).
        near: Nearest depth that is drawn, metres; more than 0.
        far: Farthest depth that is drawn, metres.
        cull_backfaces: Draw only triangles that are counter-clockwise in the picture.
        backend: Who resolves visibility.
        validate: Check that numbers are finite and indices in range. On CUDA this waits for the GPU once; without it,
            and with Triton, nothing waits, so that the call can be captured in a CUDA graph.

    Returns:
        The visible fragments.

    Raises:
        CopoError: A shape, size or depth range is wrong; a vertex is not finite; a face names no vertex; the backend
            is not installed or cannot do what is asked.
    """
    height, width = picture_size(size)
    _check(vertices, faces, intrinsics, near, far, validate)
    corners = _corners(to_pixel_space(vertices, intrinsics, height, width), faces)
    with torch.no_grad():
        face = _visible_face(corners.detach().float(), faces, height, width, near, far, cull_backfaces, backend)
    if not len(faces):
        empty = vertices.new_zeros(len(vertices), height, width, 3)
        return Fragments(face, empty, empty[..., 0])
    flat = face.flatten(1)
    chosen = _take(corners.flatten(2), flat.clamp_min(0)).unflatten(2, (3, 3))
    barycentric, depth = barycentrics_at(chosen, _pixel_centres(height, width, corners))
    mask = (flat >= 0).to(depth.dtype)
    shape = (len(vertices), height, width)
    return Fragments(face, (barycentric * mask[..., None]).view(*shape, 3), (depth * mask).view(shape))


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Spread values given at vertices over the picture.

    Args:
        attributes: (B, V, C), or (V, C) shared by the batch.
        faces: (F, 3) int64 into the V rows; the faces that were rasterised, or others that correspond to them one to
            one (a texture's).
        fragments: What `rasterize` returned.

    Returns:
        (B, C, H, W), 0 where there is no triangle. Differentiable in the attributes and, through the barycentric
        coordinates, in the rasterised vertices.
    """
    batch, height, width = fragments.face.shape
    if attributes.ndim == 2:
        attributes = attributes[None]
    if attributes.ndim != 3 or len(attributes) not in (1, batch):
        raise CopoError(f"attributes have shape {tuple(attributes.shape)}: expected ({batch}, V, C) or (V, C)")
    index = faces[fragments.face.clamp_min(0).flatten(1)].flatten(1)
    values = _take(attributes.expand(batch, -1, -1), index).unflatten(1, (height * width, 3))
    weights = fragments.barycentric.reshape(batch, height * width, 3, 1).to(values.dtype)
    return (values * weights).sum(dim=2).mT.unflatten(2, (height, width))


def to_pixel_space(vertices: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Camera space (B, V, 3) to q = (z u, z v, z), with (u, v) in pixels from the picture's upper left corner."""
    # A sum instead of a matrix product: reduced-precision products (TF32) would move vertices by half a pixel.
    u, v, z = (vertices[:, :, None] * intrinsics.to(vertices)[:, None]).sum(dim=-1).unbind(-1)
    return torch.stack([u * width, v * height, z], dim=-1)


def barycentrics_at(corners: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Where the rays through given pixel positions meet the planes of given triangles.

    Args:
        corners: (..., 3 corners, 3) in pixel space.
        position: (..., 2) pixel positions.

    Returns:
        (..., 3) perspective-correct barycentric coordinates and (...) depth. Both are 0 for a triangle seen edge-on.
    """
    z = corners[..., 2]
    moved_x = corners[..., 0] - position[..., 0, None] * z
    moved_y = corners[..., 1] - position[..., 1, None] * z
    (ax, bx, cx), (ay, by, cy) = moved_x.unbind(-1), moved_y.unbind(-1)
    areas = torch.stack([bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx], dim=-1)
    total = areas.sum(dim=-1, keepdim=True)
    barycentric = torch.where(total != 0, areas / torch.where(total != 0, total, 1), 0)
    return barycentric, (barycentric * z).sum(dim=-1)


# --- visibility -------------------------------------------------------------------------------------------------


def _visible_face(
    corners: Tensor,
    faces: Tensor,
    height: int,
    width: int,
    near: float,
    far: float,
    cull: bool,
    backend: Backend,
) -> Tensor:
    """(B, F, 3, 3) float32 corners in pixel space -> (B, H, W) int64 index of the visible triangle or -1."""
    batch, count = corners.shape[:2]
    if backend == "nvdiffrast":
        from copo.head import raster_nvdiffrast

        return raster_nvdiffrast.visible_face(corners, height, width, near, far, cull)
    order = faces.argsort(dim=1)
    corners = corners.gather(2, order[None, :, :, None].expand(batch, -1, -1, 3))
    boxes = _pixel_boxes(corners, height, width, near, far)
    orientation = _permutation_sign(order) if cull else torch.zeros_like(order[:, 0])
    buffer = torch.full((batch, height * width), EMPTY, dtype=torch.int64, device=corners.device)
    if count:
        if _use_triton(backend, corners):
            from copo.head import raster_triton

            raster_triton.draw(buffer, corners, boxes, orientation, width, near, far)
        else:
            _draw(buffer, corners, boxes, orientation, width, near, far)
    return torch.where(buffer == EMPTY, -1, buffer & 0xFFFFFFFF).view(batch, height, width)


def _draw(
    buffer: Tensor, corners: Tensor, boxes: Tensor, orientation: Tensor, width: int, near: float, far: float
) -> None:
    """Lower `buffer` to the nearest (depth bits << 32 | triangle) of every pixel; the twin of the Triton kernel.

    Args:
        buffer: (B, H * W) int64, changed in place.
        corners: (B, F, 3, 3) float32 in pixel space, corners in the order of their vertex indices.
        boxes: (B, F, 4) int32: first column, first row, width, height of the pixels to test.
        orientation: (F,) 0 to draw both sides, else the sign of the corners' reordering: draw front sides only.
        width: Width of the picture.
        near: Nearest depth.
        far: Farthest depth.
    """
    count = corners.shape[1]
    first_x, first_y, box_w, box_h = boxes.flatten(0, 1).long().unbind(1)
    table = corners.flatten(0, 1).flatten(1).mT.contiguous()  # (9, B F): a gather of one number at a time is fastest
    end = (box_w * box_h).cumsum(0)
    begin = end - box_w * box_h
    total = int(end[-1])
    for low in range(0, total, _CHUNK):
        high = min(low + _CHUNK, total)
        part = end.clamp(low, high) - begin.clamp(low, high)
        triangle = torch.repeat_interleave(part, output_size=high - low)
        offset = torch.arange(low, high, device=corners.device) - begin[triangle]
        row = offset // box_w[triangle]
        column = offset - row * box_w[triangle] + first_x[triangle]
        row += first_y[triangle]
        inside, depth = _test(table, triangle, column, row, orientation, count)
        hit = torch.nonzero(inside & (depth >= near) & (depth <= far)).squeeze(1)
        triangle = triangle[hit]
        image = triangle // count
        key = (depth[hit].view(torch.int32).long() << 32) | (triangle - image * count)
        pixel = (image * (buffer.shape[1] // width) + row[hit]) * width + column[hit]
        buffer.view(-1).scatter_reduce_(0, pixel, key, "amin")


def _test(
    table: Tensor, triangle: Tensor, column: Tensor, row: Tensor, orientation: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Whether the centres of pixels lie in triangles, and the depth there.

    Args:
        table: (9, T) corners of all triangles in pixel space: x, y, z of the first, second, third.
        triangle: (N,) index into T.
        column: (N,) pixel column.
        row: (N,) pixel row.
        orientation: (F,) as in `_draw`.
        count: F.

    Returns:
        (N,) bool and (N,) depth, which is only meaningful inside.
    """
    px, py = column.float() + 0.5, row.float() + 0.5
    az, bz, cz = (table[i].index_select(0, triangle) for i in (2, 5, 8))
    ax, bx, cx = (table[i].index_select(0, triangle) - px * z for i, z in ((0, az), (3, bz), (6, cz)))
    ay, by, cy = (table[i].index_select(0, triangle) - py * z for i, z in ((1, az), (4, bz), (7, cz)))
    ab, bc, ac = ax * by - ay * bx, bx * cy - by * cx, ax * cy - ay * cx
    depth = (bc * az - ac * bz + ab * cz) / (ab + bc - ac)
    tie = torch.nonzero((ab == 0) | (bc == 0) | (ac == 0)).squeeze(1)
    if len(tie):
        corner = [(x[tie], y[tie], z[tie]) for x, y, z in ((ax, ay, az), (bx, by, bz), (cx, cy, cz))]
        for edge, p, q in ((ab, 0, 1), (bc, 1, 2), (ac, 0, 2)):
            edge[tie] = _nudged(edge[tie], corner[p], corner[q])
    same = ((ab > 0) == (bc > 0)) & ((bc > 0) == (ac < 0)) & (ab != 0) & (bc != 0) & (ac != 0)
    sign = orientation[triangle % count]
    return same & ((sign == 0) | ((ab > 0) == (sign < 0))), depth


def _nudged(edge: Tensor, p: tuple[Tensor, Tensor, Tensor], q: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross product of moved corners p and q; where it is 0, its derivative as the sample moves right, else down."""
    right = p[1] * q[2] - p[2] * q[1]
    down = p[2] * q[0] - p[0] * q[2]
    return torch.where(edge != 0, edge, torch.where(right != 0, right, down))


def _pixel_boxes(corners: Tensor, height: int, width: int, near: float, far: float) -> Tensor:
    """The pixels whose centres may lie in each triangle, clipped to the near plane and the picture.

    Args:
        corners: (B, F, 3, 3) in pixel space.
        height: Of the picture.
        width: Of the picture.
        near: Nearest depth.
        far: Farthest depth.

    Returns:
        (B, F, 4) int32: first column, first row, width, height; width or height is 0 where nothing is visible.
    """
    z = corners[..., 2]
    front = z >= near
    points, valid = [], []
    for first in range(3):
        for second in ((first + 1) % 3, (first + 2) % 3):
            a, b = corners[:, :, first], corners[:, :, second]
            share = (near - a[..., 2]) / torch.where(front[..., first] == front[..., second], 1, b[..., 2] - a[..., 2])
            share = torch.where(front[..., first], 0, share.clamp(0, 1))
            cut = a + share[..., None] * (b - a)
            points.append(cut[..., :2] / cut[..., 2:].clamp_min(near))
            valid.append(front[..., first] | front[..., second])
    position, usable = torch.stack(points, dim=2), torch.stack(valid, dim=2)[..., None]
    slack = torch.where(front.all(dim=2), _SLACK, _NEAR_SLACK)[..., None] + 0.5
    lowest = torch.where(usable, position, torch.inf).amin(dim=2) - slack
    highest = torch.where(usable, position, -torch.inf).amax(dim=2) + slack - 1
    left, top = lowest[..., 0].clamp(0, width).ceil(), lowest[..., 1].clamp(0, height).ceil()
    columns = highest[..., 0].clamp(-1, width - 1).floor() - left + 1
    rows = highest[..., 1].clamp(-1, height - 1).floor() - top + 1
    visible = (columns > 0) & (rows > 0) & (z.amin(dim=2) <= far)
    return torch.stack([left, top, torch.where(visible, columns, 0), torch.where(visible, rows, 0)], dim=2).int()


def _permutation_sign(order: Tensor) -> Tensor:
    """(F, 3) permutations -> (F,) +1 for even, -1 for odd."""
    a, b, c = order.unbind(1)
    return torch.sign((b - a) * (c - a) * (c - b))


def _use_triton(backend: Backend, corners: Tensor) -> bool:
    """Whether the Triton kernel draws."""
    if backend == "torch" or (backend == "auto" and not corners.is_cuda):
        return False
    installed = _installed("triton")
    if backend == "triton" and not installed:
        raise CopoError("backend 'triton' is not installed: pip install triton (Linux), or use backend 'torch'")
    if backend == "triton" and not corners.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise CopoError("backend 'triton' needs data on CUDA: move it there, or use backend 'torch'")
    return installed


@cache
def _installed(module: str) -> bool:
    """Whether a module can be imported."""
    return importlib.util.find_spec(module) is not None


# --- small helpers ----------------------------------------------------------------------------------------------


def _corners(pixel_space: Tensor, faces: Tensor) -> Tensor:
    """(B, V, 3), (F, 3) -> (B, F, 3 corners, 3)."""
    return pixel_space.index_select(1, faces.flatten()).unflatten(1, (-1, 3))


def _take(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) rows at (B, M) indices -> (B, M, C)."""
    batch, rows = values.shape[:2]
    offset = torch.arange(batch, device=index.device)[:, None] * rows
    return values.flatten(0, 1).index_select(0, (index + offset).flatten()).unflatten(0, index.shape)


def _pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(H * W, 2) positions in pixels, row by row."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype) + 0.5
    columns = torch.arange(width, device=like.device, dtype=like.dtype) + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)


def picture_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, checked."""
    height, width = (size, size) if isinstance(size, int) else size
    if not (0 < height <= 16384 and 0 < width <= 16384):
        raise CopoError(f"picture size {height} x {width}: give between 1 and 16384 pixels a side")
    return int(height), int(width)


def _check(vertices: Tensor, faces: Tensor, intrinsics: Tensor, near: float, far: float, values: bool) -> None:
    """Raise CopoError for input that cannot be drawn."""
    if vertices.ndim != 3 or vertices.shape[2] != 3:
        raise CopoError(f"vertices have shape {tuple(vertices.shape)}: expected (B, V, 3)")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.int64:
        raise CopoError(f"faces have shape {tuple(faces.shape)} and type {faces.dtype}: expected (F, 3) of int64")
    if intrinsics.shape[-2:] != (3, 3) or intrinsics.ndim != 3 or len(intrinsics) not in (1, len(vertices)):
        raise CopoError(f"intrinsics have shape {tuple(intrinsics.shape)}: expected ({len(vertices)}, 3, 3)")
    if not 0 < near < far:
        raise CopoError(f"near {near} and far {far}: need 0 < near < far")
    if not values:
        return
    finite = torch.isfinite(vertices).all()
    known = ((faces >= 0) & (faces < vertices.shape[1])).all()
    if bool(finite & known):
        return
    if not bool(finite):
        raise CopoError("vertices hold NaN or infinite numbers: check the coefficients that made them")
    raise CopoError(f"faces name vertices outside 0..{vertices.shape[1] - 1}: give the faces that belong to them")
