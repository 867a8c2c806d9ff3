"""What is known of a photograph, checked, and the square window around the face in which it is fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from copo.camera import METHOD_FOV, Camera
from copo.errors import CopoError, unknown_name
from copo.factors import ARKIT_NAMES
from copo.vision.points import points_68
from copo.vision.protocols import Picture, as_picture

View = Literal["left_profile", "left_3quarter", "front", "right_3quarter", "right_profile"]
"""Which side of the person's face is seen (the person's own left or right)."""

FFHQ_SCALE, FFHQ_DROP = 1.8, 0.1
"""FFHQ's crop (Karras et al. 2019): half side max(2 x eye distance, 1.8 x eye to mouth), centre 0.1 below the eyes."""


@dataclass(frozen=True)
class Observation:
    """One photograph with what the vision adapters found in it.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        landmarks: (478, 2) MediaPipe's or (68, 2) iBUG's points in pixels, pixel centres at +0.5; None where the
            landmarker found no face, which needs `view`, `person`, and other photographs of the person.
        blendshapes: Scores in [0, 1] by ARKit name; unknown units may be missing; None where there are none.
        hair: (h, w) float in [0, 1], hair probability over the whole picture at any resolution, or None.
        person: (h, w) float in [0, 1], person probability likewise, or None.
        identity: Photographs with the same identity share shape and albedo; None: a person of its own.
        view: Known view, e.g. from the file names of a data set.
        expression: Known name of the expression, by which a photograph without landmarks finds another of the same
            person and expression.
        fov: Vertical field of view in radians of a centred picture (an aligned crop); None: a window around the face
            gets the field of view of the configuration.
    """

    picture: Picture
    landmarks: NDArray[np.floating[Any]] | None
    blendshapes: Mapping[str, float] | None = None
    hair: NDArray[np.floating[Any]] | None = None
    person: NDArray[np.floating[Any]] | None = None
    identity: str | None = None
    view: View | None = None
    expression: str | None = None
    fov: float | None = None


@dataclass(frozen=True)
class Windows:
    """The pinhole camera of each picture.

    Attributes:
        centre: (B, 2) principal point in picture pixels: the middle of the window.
        side: (B,) side of the window in picture pixels.
        focal: (B,) focal length in picture pixels.
        size: (B, 2) width and height of the picture.
    """

    centre: Tensor
    side: Tensor
    focal: Tensor
    size: Tensor

    def to(self, device: torch.device | str) -> Windows:
        """The same windows on another device."""
        return Windows(**{name: value.to(device) for name, value in vars(self).items()})

    def __getitem__(self, index: list[int]) -> Windows:
        """Some of them."""
        return Windows(**{name: value[index] for name, value in vars(self).items()})

    def intrinsics(self) -> Tensor:
        """(B, 3, 3) normalised by the whole picture's size."""
        out = torch.zeros(len(self.side), 3, 3, dtype=self.side.dtype, device=self.side.device)
        out[:, 0, 0], out[:, 1, 1] = (self.focal[:, None] / self.size).unbind(1)
        out[:, 0, 2], out[:, 1, 2] = (self.centre / self.size).unbind(1)
        out[:, 2, 2] = 1
        return out

    def camera(self, cam2world: Tensor) -> Camera:
        """Cameras (B, 4, 4) that look through the windows only: centred and square."""
        k = torch.zeros(len(self.side), 3, 3, dtype=self.side.dtype, device=self.side.device)
        k[:, 0, 0] = k[:, 1, 1] = self.focal / self.side
        k[:, :2, 2] = 0.5
        k[:, 2, 2] = 1
        return Camera(cam2world, k)


