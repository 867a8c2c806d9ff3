"""What the asked head looks like, and pose from landmarks: everything that metrics compare pictures with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from copo.camera import Camera
from copo.factors import Factors
from copo.head import classes
from copo.head.classes import is_class
from copo.head.protocol import HeadModel
from copo.head.renderer import RasterConfig, render_head
from copo.head.shading import vertex_normals
from copo.training.guide import COVER, FACE, SKIN
from copo.vision.fitting.landmark_model import IRISES
from copo.vision.points import MEDIAPIPE_68

BATCH = 16
POSE_POINTS: tuple[int, ...] = tuple(i for i in range(478) if i not in {*IRISES, 97, 164})
"""MediaPipe's landmarks that the pose is read from: not the irises, nor two whose place on the open head is off."""
FACING = 0.25
"""Cosine between surface and view above which a landmark counts as seen."""


@dataclass(frozen=True)
class HeadPoints:
    """Landmarks of the asked heads.

    Attributes:
        points: (N, K, 3) world, metres.
        facing: (N, K) cosine between the surface's normal and the direction to the camera.
    """

    points: Tensor
    facing: Tensor


@torch.no_grad()
def head_points(head: HeadModel, factors: Factors, camera: Camera, dense: bool) -> HeadPoints:
    """The head's landmarks: MediaPipe's 478 where `dense` and the head has them, otherwise iBUG's 68."""
    topology = head.topology
    points, facing = [], []
    for start in range(0, len(factors), BATCH):
        some, view = factors[start : start + BATCH], camera[start : start + BATCH]
        device = topology.faces.device
        vertices = head.vertices(some.shape.to(device), some.expression.to(device))
        normals = vertex_normals(vertices, topology.faces)
        if dense and topology.landmarks478_faces is not None and topology.landmarks478_barycentric is not None:
            corners = topology.faces[topology.landmarks478_faces]
            weights = topology.landmarks478_barycentric[..., None]
            place, direction = ((v[:, corners] * weights).sum(2) for v in (vertices, normals))
        else:
            place, direction = vertices[:, topology.landmarks68], normals[:, topology.landmarks68]
        place, direction = place.cpu(), direction.cpu()
        towards = F.normalize(view.position[:, None] - place, dim=-1)
        points.append(place)
        facing.append((F.normalize(direction, dim=-1) * towards).sum(-1))
    return HeadPoints(torch.cat(points), torch.cat(facing))


def landmarks68(head: HeadModel, factors: Factors, camera: Camera) -> NDArray[np.float32]:
    """(N, 68, 2) where the asked heads' landmarks are in the pictures, as shares of the side."""
    place, _ = camera.project(head_points(head, factors, camera, dense=False).points)
    return place.numpy().astype(np.float32)


@dataclass(frozen=True)
class HeadPicture:
    """What the asked head looks like, (N, ., s, s) numpy.

    Attributes:
        face: Bool, where the face is seen (skin, brows, eyes, nose, mouth).
        skin: Bool, the part of it that is skin.
        depth: Metres along the viewing axis, 0 where there is no head.
        normals: (N, 3, s, s) in the world.
        labels: Parser classes.
    """

    face: NDArray[np.bool_]
    skin: NDArray[np.bool_]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    labels: NDArray[np.uint8]


@torch.no_grad()
def head_picture(head: HeadModel, factors: Factors, camera: Camera, size: int) -> HeadPicture:
    """Draw the asked heads."""
    parts = []
    device = head.topology.faces.device
    for start in range(0, len(factors), BATCH):
        f, view = factors[start : start + BATCH].to(device), camera[start : start + BATCH].to(device)
        drawn = render_head(
            head, f.shape, f.expression, f.albedo, f.illumination, view, size, config=RasterConfig(validate=False)
        )
        assert drawn.labels is not None
        parts.append(
            HeadPicture(
                is_class(drawn.labels, FACE)[:, 0].bool().cpu().numpy(),
                is_class(drawn.labels, SKIN)[:, 0].bool().cpu().numpy(),
                drawn.depth[:, 0].cpu().numpy(),
                drawn.normals.cpu().numpy(),
                drawn.labels.to(torch.uint8).cpu().numpy(),
            )
        )
    return HeadPicture(*(np.concatenate([getattr(p, n) for p in parts]) for n in HeadPicture.__dataclass_fields__))


