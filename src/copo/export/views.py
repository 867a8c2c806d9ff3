"""Colours of a portrait on any surface, gathered from pictures of several sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.blending import HAIR
from copo.head.protocol import PARSER_CLASSES, HeadModel
from copo.head.raster import Fragments, interpolate, rasterize
from copo.portrait import Portrait

VIEWS: tuple[tuple[float, float], ...] = (
    (0, 0), (0, 25), (0, -20), (-30, 0), (30, 0), (-60, 0), (60, 0), (-45, 20), (45, 20),
)  # fmt: skip
"""Yaw and pitch of the pictures, degrees: what the generator was trained for, and a little beyond."""
SLACK = 0.012
"""Metres that a point may lie behind the surface that a picture shows and still be the same place."""
GRAZING = 4.0
"""Power of the cosine between normal and view: pictures that look at a place squarely count more."""
FEW = 0.05
"""Weight at which what was seen and the substitute count alike."""
_OVER_SKIN = tuple(PARSER_CLASSES.index(name) for name in ("background", "hair", "hat", "glasses", "cloth", "earring"))
"""Classes that hide the face where a picture shows them before skin."""


@dataclass(frozen=True)
class View:
    """One picture.

    Attributes:
        camera: (1).
        image: (3, H, W) in [0, 1].
        depth: (h, w) metres along the viewing axis, the surface that hides what lies behind.
        classes: (h, w) int64 parser classes.
    """

    camera: Camera
    image: Tensor
    depth: Tensor
    classes: Tensor


def look_around(
    model: Portrait, factors: Factors, views: tuple[tuple[float, float], ...] = VIEWS, psi: float = 1.0
) -> list[View]:
    """Pictures of one portrait from several sides, on the CPU."""
    planes = model.planes(factors, psi)
    out = []
    for yaw, pitch in views:
        seen = model.render(planes, model.camera(yaw, pitch), maps=("depth", "semantics"))
        assert seen.depth is not None and seen.semantics is not None
        image = ((seen.image[0].float() + 1) / 2).clamp(0, 1).cpu()
        out.append(View(seen.camera.to("cpu"), image, seen.depth[0].float().cpu(), seen.semantics[0].cpu()))
    return out


def gather(
    views: list[View],
    points: Tensor,
    normals: Tensor,
    hidden_by: list[Tensor] | None = None,
    is_skin: Tensor | None = None,
    slack: float = SLACK,
) -> tuple[Tensor, Tensor]:
    """Mean colours of points over the pictures that see them.

    Args:
        views: What `look_around` gave.
        points: (N, 3) metres.
        normals: (N, 3) unit length.
        hidden_by: Depth maps (h, w), one for each view, of what hides the points; the volume's own by default.
        is_skin: (N) bool; pictures that show hair, glasses or background there are not believed. None for no check.
        slack: See `SLACK`.

    Returns:
        (N, 3) colours in [0, 1], and (N) the sum of the weights: 0 where no picture saw the point.
    """
    total, weight = torch.zeros(len(points), 3), torch.zeros(len(points))
    for index, view in enumerate(views):
        place, depth = view.camera.project(points[None])
        grid = place * 2 - 1
        inside = (place > 0.01).all(-1) & (place < 0.99).all(-1)
        toward = F.normalize(view.camera.position - points, dim=1)
        facing = (toward * normals).sum(1).clamp_min(0) ** GRAZING
        limit = _sampled((view.depth if hidden_by is None else hidden_by[index])[None], grid, "nearest")[0]
        share = facing * inside[0] * (depth[0] <= torch.where(limit > 0, limit, torch.inf) + slack)
        if is_skin is not None:
            label = _sampled(view.classes[None].float(), grid, "nearest")[0].round().long()
            covered = torch.isin(label, torch.tensor(_OVER_SKIN)) & is_skin
            share = share * ~covered
        total += share[:, None] * _sampled(view.image, grid, "bilinear").T
        weight += share
    return total / weight.clamp_min(1e-9)[:, None], weight


def color_surface(views: list[View], points: Tensor, normals: Tensor, otherwise: Tensor) -> Tensor:
    """(N, 3) colours of the volume's own surface, with (N, 3) `otherwise` where no picture sees it well."""
    colors, weight = gather(views, points, normals)
    trust = (weight / (weight + FEW))[:, None]
    return trust * colors + (1 - trust) * otherwise


