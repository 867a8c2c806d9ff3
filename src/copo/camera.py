"""One camera type, with named converters for every convention that it meets, and trajectories.

Inside, a camera is an OpenCV cam2world matrix (x right, y down, z forward) and intrinsics normalised by the picture's
size. The world is the scene of the head: metres, y up, the head at the origin looking along +z, so that the frontal
camera stands at (0, 0, 1) and +x is right in its picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from copo.constants import constant
from copo.errors import CopoError

METHOD_FOV = math.radians(12.6)
"""Field of view of the method's camera (paper, implementation details)."""

DEEP3D_DISTANCE, DEEP3D_FOCAL, DEEP3D_CENTRE, DEEP3D_SIZE = 10.0, 1015.0, 112.0, 224.0
"""Deep3DFaceRecon's fixed camera: distance in face-model units, focal length, centre and picture size in pixels."""

DEEP3D_UNIT = 0.1
"""Metres in one unit of the Basel face model."""

DEEP3D_OFFSET = (0.0, -0.1, 0.0)
"""Translation (face-model units) at which a face sits where the generator's face sits."""

MAX_PITCH = math.pi - 1e-5
"""The method clamps the polar angle to [1e-5, pi - 1e-5]."""


class PitchYaw(NamedTuple):
    """The method's camera: polar angle and azimuth on a sphere, looking at the origin; frontal is (pi/2, pi/2)."""

    pitch: Tensor
    """(B,) radians from the upward axis."""
    yaw: Tensor
    """(B,) radians; below pi/2 the camera moves to +x, the right of the frontal picture."""
    fov: Tensor
    """(B,) field of view in radians."""
    radius: Tensor
    """(B,) distance from the origin in metres."""


class Deep3DPose(NamedTuple):
    """Deep3DFaceRecon's pose of a face before its fixed camera."""

    angles: Tensor
    """(B, 3) rotations about x, y, z in radians; the rotation is Rz Ry Rx."""
    translation: Tensor
    """(B, 3) in face-model units."""


class OpenGLCamera(NamedTuple):
    """A camera in OpenGL's convention (x right, y up, z backward)."""

    cam2world: Tensor
    """(B, 4, 4)."""
    projection: Tensor
    """(B, 4, 4) to clip coordinates."""