def covered(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where hair, a hat, glasses or clothes may lie before the face, by the model's own classes."""
    return np.isin(labels, COVER)


def shrunk(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """(N, s, s) without a border of some pixels."""
    return ~grown(~mask, pixels)


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """(N, s, s) with a border of some pixels."""
    if pixels < 1:
        return mask
    return classes.grown(torch.from_numpy(mask).float()[:, None], pixels)[:, 0].numpy() > 0.5


def reduced(pictures: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """(n, S, S, 3) uint8 -> (n, 3, size, size) in [0, 1], averaged over areas."""
    tensor = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(tensor, (size, size), mode="area").numpy()


# --- pose -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poses:
    """Where heads are seen from.

    Attributes:
        rotation: (N, 3, 3) world to camera (OpenCV).
        residual: (N,) root mean square distance of the landmarks, shares of the side; NaN where nothing was found.
    """

    rotation: Tensor
    residual: Tensor


def measured_poses(
    head: HeadModel, factors: Factors, camera: Camera, points: NDArray[np.float32], iterations: int = 20
) -> Poses:
    """The cameras from which the asked heads look as the found landmarks say (perspective-n-point).

    Landmarks that face the asked camera are brought onto the found ones by Gauss-Newton over rotation and translation
    with a Huber loss; intrinsics are the asked ones.

    Args:
        head: Head model of the factors.
        factors: (N) what was asked for.
        camera: (N) likewise; where the search begins.
        points: (N, 478, 2) found landmarks, shares of the side, NaN where there are none.
        iterations: Of Gauss-Newton.
    """
    dense = head.topology.landmarks478_faces is not None
    asked = head_points(head, factors, camera, dense)
    rows = list(POSE_POINTS) if dense else list(range(27, 48))
    seen = torch.from_numpy(points if dense else points[:, list(MEDIAPIPE_68)])[:, rows].double()
    where, facing = asked.points[:, rows].double(), asked.facing[:, rows]
    weight = ((facing > FACING) & torch.isfinite(seen).all(-1)).double()
    return fit_poses(where, torch.nan_to_num(seen), weight, camera, iterations)


def fit_poses(points: Tensor, seen: Tensor, weight: Tensor, camera: Camera, iterations: int = 20) -> Poses:
    """Perspective-n-point by Gauss-Newton from the given cameras.

    Args:
        points: (N, K, 3) world, metres, float64.
        seen: (N, K, 2) shares of the side.
        weight: (N, K) 0 leaves a point out.
        camera: (N) where to begin, and the intrinsics.
        iterations: Number of steps.
    """
    pose = camera.world2cam.double()
    rotation, shift = pose[:, :3, :3].clone(), pose[:, :3, 3].clone()
    k = camera.intrinsics.double()
    focal, centre = torch.stack([k[:, 0, 0], k[:, 1, 1]], 1)[:, None], k[:, None, :2, 2]
    eye = torch.eye(6, dtype=torch.float64)
    residual = seen.new_zeros(seen.shape)
    for _ in range(iterations):
        turned = (rotation[:, None] * points[:, :, None]).sum(-1)
        local = turned + shift[:, None]
        depth = local[..., 2:].clamp_min(1e-3)
        residual = seen - (centre + focal * local[..., :2] / depth)
        far = residual.norm(dim=-1)
        robust = weight / (far / _HUBER).clamp_min(1)
        x, y, z = local.unbind(-1)
        zero = torch.zeros_like(x)
        screen = (
            torch.stack([torch.stack([1 / z, zero, -x / z**2], -1), torch.stack([zero, 1 / z, -y / z**2], -1)], -2)
            * focal[..., None]
        )
        a, b, c = turned.unbind(-1)
        cross = torch.stack(
            [torch.stack([zero, c, -b], -1), torch.stack([-c, zero, a], -1), torch.stack([b, -a, zero], -1)], -2
        )
        jacobian = torch.cat([screen @ cross, screen], dim=-1)  # (N, K, 2, 6)
        weighted = jacobian * robust[..., None, None]
        normal = torch.einsum("nkia,nkib->nab", weighted, jacobian) + 1e-9 * eye
        step = torch.linalg.solve(normal, torch.einsum("nkia,nki->na", weighted, residual))
        rotation = torch.linalg.matrix_exp(_skew(step[:, :3])) @ rotation
        shift = shift + step[:, 3:]
    count = weight.sum(1)
    error = (residual.square().sum(-1) * weight).sum(1).div(count.clamp_min(1)).sqrt()
    error[count < 8] = float("nan")
    return Poses(rotation, error)


_HUBER = 0.01
"""Distance in shares of the side beyond which a landmark pulls less."""


def _skew(v: Tensor) -> Tensor:
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(r, -1) for r in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, -2)


def turn_between(a: Tensor, b: Tensor) -> Tensor:
    """(N, 3, 3), (N, 3, 3) -> (N,) angle of the rotation between them, degrees."""
    trace = (a.double() * b.double()).sum((1, 2))
    return torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos())


def angles_of(rotation: Tensor) -> Tensor:
    """(N, 3, 3) world to camera -> (N, 3) yaw, pitch, roll of the camera around the head, degrees.

    Yaw is positive where the camera stands at +x, pitch where it stands above, roll where the picture is turned
    clockwise.
    """
    forward, right, down = rotation[:, 2], rotation[:, 0], rotation[:, 1]
    yaw = torch.atan2(-forward[:, 0], -forward[:, 2])
    pitch = torch.atan2(-forward[:, 1], torch.hypot(forward[:, 0], forward[:, 2]))
    roll = torch.atan2(right[:, 1], -down[:, 1])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], dim=1))


def camera_rotation(camera: Camera) -> Tensor:
    """(N, 3, 3) world to camera."""
    return camera.cam2world[:, :3, :3].mT.double()