def bake_portrait(model: Portrait, factors: Factors, size: int, psi: float = 1.0) -> Tensor:
    """The portrait's skin on the texture layout of its head; see `bake_views`.

    Args:
        model: Draws the portrait.
        factors: (1) portrait; the head takes its expression.
        size: Side in texels, 16 to 8192.
        psi: Truncation.

    Raises:
        CopoError: The head has no texture layout, or the size is out of range.
    """
    check_layout(model.head, size)
    return bake_views(model.head, factors, look_around(model, factors, psi=psi), size)


def check_layout(head: HeadModel, size: int) -> None:
    """Refuse what cannot become a texture.

    Raises:
        CopoError: The head has no texture layout, or the size is out of range.
    """
    if head.topology.uv is None or head.topology.uv_faces is None:
        raise CopoError(f"head {head.name!r} has no texture layout: export vertex colours instead (--texture 0)")
    if not 16 <= size <= 8192:
        raise CopoError(f"texture of {size} texels: choose 16 to 8192")


def bake_views(head: HeadModel, factors: Factors, views: list[View], size: int) -> Tensor:
    """What pictures show of a head, on the head's texture layout.

    Each texel is a place on the head; its colour is the mean of the pictures that look at it. Places that none sees
    (the inside of the mouth, the back of the head) get the head's own albedo, its colour fitted to the rest.

    Args:
        head: With a texture layout.
        factors: (1) who the pictures show.
        views: Pictures.
        size: Side in texels.

    Returns:
        (size, size, 3) uint8; the first row is v = 1.
    """
    person = factors.to(head.topology.faces.device)
    with torch.no_grad():
        vertices = head.vertices(person.shape, person.expression)[0].float().cpu()
        albedo = head.albedo(person.albedo)[0].float().clamp(0, 1).cpu()
    faces, labels = head.topology.faces.cpu(), head.topology.labels.cpu()
    fragments = layout(head, size)
    covered = fragments.face[0] >= 0

    def texels(values: Tensor) -> Tensor:
        return interpolate(values, faces, fragments)[0].movedim(0, -1)[covered]

    normals = F.normalize(texels(vertex_normals(vertices, faces)), dim=1)
    skin = labels[faces[fragments.face[0][covered]][:, 0]] != HAIR
    own = texels(albedo)
    hidden = [head_depth(view, vertices, faces) for view in views]
    colors, weight = gather(views, texels(vertices), normals, hidden, skin)
    mixed = with_substitute(colors, weight, own, skin)
    picture = np.zeros((size, size, 3), np.uint8)
    picture[covered.numpy()] = (mixed * 255).round().byte().numpy()
    nearest = ndimage.distance_transform_edt(~covered.numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy(np.ascontiguousarray(picture[tuple(nearest)]))


def with_substitute(colors: Tensor, weight: Tensor, own: Tensor, skin: Tensor) -> Tensor:
    """(N, 3) colours where they were seen, elsewhere (N, 3) `own` with the brightness and tint of the skin (N) seen."""
    seen = (weight > FEW) & skin
    gain = torch.ones(3)
    if seen.any():
        gain = (colors[seen].mean(0) / own[seen].mean(0).clamp_min(1e-3)).clamp(0.25, 4)
    trust = (weight / (weight + FEW))[:, None]
    return trust * colors + (1 - trust) * (own * gain).clamp(0, 1)


def layout(head: HeadModel, size: int) -> Fragments:
    """The triangle of each texel of a head's texture, (1, size, size); the first row is v = 1."""
    topology = head.topology
    assert topology.uv is not None and topology.uv_faces is not None
    uv = topology.uv.float().cpu()
    # A flat sheet one metre before a camera with unit focal length: a point's texel is its (u, 1 - v) times the size.
    sheet = torch.stack([uv[:, 0], 1 - uv[:, 1], torch.ones(len(uv))], dim=1)[None]
    return rasterize(sheet, topology.uv_faces.cpu(), torch.eye(3)[None], size)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) unit normals, the mean of the triangles around each vertex weighted by area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    across = torch.linalg.cross(b - a, c - a)
    out = torch.zeros_like(vertices)
    for corner in range(3):
        out.index_add_(0, faces[:, corner], across)
    return F.normalize(out, dim=1)


def head_depth(view: View, vertices: Tensor, faces: Tensor) -> Tensor:
    """(H, W) depth of the head itself in a view: what hides its far side."""
    local = view.camera.to_camera_space(vertices[None])
    return rasterize(local, faces, view.camera.intrinsics, view.image.shape[-1]).depth[0]


def _sampled(picture: Tensor, grid: Tensor, mode: str) -> Tensor:
    """(C, H, W) at (1, N, 2) places in [-1, 1] -> (C, N)."""
    found = F.grid_sample(picture[None], grid[:, None], mode=mode, padding_mode="border", align_corners=False)
    return found[0, :, 0]
