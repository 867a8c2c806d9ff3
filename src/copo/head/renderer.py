"""Pictures of meshes and heads: mask, depth, normals, labels, texture coordinates, colour, and optical flow.

Pictures are NCHW. The world is that of `copo.camera`: metres, y up, the head looks along +z.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.head.protocol import HeadModel
from copo.head.raster import (
    Backend,
    Fragments,
    barycentrics_at,
    interpolate,
    picture_size,
    rasterize,
    to_pixel_space,
)
from copo.head.shading import face_normals, sh_shading, vertex_normals


@dataclass(frozen=True)
class RasterConfig:
    """How meshes are drawn.

    Attributes:
        near: Nearest depth that is drawn, metres.
        far: Farthest depth that is drawn, metres.
        cull_backfaces: Draw only triangles that are counter-clockwise in the picture.
        supersample: Samples per pixel and side; above 1 the borders are smooth, and time grows with its square.
        backend: Who resolves visibility; "auto" is Triton on CUDA where installed, else plain PyTorch.
        validate: Check numbers and indices; on CUDA that waits for the GPU once.
    """

    near: float = 0.01
    far: float = 100.0
    cull_backfaces: bool = False
    supersample: int = 1
    backend: Backend = "auto"
    validate: bool = True


@dataclass(frozen=True)
class MeshRender:
    """What a mesh looks like. Everything is 0 where the mesh is not (and `labels` is 0: background).

    With supersampling, alpha, depth, normals and attributes are means over a pixel's covered samples; labels, uv and
    fragments (and with them the mask) are those of one sample next to the pixel's centre.

    Attributes:
        mask: (B, 1, H, W) bool.
        alpha: (B, 1, H, W) covered share of the pixel, in [0, 1].
        depth: (B, 1, H, W) metres along the viewing axis.
        normals: (B, 3, H, W) unit vectors in the world.
        labels: (B, H, W) int64 label of the triangle's nearest corner, or None where none were given.
        uv: (B, 2, H, W) texture coordinates, or None.
        attributes: (B, C, H, W) of each attribute that was asked for.
        fragments: The visible triangles at the samples (at the pixel centres without supersampling).
    """

    mask: Tensor
    alpha: Tensor
    depth: Tensor
    normals: Tensor
    labels: Tensor | None
    uv: Tensor | None
    attributes: dict[str, Tensor]
    fragments: Fragments

    @property
    def colour(self) -> Tensor:
        """(B, 3, H, W) the attribute "colour": RGB, nominally in [0, 1], not clamped."""
        return self.attributes["colour"]

    def over(self, background: Tensor | float = 1.0) -> Tensor:
        """The colour laid over a background.

        Args:
            background: A grey value, (3,) a colour, or (B, 3, H, W) a picture, in [0, 1].

        Returns:
            (B, 3, H, W) in [0, 1].
        """
        behind = torch.as_tensor(background, dtype=self.colour.dtype, device=self.colour.device)
        if behind.ndim == 1:
            behind = behind[:, None, None]
        return (self.colour.clamp(0, 1) * self.alpha + behind * (1 - self.alpha)).clamp(0, 1)


@dataclass(frozen=True)
class FlowRender:
    """Optical flow between two renders of one mesh.

    Attributes:
        flow: (B, 2, H, W) pixels (x to the right, y down) from a pixel's centre in picture a to where the same point
            of the surface lies in picture b; 0 outside the mesh. Differentiable in both sets of vertices.
        mask: (B, 1, H, W) bool, where picture a shows the mesh.
        visible: (B, 1, H, W) bool, the part of `mask` that picture b shows too: inside its borders, at a pixel that
            shows the mesh, not turned away, and not occluded.
    """

    flow: Tensor
    mask: Tensor
    visible: Tensor


def render_mesh(
    vertices: Tensor,
    faces: Tensor,
    camera: Camera,
    size: int | tuple[int, int],
    attributes: Mapping[str, Tensor] | None = None,
    labels: Tensor | None = None,
    uv: Tensor | None = None,
    uv_faces: Tensor | None = None,
    normals: Tensor | None = None,
    config: RasterConfig | None = None,
) -> MeshRender:
    """Draw a batch of meshes that share their triangles.

    Args:
        vertices: (B, V, 3) world, metres.
        faces: (F, 3) int64, counter-clockwise seen from outside.
        camera: B cameras, or one for all.
        size: Pixels: one number for a square picture, or (height, width).
        attributes: Values at the vertices, each (B, V, C) or (V, C).
        labels: (V,) int64 labels of the vertices.
        uv: (U, 2) texture coordinates; U = V unless `uv_faces` is given.
        uv_faces: (F, 3) int64 into `uv`.
        normals: (B, V, 3) unit normals of the vertices; computed from the mesh where None.
        config: How to draw.

    Returns:
        The render. Mask, labels and visibility carry no gradient; the rest is differentiable in vertices, normals,
        attributes and the camera's matrices.

    Raises:
        CopoError: A shape, size or number is wrong, or the backend is missing.
    """
    config = config or RasterConfig()
    factor = config.supersample
    if factor < 1:
        raise CopoError(f"supersample {factor}: give 1 or more samples a side")
    height, width = picture_size(size)
    camera = camera.expand(len(vertices))
    fragments = _rasterize(vertices, faces, camera, (height * factor, width * factor), config)
    _check_per_vertex(vertices, faces, attributes or {}, labels, uv, uv_faces)
    if normals is None:
        normals = vertex_normals(vertices, faces)
    named = {"normals": normals, **(attributes or {})}
    drawn = _interpolate_together(named, faces, fragments)
    coverage = fragments.mask[:, None].to(vertices.dtype)
    depth, alpha = fragments.depth[:, None], coverage
    if factor > 1:
        alpha = F.avg_pool2d(coverage, factor)
        share = 1 / (alpha * factor * factor).clamp_min(1)
        drawn = {k: F.avg_pool2d(v, factor, divisor_override=1) * share for k, v in drawn.items()}
        depth = F.avg_pool2d(depth, factor, divisor_override=1) * share
    centre = _every(fragments, factor)
    mask = centre.mask[:, None]
    unit = F.normalize(drawn.pop("normals"), dim=1, eps=1e-20)
    return MeshRender(
        mask=mask,
        alpha=alpha,
        depth=depth,
        normals=unit,
        labels=None if labels is None else _nearest_label(labels, faces, centre),
        uv=None if uv is None else interpolate(uv, faces if uv_faces is None else uv_faces, centre),
        attributes=drawn,
        fragments=centre,
    )


def render_head(
    head: HeadModel,
    shape: Tensor,
    expression: Tensor,
    albedo: Tensor,
    illumination: Tensor,
    camera: Camera,
    size: int | tuple[int, int],
    frame: Literal["world", "camera"] = "world",
    attributes: Mapping[str, Tensor] | None = None,
    config: RasterConfig | None = None,
) -> MeshRender:
    """Draw heads in colour: albedo times spherical-harmonic shading at the vertices, as the method does.

    Args:
        head: The parametric head.
        shape: (B, n_shape).
        expression: (B, n_expression).
        albedo: (B, n_albedo).
        illumination: (B, 27) or (1, 27), see `copo.head.shading`.
        camera: B cameras, or one for all.
        size: Pixels: one number for a square picture, or (height, width).
        frame: Where the light stands still: in the "world" (it stays with the head when the camera moves), or before
            the "camera" (the method: its head turns under a light that is fixed to the picture).
        attributes: Further values at the vertices to draw.
        config: How to draw.

    Returns:
        The render, with the attribute "colour".
    """
    vertices = head.vertices(shape, expression)
    topology = head.topology
    normals = vertex_normals(vertices, topology.faces)
    lit = normals if frame == "world" else _towards_camera(normals, camera.expand(len(vertices)))
    colour = head.albedo(albedo) * sh_shading(lit, illumination)
    return render_mesh(
        vertices,
        topology.faces,
        camera,
        size,
        attributes={"colour": colour, **(attributes or {})},
        labels=topology.labels,
        uv=topology.uv,
        uv_faces=topology.uv_faces,
        normals=normals,
        config=config,
    )


def optical_flow(
    vertices_a: Tensor,
    vertices_b: Tensor,
    faces: Tensor,
    camera_a: Camera,
    camera_b: Camera,
    size: int | tuple[int, int],
    tolerance: float = 1e-3,
    config: RasterConfig | None = None,
) -> FlowRender:
    """Where each pixel of picture a goes in picture b.

    Args:
        vertices_a: (B, V, 3) world, metres.
        vertices_b: (B, V, 3) the same vertices after the motion.
        faces: (F, 3) int64.
        camera_a: B cameras, or one for all.
        camera_b: B cameras, or one for all.
        size: Pixels: one number for square pictures, or (height, width).
        tolerance: Metres by which a point may lie behind the surface that picture b shows there and still be seen.
        config: How to draw; supersampling does not apply.

    Returns:
        The flow and where it is valid.
    """
    config = replace(config or RasterConfig(), supersample=1)
    height, width = picture_size(size)
    batch = len(vertices_a)
    camera_a, camera_b = camera_a.expand(batch), camera_b.expand(batch)
    seen_a = _rasterize(vertices_a, faces, camera_a, (height, width), config)
    seen_b = _rasterize(vertices_b, faces, camera_b, (height, width), config)
    local_a, local_b = _camera_space(vertices_a, camera_a), _camera_space(vertices_b, camera_b)
    pixel_b = to_pixel_space(local_b, camera_b.intrinsics, height, width)
    landed = interpolate(pixel_b, faces, seen_a)
    depth = landed[:, 2:]
    position = landed[:, :2] / torch.where(depth > config.near, depth, 1)
    columns, rows = torch.meshgrid(
        torch.arange(width, device=position.device), torch.arange(height, device=position.device), indexing="xy"
    )
    here = torch.stack([columns, rows]).to(position.dtype) + 0.5
    mask = seen_a.mask[:, None]
    x, y = position.split(1, dim=1)
    inside = mask & (depth > config.near) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    with torch.no_grad():
        surface = _surface_depth(pixel_b, faces, seen_b, position)
        same_side = _towards(local_a, faces) == _towards(local_b, faces)
        same_side = same_side.gather(1, seen_a.face.clamp_min(0).flatten(1)).view_as(mask)
        visible = inside & same_side & (surface > 0) & (depth <= surface + tolerance)
    return FlowRender(torch.where(inside, position - here, 0), mask, visible)


# --- helpers ----------------------------------------------------------------------------------------------------


def _rasterize(
    vertices: Tensor, faces: Tensor, camera: Camera, size: tuple[int, int], config: RasterConfig
) -> Fragments:
    """World vertices to fragments."""
    return rasterize(
        _camera_space(vertices, camera),
        faces,
        camera.intrinsics,
        size,
        near=config.near,
        far=config.far,
        cull_backfaces=config.cull_backfaces,
        backend=config.backend,
        validate=config.validate,
    )


def _camera_space(vertices: Tensor, camera: Camera) -> Tensor:
    """World (B, V, 3) to camera space; `Camera.to_camera_space` in full precision even where products use TF32."""
    return ((vertices - camera.position[:, None])[..., None] * camera.cam2world[:, None, :3, :3]).sum(dim=-2)


def _towards(local: Tensor, faces: Tensor) -> Tensor:
    """(B, F) whether triangles of camera-space vertices show the camera their outer side."""
    return (face_normals(local, faces) * local.index_select(1, faces[:, 0])).sum(dim=-1) < 0


def _check_per_vertex(
    vertices: Tensor,
    faces: Tensor,
    attributes: Mapping[str, Tensor],
    labels: Tensor | None,
    uv: Tensor | None,
    uv_faces: Tensor | None,
) -> None:
    """Raise CopoError for values that do not belong to this mesh."""
    batch, count = vertices.shape[:2]
    for name, values in attributes.items():
        if (
            values.ndim not in (2, 3)
            or values.shape[-2] != count
            or (values.ndim == 3 and len(values) not in (1, batch))
        ):
            raise CopoError(
                f"attribute {name!r} has shape {tuple(values.shape)}: expected ({batch}, {count}, channels)"
            )
    if labels is not None and labels.shape != (count,):
        raise CopoError(f"labels have shape {tuple(labels.shape)}: expected ({count},), one for each vertex")
    if uv is not None and uv_faces is None and uv.shape != (count, 2):
        raise CopoError(f"uv has shape {tuple(uv.shape)}: expected ({count}, 2), or give uv_faces")
    if uv_faces is not None and uv_faces.shape != faces.shape:
        raise CopoError(f"uv_faces have shape {tuple(uv_faces.shape)}: expected {tuple(faces.shape)}, as the faces")


def _interpolate_together(named: Mapping[str, Tensor], faces: Tensor, fragments: Fragments) -> dict[str, Tensor]:
    """All attributes in one gather."""
    batch = len(fragments.face)
    parts = [v.expand(batch, -1, -1) if v.ndim == 3 else v[None].expand(batch, -1, -1) for v in named.values()]
    drawn = interpolate(torch.cat(parts, dim=2), faces, fragments)
    return dict(zip(named, drawn.split([p.shape[2] for p in parts], dim=1), strict=True))


def _every(fragments: Fragments, factor: int) -> Fragments:
    """One sample of each pixel, the one next to its centre."""
    if factor == 1:
        return fragments
    step = slice(factor // 2, None, factor)
    return Fragments(
        fragments.face[:, step, step], fragments.barycentric[:, step, step], fragments.depth[:, step, step]
    )


def _nearest_label(labels: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """(B, H, W) label of the corner with the largest weight, 0 where there is no triangle."""
    corner = fragments.barycentric.detach().argmax(dim=3, keepdim=True)
    vertex = faces[fragments.face.clamp_min(0)].gather(3, corner)[..., 0]
    return torch.where(fragments.mask, labels[vertex], 0)


def _towards_camera(normals: Tensor, camera: Camera) -> Tensor:
    """World normals (B, V, 3) in the frame of the picture: x right, y up, z towards the viewer."""
    x, y, z = (normals @ camera.cam2world[:, :3, :3]).unbind(-1)
    return torch.stack([x, -y, -z], dim=-1)


def _surface_depth(pixel_space: Tensor, faces: Tensor, fragments: Fragments, position: Tensor) -> Tensor:
    """Depth at (B, 2, H, W) pixel positions of the plane of the triangle seen by the nearest pixel; 0 where none."""
    batch, height, width = fragments.face.shape
    column = position[:, 0].floor().long().clamp(0, width - 1)
    row = position[:, 1].floor().long().clamp(0, height - 1)
    face = fragments.face.flatten(1).gather(1, (row * width + column).flatten(1))
    image = torch.arange(batch, device=face.device)[:, None]
    corners = pixel_space[image[..., None], faces[face.clamp_min(0)]]
    _, depth = barycentrics_at(corners, position.flatten(2).mT)
    return torch.where(face >= 0, depth, 0).view(batch, 1, height, width)
