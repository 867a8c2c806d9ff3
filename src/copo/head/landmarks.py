"""Where the head's landmarks are in a picture, exactly: the mesh's points under the camera."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from copo.camera import Camera
from copo.factors import Factors
from copo.head.protocol import HeadModel
from copo.head.shading import vertex_normals


@dataclass(frozen=True)
class HeadLandmarks:
    """Landmarks of a batch of heads.

    Attributes:
        points68: (B, 68, 2) iBUG's order, as shares of width and height: multiply by the size for pixels.
        facing68: (B, 68) whether the surface there turns to the camera.
        points478: (B, 478, 2) MediaPipe's order, or None where the head has none.
        facing478: (B, 478), or None.
    """

    points68: Tensor
    facing68: Tensor
    points478: Tensor | None = None
    facing478: Tensor | None = None


@torch.no_grad()
def head_landmarks(head: HeadModel, factors: Factors, camera: Camera) -> HeadLandmarks:
    """Project the landmarks of parametric heads.

    Args:
        head: On the device of factors and camera.
        factors: (B).
        camera: (B), or one for all.
    """
    topology, view = head.topology, camera.expand(len(factors))
    vertices = head.vertices(factors.shape, factors.expression)
    normals = vertex_normals(vertices, topology.faces)
    points68, facing68 = _seen(vertices[:, topology.landmarks68], normals[:, topology.landmarks68], view)
    if topology.landmarks478_faces is None or topology.landmarks478_barycentric is None:
        return HeadLandmarks(points68, facing68)
    corners, weights = topology.faces[topology.landmarks478_faces], topology.landmarks478_barycentric[..., None]
    dense, directions = ((values[:, corners] * weights).sum(2) for values in (vertices, normals))
    return HeadLandmarks(points68, facing68, *_seen(dense, directions, view))


def _seen(points: Tensor, normals: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    place, _ = camera.project(points)
    towards = camera.position[:, None] - points
    return place, (towards * normals).sum(-1) > 0