@dataclass(frozen=True)
class Camera:
    """A batch of pinhole cameras.

    Attributes:
        cam2world: (B, 4, 4) OpenCV camera axes in the world, metres.
        intrinsics: (B, 3, 3) focal lengths and centre divided by width and height; (0, 0) is the outer corner of the
            first pixel, (1, 1) that of the last.

    Raises:
        CopoError: A shape is wrong, a number is not finite, the rotation part is not a rotation, or a focal length is
            not positive.
    """

    cam2world: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        if self.cam2world.ndim != 3 or self.cam2world.shape[1:] != (4, 4):
            raise CopoError(f"camera: cam2world has shape {tuple(self.cam2world.shape)}: expected (B, 4, 4)")
        if self.intrinsics.shape != (len(self), 3, 3):
            raise CopoError(
                f"camera: intrinsics have shape {tuple(self.intrinsics.shape)}: expected ({len(self)}, 3, 3)"
            )
        if torch.compiler.is_compiling() or self.cam2world.is_cuda:
            return  # checks of values would make the GPU wait; cameras are made on the CPU and moved with `to`
        cam2world, intrinsics = self.cam2world.detach(), self.intrinsics.detach()
        if not (torch.isfinite(cam2world).all() and torch.isfinite(intrinsics).all()):
            raise CopoError("camera: a matrix holds NaN or infinite numbers: check the file or angles it came from")
        rotation = cam2world[:, :3, :3].double()
        error = (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs().amax() if len(self) else 0.0
        if error > 1e-3 or (len(self) and rotation.det().min() < 0):
            raise CopoError(
                "camera: the upper 3x3 of cam2world is not a rotation (columns must be orthogonal, of length 1, and "
                "right-handed): check its convention and remove any scale"
            )
        if len(self) and min(intrinsics[:, 0, 0].min(), intrinsics[:, 1, 1].min()) <= 0:
            raise CopoError("camera: a focal length is not positive: give intrinsics divided by the picture size")

    def __len__(self) -> int:
        return self.cam2world.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Self:
        """A part of the batch; an integer keeps the batch dimension."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"index {index} out of range for {len(self)} cameras")
            index = slice(index, index + 1 or None)
        return type(self)(self.cam2world[index], self.intrinsics[index])

    def to(self, device: torch.device | str) -> Self:
        """The same cameras on another device."""
        return type(self)(self.cam2world.to(device), self.intrinsics.to(device))

    def expand(self, batch: int) -> Self:
        """One camera repeated, or the same cameras where there are already `batch` of them.

        Raises:
            CopoError: There are neither one nor `batch` cameras.
        """
        if len(self) not in (1, batch):
            raise CopoError(f"{len(self)} cameras for {batch} portraits: give one, or one for each")
        return type(self)(self.cam2world.expand(batch, -1, -1), self.intrinsics.expand(batch, -1, -1))

    @classmethod
    def cat(cls, parts: Sequence[Camera]) -> Self:
        """Several batches as one."""
        return cls(torch.cat([p.cam2world for p in parts]), torch.cat([p.intrinsics for p in parts]))

    # --- what follows from the matrices -------------------------------------------------------------------------

    @property
    def position(self) -> Tensor:
        """(B, 3) in the world, metres."""
        return self.cam2world[:, :3, 3]

    @property
    def direction(self) -> Tensor:
        """(B, 3) unit vectors from the origin, where heads are, towards the cameras."""
        return self.position / self.position.norm(dim=1, keepdim=True).clamp_min(1e-9)

    @property
    def forward(self) -> Tensor:
        """(B, 3) unit viewing direction in the world."""
        return self.cam2world[:, :3, 2]

    @property
    def world2cam(self) -> Tensor:
        """(B, 4, 4), the rigid inverse of `cam2world`."""
        rotation = self.cam2world[:, :3, :3].mT
        return _rigid(rotation, -(rotation @ self.position[:, :, None])[:, :, 0])

    @property
    def fov(self) -> Tensor:
        """(B,) vertical field of view in radians."""
        return 2 * torch.atan(0.5 / self.intrinsics[:, 1, 1])

    def to_camera_space(self, points: Tensor) -> Tensor:
        """World points (B, N, 3) -> camera space (B, N, 3), z forward, metres."""
        matrix = self.world2cam
        return points @ matrix[:, :3, :3].mT + matrix[:, None, :3, 3]

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points to the picture.

        Args:
            points: (B, N, 3) metres.

        Returns:
            (B, N, 2) position as a share of width and height (multiply by the size for pixels), and (B, N) depth along
            the viewing axis in metres. Points at depth 0 or behind have no meaningful position.
        """
        local = self.to_camera_space(points)
        image = local @ self.intrinsics.mT
        return image[..., :2] / image[..., 2:], local[..., 2]

    # --- the method's sphere ------------------------------------------------------------------------------------

    @classmethod
    def from_pitch_yaw(
        cls,
        pitch: Tensor | float,
        yaw: Tensor | float,
        fov: Tensor | float = METHOD_FOV,
        radius: Tensor | float = 1.0,
    ) -> Self:
        """The method's camera: on a sphere around the origin, looking at it, upright.

        position = radius (sin pitch cos yaw, cos pitch, sin pitch sin yaw), pitch clamped to [1e-5, pi - 1e-5].

        Args:
            pitch: (B,) polar angle in radians, pi/2 is level, smaller is above.
            yaw: (B,) azimuth in radians, pi/2 is frontal.
            fov: (B,) or a number, radians.
            radius: (B,) or a number, metres.
        """
        polar, azimuth = torch.broadcast_tensors(
            torch.atleast_1d(_float(pitch)).clamp(1e-5, MAX_PITCH), torch.atleast_1d(_float(yaw))
        )
        sine = polar.sin()
        direction = torch.stack([sine * azimuth.cos(), polar.cos(), sine * azimuth.sin()], dim=-1)
        distance = _like(radius, direction).expand(len(direction))
        return cls._looking(direction * distance[:, None], -direction, _up(direction), fov)

    def to_pitch_yaw(self, tolerance: float = 1e-3) -> PitchYaw:
        """The inverse of `from_pitch_yaw`.

        Raises:
            CopoError: A camera does not look at the origin, is rolled, or has an off-centre picture, by more than
                `tolerance`: such a camera has no pitch and yaw.
        """
        radius = self.position.norm(dim=1)
        direction = self.position / radius.clamp_min(1e-12)[:, None]
        pose = PitchYaw(
            direction[:, 1].clamp(-1, 1).acos(), torch.atan2(direction[:, 2], direction[:, 0]), self.fov, radius
        )
        same = type(self).from_pitch_yaw(*pose)
        error = max(_difference(same.cam2world, self.cam2world), _difference(same.intrinsics, self.intrinsics))
        if error > tolerance:
            raise CopoError(
                "camera has no (pitch, yaw): it must look at the origin, upright, with a centred square picture "
                f"(it differs by {error:.2g})"
            )
        return pose

    @classmethod
    def from_degrees(
        cls, yaw: float = 0.0, pitch: float = 0.0, fov: float = math.degrees(METHOD_FOV), radius: float = 1.0
    ) -> Self:
        """A camera around the head in everyday terms, all in degrees.

        Args:
            yaw: 0 is frontal; positive moves the camera to the right of the frontal picture.
            pitch: 0 is level; positive moves the camera up.
            fov: Field of view.
            radius: Distance in metres.
        """
        return cls.from_pitch_yaw(
            math.pi / 2 - math.radians(pitch), math.pi / 2 - math.radians(yaw), math.radians(fov), radius
        )

    # --- EG3D ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_eg3d(cls, labels: Tensor, metres_per_unit: float = 1.0) -> Self:
        """The 25 numbers of an EG3D dataset.json: 16 of cam2world by rows, 9 of the normalised intrinsics.

        Args:
            labels: (B, 25).
            metres_per_unit: Scale of the label's scene. EG3D's own FFHQ labels stand 2.7 units away.

        Raises:
            CopoError: There are not 25 numbers, or they are no camera.
        """
        labels = torch.atleast_2d(_float(labels))
        if labels.shape[1] != 25:
            raise CopoError(f"EG3D camera label has {labels.shape[1]} numbers: expected 25 (16 + 9)")
        cam2world = labels[:, :16].reshape(-1, 4, 4).clone()
        cam2world[:, :3, 3] *= metres_per_unit
        return cls(cam2world, labels[:, 16:].reshape(-1, 3, 3))

    def to_eg3d(self, metres_per_unit: float = 1.0) -> Tensor:
        """(B, 25), the inverse of `from_eg3d`."""
        cam2world = self.cam2world.clone()
        cam2world[:, :3, 3] /= metres_per_unit
        return torch.cat([cam2world.flatten(1), self.intrinsics.flatten(1)], dim=1)

    # --- OpenGL -------------------------------------------------------------------------------------------------

    @classmethod
    def from_opengl(cls, cam2world: Tensor, projection: Tensor) -> Self:
        """A camera with OpenGL axes (x right, y up, z backward) and a 4x4 projection to clip coordinates.

        Args:
            cam2world: (B, 4, 4).
            projection: (B, 4, 4) or (4, 4) perspective projection; near and far are not kept.
        """
        cam2world = _float(cam2world)
        projection = _float(projection).expand(cam2world.shape[0], 4, 4)
        intrinsics = torch.zeros(cam2world.shape[0], 3, 3, dtype=cam2world.dtype, device=cam2world.device)
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = projection[:, 0, 0] / 2, projection[:, 1, 1] / 2
        intrinsics[:, 0, 1] = -projection[:, 0, 1] / 2
        intrinsics[:, 0, 2], intrinsics[:, 1, 2] = (1 - projection[:, 0, 2]) / 2, (1 + projection[:, 1, 2]) / 2
        intrinsics[:, 2, 2] = 1
        return cls(cam2world * cam2world.new_tensor([1, -1, -1, 1]), intrinsics)

    def to_opengl(self, near: float = 0.01, far: float = 100.0) -> OpenGLCamera:
        """The inverse of `from_opengl`.

        Args:
            near: Distance of the near plane in metres.
            far: Distance of the far plane in metres.
        """
        k = self.intrinsics
        projection = torch.zeros_like(self.cam2world)
        projection[:, 0, 0], projection[:, 1, 1] = 2 * k[:, 0, 0], 2 * k[:, 1, 1]
        projection[:, 0, 1] = -2 * k[:, 0, 1]
        projection[:, 0, 2], projection[:, 1, 2] = 1 - 2 * k[:, 0, 2], 2 * k[:, 1, 2] - 1
        projection[:, 2, 2], projection[:, 2, 3] = -(far + near) / (far - near), -2 * far * near / (far - near)
        projection[:, 3, 2] = -1
        return OpenGLCamera(self.cam2world * self.cam2world.new_tensor([1, -1, -1, 1]), projection)

    # --- Deep3DFaceRecon ----------------------------------------------------------------------------------------

    @classmethod
    def from_deep3d(cls, angles: Tensor, translation: Tensor) -> Self:
        """The camera before which a resting head looks as Deep3DFaceRecon's posed face does.

        There a face-model point v becomes Rz Ry Rx v + translation in a space whose camera stands at z = 10 and
        looks along -z, with focal length 1015 px and a picture of 224 px. Here the head rests: v lies at
        (v + (0, -0.1, 0)) / 10 metres, and the camera takes the inverse motion.

        Args:
            angles: (B, 3) about x, y, z in radians.
            translation: (B, 3) in face-model units.
        """
        angles, translation = torch.atleast_2d(_float(angles)), torch.atleast_2d(_float(translation))
        rotation = euler_zyx(angles)
        flip = rotation.new_tensor([1.0, -1.0, -1.0])
        resting = rotation @ rotation.new_tensor(DEEP3D_OFFSET)
        to_camera = flip[:, None] * rotation
        shift = (flip * (translation - resting) + rotation.new_tensor([0, 0, DEEP3D_DISTANCE])) * DEEP3D_UNIT
        cam2world = _rigid(to_camera.mT, -(to_camera.mT @ shift[:, :, None])[:, :, 0])
        focal = DEEP3D_FOCAL / DEEP3D_SIZE
        centre = DEEP3D_CENTRE / DEEP3D_SIZE
        k = rotation.new_tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]])
        return cls(cam2world, k.expand(len(rotation), 3, 3))

    def to_deep3d(self, tolerance: float = 1e-3) -> Deep3DPose:
        """The inverse of `from_deep3d`; exact for |angle_y| < pi/2.

        Raises:
            CopoError: The intrinsics are not Deep3DFaceRecon's.
        """
        focal = DEEP3D_FOCAL / DEEP3D_SIZE
        expected = self.intrinsics.new_tensor([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]])
        if _difference(self.intrinsics, expected) > tolerance * focal:
            raise CopoError(
                f"camera has focal length {self.intrinsics[0, 0, 0]:.4g} of the picture: Deep3DFaceRecon's fixed "
                f"camera has {focal:.4g} and a centred picture; change the field of view to 12.596 degrees"
            )
        world2cam = self.world2cam
        flip = self.cam2world.new_tensor([1.0, -1.0, -1.0])
        rotation = flip[:, None] * world2cam[:, :3, :3]
        resting = rotation @ rotation.new_tensor(DEEP3D_OFFSET)
        shift = world2cam[:, :3, 3] / DEEP3D_UNIT - rotation.new_tensor([0, 0, DEEP3D_DISTANCE])
        return Deep3DPose(euler_zyx_angles(rotation), flip * shift + resting)

    # --- look-at ------------------------------------------------------------------------------------------------

    @classmethod
    def look_at(
        cls,
        position: Tensor | Sequence[float],
        target: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
        up: Tensor | Sequence[float] = (0.0, 1.0, 0.0),
        fov: Tensor | float = METHOD_FOV,
    ) -> Self:
        """A camera at a place, looking at another.

        Args:
            position: (B, 3) or (3,) metres.
            target: (B, 3) or (3,) metres.
            up: (B, 3) or (3,) direction that shall point up in the picture.
            fov: Field of view in radians, (B,) or a number.

        Raises:
            CopoError: Position and target coincide, or the viewing direction is parallel to `up`.
        """
        place, aim, upward = torch.broadcast_tensors(*(torch.atleast_2d(_float(v)) for v in (position, target, up)))
        direction = aim - place
        if (direction.norm(dim=1) < 1e-9).any():
            raise CopoError("camera: position and target of the look-at coincide: move one of them")
        direction = torch.nn.functional.normalize(direction, dim=1)
        if (torch.linalg.cross(direction, upward).norm(dim=1) < 1e-6 * upward.norm(dim=1)).any():
            raise CopoError("camera: the viewing direction of the look-at is parallel to up: give another up")
        return cls._looking(place, direction, upward, fov)

    def to_look_at(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3) position, (B, 3) target one metre ahead, (B, 3) up, (B,) field of view: arguments of `look_at`."""
        return self.position, self.position + self.forward, -self.cam2world[:, :3, 1], self.fov

    @classmethod
    def _looking(cls, position: Tensor, direction: Tensor, up: Tensor, fov: Tensor | float) -> Self:
        right = torch.nn.functional.normalize(torch.linalg.cross(direction, up), dim=1)
        down = torch.linalg.cross(direction, right)
        return cls(_rigid(torch.stack([right, down, direction], dim=2), position), intrinsics_from_fov(fov, position))


def intrinsics_from_fov(fov: Tensor | float, like: Tensor) -> Tensor:
    """(B, 3, 3) normalised intrinsics of a centred square picture; `like` is (B, ...) and gives batch and device."""
    fov = _like(fov, like)
    if ((fov <= 0) | (fov >= math.pi)).any():
        raise CopoError(f"camera: field of view {math.degrees(float(fov.min())):g} degrees: give one between 0 and 180")
    out = torch.zeros(like.shape[0], 3, 3, dtype=like.dtype, device=like.device)
    out[:, 0, 0] = out[:, 1, 1] = 0.5 / torch.tan(fov / 2)
    out[:, :2, 2] = 0.5
    out[:, 2, 2] = 1
    return out


def euler_zyx(angles: Tensor) -> Tensor:
    """(B, 3) rotations about x, y, z in radians -> (B, 3, 3) rotation Rz Ry Rx, which acts on column vectors."""
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def euler_zyx_angles(rotation: Tensor) -> Tensor:
    """The inverse of `euler_zyx` with the middle angle in [-pi/2, pi/2]."""
    x = torch.atan2(rotation[:, 2, 1], rotation[:, 2, 2])
    y = torch.atan2(-rotation[:, 2, 0], rotation[:, :2, 0].norm(dim=1))
    z = torch.atan2(rotation[:, 1, 0], rotation[:, 0, 0])
    return torch.stack([x, y, z], dim=1)


def turn_cameras(camera: Camera, yaw: Tensor, pitch: Tensor) -> Camera:
    """Walk around the head: the whole camera is turned about the origin, its picture keeps its framing.

    Args:
        camera: (B).
        yaw: (B,) radians added about the vertical; positive moves the camera to +x.
        pitch: (B,) radians upwards, along the camera's own meridian.
    """
    direction = camera.position / camera.position.norm(dim=1, keepdim=True)
    around = torch.atan2(direction[:, 0], direction[:, 2])
    back, forth = about_y(-around), about_y(around + yaw)
    c, s = pitch.cos(), pitch.sin()
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    lift = torch.stack(
        [torch.stack([one, zero, zero], -1), torch.stack([zero, c, s], -1), torch.stack([zero, -s, c], -1)], dim=-2
    )
    turn = forth @ lift @ back
    cam2world = camera.cam2world.clone()
    cam2world[:, :3] = turn @ camera.cam2world[:, :3]
    return Camera(cam2world, camera.intrinsics)


def about_y(angle: Tensor) -> Tensor:
    """(B, 3, 3) rotations about the vertical; positive turns +z to +x."""
    c, s = angle.cos(), angle.sin()
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    return torch.stack(
        [torch.stack([c, zero, s], -1), torch.stack([zero, one, zero], -1), torch.stack([-s, zero, c], -1)], dim=-2
    )


# --- trajectories -----------------------------------------------------------------------------------------------


def ellipse(frames: int, yaw: float = 0.4, pitch: float = 0.2, fov: float = METHOD_FOV, radius: float = 1.0) -> Camera:
    """The method's video path: the camera circles before the face (paper, supplementary video).

    Args:
        frames: Number of cameras; the path is closed, so that the last is followed by the first.
        yaw: Half axis in radians.
        pitch: Half axis in radians.
        fov: Field of view in radians.
        radius: Distance in metres.
    """
    turn = _turn(frames)
    return Camera.from_pitch_yaw(math.pi / 2 + pitch * turn.cos(), math.pi / 2 + yaw * turn.sin(), fov, radius)


def orbit(frames: int, pitch: float = 0.0, fov: float = METHOD_FOV, radius: float = 1.0) -> Camera:
    """Once around the head at one height, starting in front.

    Args:
        frames: Number of cameras; the path is closed.
        pitch: Elevation above the level in radians.
        fov: Field of view in radians.
        radius: Distance in metres.
    """
    return Camera.from_pitch_yaw(torch.full((_count(frames),), math.pi / 2 - pitch), math.pi / 2 - _turn(frames), fov,
                                 radius)  # fmt: skip


def turntable(frames: int, yaw: float = math.pi / 4, fov: float = METHOD_FOV, radius: float = 1.0) -> Camera:
    """From one side to the other at the height of the face: yaw from -`yaw` to +`yaw` radians in equal steps."""
    steps = torch.linspace(-yaw, yaw, _count(frames))
    return Camera.from_pitch_yaw(torch.full((frames,), math.pi / 2), math.pi / 2 - steps, fov, radius)


def spline(keys: Camera, frames: int, closed: bool = False) -> Camera:
    """A smooth path through key cameras.

    Positions and intrinsics follow a cubic spline, orientations a rotation spline with continuous angular velocity
    (scipy's RotationSpline). With a closed path the last frame is followed by the first.

    Args:
        keys: At least two cameras.
        frames: Number of cameras on the path.
        closed: Return to the first key.

    Raises:
        CopoError: There are fewer than two keys or fewer than one frame.
    """
    if len(keys) < 2:
        raise CopoError(f"a camera spline needs at least 2 key cameras, not {len(keys)}")
    cam2world, intrinsics = keys.cam2world.double().cpu().numpy(), keys.intrinsics.double().cpu().numpy()
    if closed:
        cam2world, intrinsics = np.concatenate([cam2world, cam2world[:1]]), np.concatenate([intrinsics, intrinsics[:1]])
    knots = np.arange(len(cam2world), dtype=np.float64)
    at = np.linspace(0, knots[-1], _count(frames), endpoint=not closed)
    ends = "periodic" if closed else "not-a-knot"
    out = np.tile(np.eye(4), (frames, 1, 1))
    out[:, :3, 3] = CubicSpline(knots, cam2world[:, :3, 3], bc_type=ends)(at)
    out[:, :3, :3] = RotationSpline(knots, Rotation.from_matrix(cam2world[:, :3, :3]))(at).as_matrix()
    k = CubicSpline(knots, intrinsics, bc_type=ends)(at)
    return Camera(torch.from_numpy(out).to(keys.cam2world), torch.from_numpy(k).to(keys.intrinsics))


def _turn(frames: int) -> Tensor:
    return torch.arange(_count(frames)) * (2 * math.pi / frames)


def _count(frames: int) -> int:
    if frames < 1:
        raise CopoError(f"a camera path of {frames} frames: give at least 1")
    return frames


def _float(value: Tensor | float | Sequence[float]) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.float()


def _like(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _up(like: Tensor) -> Tensor:
    return constant((0.0, 1.0, 0.0), like).expand_as(like)


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    top = torch.cat([rotation, translation[:, :, None]], dim=2)
    bottom = constant((0.0, 0.0, 0.0, 1.0), top).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.numel() else 0.0
