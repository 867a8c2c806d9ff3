"""Where the camera is in each frame of a film."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from copo.animation.clip import Array
from copo.camera import Camera, turn_cameras
from copo.errors import CopoError, unknown_name

Path = Literal["fixed", "ellipse", "orbit", "sway", "drive"]
PATHS: tuple[str, ...] = get_args(Path)
ELLIPSE_YAW, ELLIPSE_PITCH = 0.4, 0.2
"""Half axes of the method's video path, radians (published program)."""
SWAY_YAW = math.pi / 4


def camera_path(
    kind: Path | str,
    base: Camera,
    frames: int,
    *,
    period: int | None = None,
    yaw: float | None = None,
    pitch: float | None = None,
    pose: Array | None = None,
) -> Camera:
    """One camera for each frame.

    | path | what the camera does |
    |---|---|
    | fixed | stays where `base` is |
    | ellipse | circles before the face (the method's videos: yaw +-0.4, pitch +-0.2 radians) |
    | orbit | goes once around the head, starting where `base` is |
    | sway | from one side to the other and back, +-45 degrees |
    | drive | moves as the driving file says |

    Args:
        kind: One of `PATHS`.
        base: (1) the camera at rest, which gives framing and field of view.
        frames: Number of cameras.
        period: Frames of one round; all frames by default. The round is closed, so that films repeat without a jump.
        yaw: Half axis of ellipse and sway in radians.
        pitch: Half axis of the ellipse in radians.
        pose: (frames, 3) for "drive" (see `DrivingClip.pose`).

    Raises:
        CopoError: Unknown path, no frames, or no poses to follow.
    """
    if kind not in PATHS:
        raise unknown_name("camera", str(kind), PATHS)
    if frames < 1:
        raise CopoError(f"a camera path of {frames} frames: give at least 1")
    around = torch.arange(frames, dtype=torch.float64) * (2 * math.pi / (period or frames))
    rest = torch.zeros(frames, dtype=torch.float64)
    cameras = base.expand(frames)
    if kind == "fixed":
        return cameras
    if kind == "ellipse":
        wide, high = ELLIPSE_YAW if yaw is None else yaw, ELLIPSE_PITCH if pitch is None else pitch
        return _turned(cameras, -wide * around.sin(), -high * around.cos())
    if kind == "orbit":
        return _turned(cameras, around, rest)
    if kind == "sway":
        return _turned(cameras, (SWAY_YAW if yaw is None else yaw) * around.sin(), rest)
    if pose is None:
        raise CopoError("--camera drive: the driving file holds no poses; choose fixed, ellipse, orbit or sway")
    if pose.shape != (frames, 3):
        raise CopoError(f"poses of shape {pose.shape}: expected ({frames}, 3)")
    yaws, pitches, rolls = torch.from_numpy(np.asarray(pose, np.float64)).unbind(1)
    return _rolled(_turned(cameras, yaws, pitches), rolls)


def _turned(cameras: Camera, yaw: Tensor, pitch: Tensor) -> Camera:
    return turn_cameras(cameras, yaw.to(cameras.cam2world), pitch.to(cameras.cam2world))


def _rolled(cameras: Camera, roll: Tensor) -> Camera:
    """Cameras turned about their viewing axes, so that the head turns clockwise in the picture."""
    angle = -roll.to(cameras.cam2world)
    c, s = angle.cos(), angle.sin()
    turn = torch.eye(3).to(cameras.cam2world).expand(len(cameras), 3, 3).clone()
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, -s, s, c
    cam2world = cameras.cam2world.clone()
    cam2world[:, :3, :3] = cam2world[:, :3, :3] @ turn
    return Camera(cam2world, cameras.intrinsics)