def check(observation: Observation, index: int) -> Observation:
    """The same observation with a checked RGB picture.

    Args:
        observation: What came in.
        index: Its place in the batch, for messages.

    Raises:
        CopoError: Landmarks of a wrong count or with NaN, unknown or impossible scores, masks that are no masks, or
            neither landmarks nor a view.
    """
    name = f"photograph {index}"
    points = observation.landmarks
    if points is None:
        if observation.view is None:
            raise CopoError(f"{name} has no landmarks: give them, or its view and other photographs of the same person")
    else:
        points = np.asarray(points)
        if points.ndim != 2 or points.shape[1] != 2 or len(points) not in (68, 478):
            raise CopoError(f"{name}: landmarks of shape {points.shape}: give (478, 2) or (68, 2) pixel positions")
        if not np.isfinite(points).all():
            raise CopoError(f"{name}: a landmark is NaN or infinite: run the landmarker again or leave it out")
        if min(np.ptp(points, axis=0)) < 4:
            raise CopoError(f"{name}: the landmarks span less than 4 pixels: give a larger picture of the face")
    if observation.view is not None and observation.view not in get_args(View):
        raise unknown_name(f"view of {name}", observation.view, get_args(View))
    for unit, score in (observation.blendshapes or {}).items():
        if unit not in ARKIT_NAMES and unit != "_neutral":
            raise unknown_name(f"blendshape of {name}", unit, ARKIT_NAMES)
        if not -1e-3 <= score <= 1.001:
            raise CopoError(f"{name}: blendshape {unit} is {score:g}: give a score from 0 to 1")
    for kind in ("hair", "person"):
        mask = getattr(observation, kind)
        if mask is not None and (np.ndim(mask) != 2 or 0 in np.shape(mask) or not np.isfinite(mask).all()):
            raise CopoError(f"{name}: the {kind} mask has shape {np.shape(mask)}: give (h, w) finite numbers in [0, 1]")
    if observation.fov is not None and not 0 < observation.fov < math.pi:
        raise CopoError(f"{name}: field of view {observation.fov:g}: give radians between 0 and pi")
    return Observation(**{**vars(observation), "picture": as_picture(observation.picture), "landmarks": points})


def find_windows(observations: Sequence[Observation], fov: float = METHOD_FOV) -> Windows:
    """The window of each photograph that has landmarks; NaN for the others.

    Args:
        observations: Checked.
        fov: Field of view of a window around a face, radians.
    """
    rows = []
    for item in observations:
        height, width = item.picture.shape[:2]
        if item.fov is not None:
            focal = height / 2 / math.tan(item.fov / 2)
            rows.append((width / 2, height / 2, float(max(width, height)), focal, width, height))
        elif item.landmarks is not None:
            x, y, side = _ffhq_square(np.asarray(item.landmarks, np.float32))
            rows.append((x, y, side, side / 2 / math.tan(fov / 2), width, height))
        else:
            rows.append((width / 2, height / 2, math.nan, math.nan, width, height))
    table = torch.tensor(rows, dtype=torch.float32)
    return Windows(table[:, :2], table[:, 2], table[:, 3], table[:, 4:])


def crop_camera(camera: Camera, width: int, height: int, matrix: Tensor, size: int) -> Camera:
    """The camera of a crop, from the camera of the picture it was cut from.

    Args:
        camera: B cameras of whole pictures.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        matrix: (B, 2, 3) similarity from picture pixels to crop pixels.
        size: Side of the crop in pixels.

    Returns:
        Cameras whose picture is the crop. A rotation of the crop becomes a roll of the camera.
    """
    turn = matrix[:, :, :2]
    scale = turn.det().abs().sqrt()
    turn = turn / scale[:, None, None]
    pixels = torch.tensor([width, height], dtype=torch.float32)
    focal = camera.intrinsics.diagonal(dim1=1, dim2=2)[:, :2].cpu() * pixels
    if float((focal[:, 0] / focal[:, 1] - 1).abs().max()) > 1e-3:
        raise CopoError("camera: pixels are not square: a rotated crop of it has no pinhole camera of this kind")
    centre = (matrix[:, :, :2] @ (camera.intrinsics[:, :2, 2].cpu() * pixels)[..., None])[..., 0] + matrix[:, :, 2]
    k = torch.zeros(len(camera), 3, 3)
    k[:, 0, 0] = k[:, 1, 1] = focal[:, 1] * scale / size
    k[:, :2, 2] = centre / size
    k[:, 2, 2] = 1
    roll = torch.eye(3).repeat(len(camera), 1, 1)
    roll[:, :2, :2] = turn
    cam2world = camera.cam2world.clone()
    cam2world[:, :3, :3] = camera.cam2world[:, :3, :3] @ roll.mT.to(cam2world)
    return Camera(cam2world, k.to(cam2world))


def _ffhq_square(points: NDArray[np.float32]) -> tuple[float, float, float]:
    """Centre and side in pixels of FFHQ's crop of a face, without its rotation."""
    p = points_68(points)
    left, right, mouth = p[36:42].mean(0), p[42:48].mean(0), (p[48] + p[54]) / 2
    eyes = (left + right) / 2
    drop = mouth - eyes
    across = right - left + np.array([drop[1], -drop[0]])
    half = max(2 * float(np.hypot(*(right - left))), FFHQ_SCALE * float(np.hypot(*drop)))
    if float(np.hypot(*across)) < 1e-3 or half < 4:
        raise CopoError("the landmarks of a photograph do not form a face: run the landmarker again or leave it out")
    centre = eyes + FFHQ_DROP * drop
    return float(centre[0]), float(centre[1]), 2 * half
