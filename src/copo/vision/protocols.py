"""What each kind of adapter offers, and the typed results.

Pictures are (H, W, 3) uint8 RGB at the edges; (H, W) grey and (H, W, 4) are taken as well (`as_picture`). Points are in
pixels of the full picture, x to the right, y down, and the centre of the first pixel is at (0.5, 0.5). Inside the
differentiable adapters pictures are (B, 3, H, W) float32 in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from copo.camera import DEEP3D_CENTRE, DEEP3D_FOCAL, Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.vision.points import five_of_68, points_68

Picture = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class Face:
    """A face that a detector found.

    Attributes:
        box: (4,) left, top, right, bottom in pixels; may reach beyond the picture.
        score: Confidence; its scale is the detector's.
        five: (5, 2) eyes, nose tip, mouth corners, each pair from left to right in the picture; None where the
            detector gives none.
        eyes: (2, 2) the eyes from left to right, where the detector gives them but not all of `five`.
    """

    box: Points
    score: float
    five: Points | None = None
    eyes: Points | None = None

    @property
    def area(self) -> float:
        """Square pixels."""
        return float(max(self.box[2] - self.box[0], 0) * max(self.box[3] - self.box[1], 0))


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of one face.

    Attributes:
        points: (68, 2) in iBUG's order or (478, 2) in MediaPipe's.
        score: Confidence that there is a face, 0 to 1; NaN where the model gives none.
        depth: (N,) depth relative to the head's centre, on the scale of the points, smaller is nearer; or None.
        blendshapes: Activation 0 to 1 of each ARKit unit that the model knows (MediaPipe: 51, all but tongueOut), or
            None.
    """

    points: Points
    score: float
    depth: Points | None = None
    blendshapes: dict[str, float] | None = None

    @property
    def points68(self) -> Points:
        """(68, 2) in iBUG's order."""
        return points_68(self.points)

    @property
    def five(self) -> Points:
        """(5, 2) eyes, nose tip, mouth corners, as `Face.five`."""
        return five_of_68(self.points68)

    @property
    def box(self) -> Points:
        """(4,) the points' left, top, right, bottom."""
        return np.concatenate([self.points.min(0), self.points.max(0)])

    @property
    def area(self) -> float:
        """Square pixels of `box`."""
        left, top, right, bottom = self.box
        return float((right - left) * (bottom - top))


@dataclass(frozen=True)
class Reconstruction:
    """Coefficients of a parametric face for a batch of pictures.

    Attributes:
        factors: (B) shape, albedo, expression, illumination; the noise code is zero.
        camera: (B) cameras that see the resting head as the crop shows the face.
        angles: (B, 3) rotations about x, y, z in radians, as the published `.mat` files store them.
        translation: (B, 3) in face-model units, as the published `.mat` files store it.
        crop: (B, 2, 3) similarity from picture pixels to crop pixels (224).
        trans_params: (B, 5) the published alignment record: picture width and height, scale, x and y of the centre.
    """

    factors: Factors
    camera: Camera
    angles: Tensor
    translation: Tensor
    crop: Tensor
    trans_params: Tensor

    def picture_camera(self, width: int, height: int) -> Camera:
        """The camera of the whole picture instead of the crop.

        Args:
            width: Of the picture in pixels.
            height: Of the picture in pixels.
        """
        scale = self.crop[:, 0, 0]
        centre = (DEEP3D_CENTRE - self.crop[:, :, 2]) / scale[:, None]
        focal = DEEP3D_FOCAL / scale
        intrinsics = torch.zeros_like(self.camera.intrinsics)
        intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal / width, focal / height
        intrinsics[:, 0, 2], intrinsics[:, 1, 2] = centre[:, 0] / width, centre[:, 1] / height
        intrinsics[:, 2, 2] = 1
        return Camera(self.camera.cam2world, intrinsics)


@dataclass(frozen=True)
class Parsing:
    """Which part of a face each pixel shows.

    Attributes:
        labels: (H, W) uint8, index into `copo.head.protocol.PARSER_CLASSES`.
        probabilities: (19, H, W) float32.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Masks:
    """Probability of hair and of a person at each pixel.

    Attributes:
        hair: (H, W) float32 in [0, 1].
        person: (H, W) float32 in [0, 1].
    """

    hair: NDArray[np.float32]
    person: NDArray[np.float32]


class Detector(Protocol):
    """Pictures to faces."""

    def detect(self, picture: Picture) -> list[Face]:
        """All faces, the largest first; an empty list where there are none."""
        ...


class Landmarker(Protocol):
    """Pictures to landmarks."""

    def landmarks(self, picture: Picture) -> list[Landmarks]:
        """Landmarks of all faces, the largest first; an empty list where there are none."""
        ...

    def landmarks_at(self, picture: Picture, face: Face) -> Landmarks | None:
        """Landmarks of a face that another detector found; None where this model sees no face there."""
        ...


class Reconstructor(Protocol):
    """Pictures to coefficients of a parametric face. Its `coefficients` is differentiable."""

    def reconstruct(self, picture: Picture, five: Points) -> Reconstruction:
        """Coefficients of the face with these five points, a batch of one."""
        ...

    def coefficients(self, crops: Tensor) -> Tensor:
        """(B, 3, S, S) aligned crops in [-1, 1] -> (B, N) raw coefficients."""
        ...


class Recogniser(Protocol):
    """Faces to descriptors of identity. Differentiable in the pictures."""

    size: int
    """Side of the aligned crop in pixels."""

    def align(self, pictures: Tensor, points: Tensor, validate: bool = True) -> Tensor:
        """(B, 3, H, W) and landmarks (B, 68, 2) in pixels -> (B, 3, size, size) aligned crops."""
        ...

    def describe(self, crops: Tensor) -> Tensor:
        """(B, 3, size, size) aligned crops in [-1, 1] -> (B, D) descriptors of length 1."""
        ...


class Parser(Protocol):
    """Pictures to labels. Its `probabilities` is differentiable."""

    def parse(self, picture: Picture) -> Parsing:
        """Labels at the picture's own size."""
        ...

    def probabilities(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 19, H, W)."""
        ...


class Segmenter(Protocol):
    """Pictures to masks."""

    def masks(self, picture: Picture) -> Masks:
        """Hair and person at the picture's own size."""
        ...


def as_picture(picture: NDArray[Any]) -> Picture:
    """Check a picture and bring it to (H, W, 3): grey is repeated, a fourth channel is dropped.

    Raises:
        CopoError: It is not uint8, not (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or empty.
    """
    array = np.asarray(picture)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise CopoError(
            f"picture of shape {np.shape(picture)} and type {array.dtype}: give (H, W, 3) uint8, not empty "
            "(copo.formats.pictures.load_image)"
        )
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.require(array[:, :, :3], requirements=["C", "W"])


def to_tensor(picture: Picture) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(as_picture(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1


def resize(picture: Picture, width: int, height: int) -> Picture:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, smooth also where it gets much smaller."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0))


def describe_face(recogniser: Recogniser, picture: Picture, landmarks: Landmarks) -> NDArray[np.float32]:
    """The descriptor of one face, (D,) float32 of length 1."""
    with torch.no_grad():
        crop = recogniser.align(to_tensor(picture), torch.from_numpy(landmarks.points68)[None])
        return recogniser.describe(crop)[0].numpy()
