"""Pictures of the head seen from the front without perspective: what the generator's backbone may look at.

A texel of the maps lies where the same texel of the tri-plane's xy plane lies, so that lids, lips and brows reach the
plane features at their own place instead of through a latent vector (ours; Sun et al. 2023, "Next3D", draws textures of
a head into tri-planes likewise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from copo.camera import Camera
from copo.head.classes import class_numbers, is_class
from copo.head.protocol import HeadModel
from copo.head.renderer import RasterConfig, render_mesh
from copo.head.shading import sh_shading, vertex_normals

DISTANCE = 40.0
"""Metres from which the head is seen: over its depth the scale changes by half a percent."""
PARTS = (
    class_numbers("skin", "ear_left", "ear_right", "neck"), class_numbers("brow_left", "brow_right"),
    class_numbers("eye_left", "eye_right"), class_numbers("nose"), class_numbers("mouth_interior"),
    class_numbers("lip_upper"), class_numbers("lip_lower"), class_numbers("hair"),
)  # fmt: skip
"""Classes that share a channel."""
CHANNELS = 8 + len(PARTS)
"""Whether there is a head, its depth, normal (3), lit colour (3), and one channel for each of `PARTS`."""
DEPTH_UNIT = 0.1
"""Metres of depth that count as 1."""

_CONFIG = RasterConfig(validate=False)


@torch.no_grad()
def head_maps(
    head: HeadModel,
    shape: Tensor,
    albedo: Tensor,
    expression: Tensor,
    illumination: Tensor,
    resolution: int,
    half_width: float,
) -> Tensor:
    """Draw heads for the backbone.

    Args:
        head: On the device of the coefficients.
        shape: (B, n) in the head model's units.
        albedo: (B, n).
        expression: (B, n).
        illumination: (B, 27).
        resolution: Side in texels.
        half_width: Of the square around the origin that is seen, metres.

    Returns:
        (B, CHANNELS, resolution, resolution), about in [-1, 1], 0 where there is no head. Columns run along +x, rows
        along +y, as in the tri-plane.
    """
    topology = head.topology
    vertices = head.vertices(shape, expression)
    normals = vertex_normals(vertices, topology.faces)
    colour = (head.albedo(albedo) * sh_shading(normals, illumination)).clamp(0, 1) * 2 - 1
    drawn = render_mesh(
        vertices, topology.faces, _front(len(vertices), half_width, vertices), resolution,
        attributes={"colour": colour, "normal": normals}, labels=topology.labels, normals=normals, config=_CONFIG,
    )  # fmt: skip
    assert drawn.labels is not None
    mask = drawn.mask
    depth = (DISTANCE - drawn.depth) / DEPTH_UNIT
    parts = [is_class(drawn.labels, classes) for classes in PARTS]
    layers = torch.cat([torch.ones_like(mask), depth, drawn.attributes["normal"], drawn.colour, *parts], dim=1)
    return (layers * mask).flip(2)


def _front(batch: int, half_width: float, like: Tensor) -> Camera:
    """A camera far in front of the head; made by arithmetic on the device, for CUDA graphs."""
    cam2world = torch.eye(4, device=like.device, dtype=like.dtype).repeat(batch, 1, 1)
    cam2world[:, 1, 1] = cam2world[:, 2, 2] = -1.0
    cam2world[:, 2, 3] = DISTANCE
    intrinsics = torch.eye(3, device=like.device, dtype=like.dtype).repeat(batch, 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = 0.5 * DISTANCE / half_width
    intrinsics[:, :2, 2] = 0.5
    return Camera(cam2world, intrinsics)
