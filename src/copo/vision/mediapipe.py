"""MediaPipe's models: faces with 478 landmarks and 52 blendshapes, hair and person masks.

The models are Google's (Apache-2.0); what happens around them follows the published graphs: 896 anchors and weighted
suppression in the detector, a square region 1.5 times the face with the eyes level for the landmarks. Those graphs
count pixels from the centre of the first one and take plain bilinear samples; half a pixel of the small square is a
percent of the eyes' distance, so the same is done here.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from copo.errors import CopoError
from copo.factors import ARKIT_NAMES
from copo.vision.boxes import suppress
from copo.vision.litert import LiteModel
from copo.vision.models import find_model
from copo.vision.protocols import Face, Landmarks, Masks, Picture, as_picture, resize

Array = NDArray[np.float64]

BLENDSHAPE_NAMES: tuple[str, ...] = ARKIT_NAMES[:-1]
"""The units that the blendshape model gives after its first output, `_neutral`: ARKit's without tongueOut."""

BLENDSHAPE_POINTS: tuple[int, ...] = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153, 154,
    155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251, 263,
    267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321,
    323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382, 384, 385, 386, 387,
    388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470, 471, 472, 473, 474, 475, 476, 477,
)  # fmt: skip
"""The landmarks that the blendshape model reads."""

_EYE_CORNERS = (33, 263)
_REGION = 1.5
"""Side of the landmark region in units of the face box."""


@dataclass(frozen=True)
class MediaPipeConfig:
    """Thresholds, from the published face landmarker."""

    detection_score: float = 0.5
    """Faces below are dropped."""
    suppression: float = 0.3
    """Boxes that overlap by more are one face."""
    presence_score: float = 0.5
    """Landmarks below are dropped: there is no face in the region."""
    passes: int = 2
    """Runs of the landmark model; each but the first looks where the last one found the face."""
    threads: int = 2
    """CPU threads for one call."""


class MediaPipeFaces:
    """A `Detector` and a `Landmarker`. It finds faces larger than about a tenth of the picture, not full profiles."""

    def __init__(self, path: str | Path | None = None, config: MediaPipeConfig | None = None) -> None:
        """Read the models.

        Args:
            path: The .task file; by default the fetched one.
            config: Thresholds.

        Raises:
            CopoError: The file is missing, truncated or another one, or the extra `mediapipe` is not installed.
        """
        self.config = config or MediaPipeConfig()
        path = Path(path) if path else find_model("mediapipe-face")
        parts = _unpack(path, ("face_detector", "face_landmarks_detector", "face_blendshapes"))
        title = f"MediaPipe model {path}"
        self._detector, self._landmarks, self._blendshapes = (
            LiteModel(content, title, self.config.threads) for content in parts
        )
        self._detector.expect(title, (1, 128, 128, 3), (1, 896, 16), (1, 896, 1))
        self._landmarks.expect(title, (1, None, None, 3), (1, 1, 1, 1434), (1, 1, 1, 1))
        self._blendshapes.expect(title, (1, 146, 2), (52,))

    def detect(self, picture: Picture) -> list[Face]:
        """All faces, the largest first."""
        picture = as_picture(picture)
        height, width = picture.shape[:2]
        size = 128
        scale = size / max(height, width)
        shift = np.array([(size - width * scale) / 2, (size - height * scale) / 2])
        square = _square(picture, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), size, black=True)
        out = self._detector(square * 2 - 1)
        scores = 1 / (1 + np.exp(-out[(1, 896, 1)][0, :, 0].astype(np.float64).clip(-100, 100)))
        keep = scores >= self.config.detection_score
        values = _decode(out[(1, 896, 16)][0].astype(np.float64))[keep]
        values, scores = suppress(values, scores[keep], self.config.suppression, blend=True)
        values[:, 0::2] = (values[:, 0::2] * size - shift[0]) / scale + 0.5
        values[:, 1::2] = (values[:, 1::2] * size - shift[1]) / scale + 0.5
        faces = [_face(row, score) for row, score in zip(values, scores, strict=True)]
        return sorted(faces, key=lambda face: -face.area)

    def landmarks(self, picture: Picture) -> list[Landmarks]:
        """478 landmarks and blendshapes of all faces, the largest first."""
        picture = as_picture(picture)
        found = [self.landmarks_at(picture, face) for face in self.detect(picture)]
        return sorted((marks for marks in found if marks is not None), key=lambda marks: -marks.area)

    def landmarks_at(self, picture: Picture, face: Face) -> Landmarks | None:
        """Landmarks of a face that any detector found; None where the model sees no face in its region."""
        picture = as_picture(picture)
        points = np.concatenate([face.box.reshape(2, 2) - 0.5, np.zeros((2, 1), np.float32)], axis=1)
        eyes: NDArray[np.floating] | None = face.five[:2] if face.five is not None else face.eyes
        score = 0.0
        for _ in range(max(self.config.passes, 1)):
            region = _region(points[:, :2], eyes)
            if region is None:
                return None
            points, score = self._run(picture, region)
            if not score >= self.config.presence_score:
                return None
            eyes = points[list(_EYE_CORNERS), :2]
        where = points[:, :2].astype(np.float32)
        values = self._blendshapes(where[list(BLENDSHAPE_POINTS)][None])[(52,)].clip(0, 1)
        shapes = {name: float(value) for name, value in zip(BLENDSHAPE_NAMES, values[1:], strict=True)}
        return Landmarks(where + np.float32(0.5), float(score), points[:, 2].astype(np.float32), shapes)

    def _run(self, picture: Picture, region: Array) -> tuple[Array, float]:
        """Points (478, 3) in pixels from the centre of the first one, and the presence score, from one square region.

        Args:
            picture: (H, W, 3) uint8.
            region: (2, 3) from picture pixels to the unit square.
        """
        size = self._landmarks.input_shape[1]
        out = self._landmarks(_square(picture, region * size, size, black=False))
        local = out[(1, 1, 1, 1434)].reshape(478, 3).astype(np.float64) / size
        back = np.linalg.inv(region[:, :2])
        points = (local[:, :2] - region[:, 2]) @ back.T
        depth = local[:, 2] * math.sqrt(abs(np.linalg.det(back)))
        logit = float(out[(1, 1, 1, 1)].reshape(()))
        score = 1 / (1 + math.exp(-max(min(logit, 100), -100)))
        return np.concatenate([points, depth[:, None]], axis=1), score


class MediaPipeMasks:
    """A `Segmenter`: hair (512 px) and person (256 px)."""

    def __init__(self, hair: str | Path | None = None, person: str | Path | None = None, threads: int = 2) -> None:
        """Read the models.

        Args:
            hair: hair_segmentation.tflite; by default the fetched one.
            person: selfie_segmentation.tflite; by default the fetched one.
            threads: CPU threads for one call.

        Raises:
            CopoError: A file is missing, truncated or another one, or the extra `mediapipe` is not installed.
        """
        hair = Path(hair) if hair else find_model("mediapipe-hair")
        person = Path(person) if person else find_model("mediapipe-person")
        self._hair = LiteModel(_read(hair), f"MediaPipe model {hair}", threads)
        self._person = LiteModel(_read(person), f"MediaPipe model {person}", threads)
        self._hair.expect(f"MediaPipe model {hair}", (1, 512, 512, 4), (1, 512, 512, 2))
        self._person.expect(f"MediaPipe model {person}", (1, 256, 256, 3), (1, 256, 256, 1))

    def masks(self, picture: Picture) -> Masks:
        """Hair and person at the picture's own size. The picture is squeezed into the models' squares."""
        picture = as_picture(picture)
        empty = np.zeros((1, 512, 512, 1), np.float32)  # the fourth channel: the mask of the frame before
        logits = torch.from_numpy(self._hair(np.concatenate([_scaled(picture, 512), empty], axis=3))[(1, 512, 512, 2)])
        hair = logits.softmax(3)[..., 1]
        person = torch.from_numpy(self._person(_scaled(picture, 256))[(1, 256, 256, 1)])[..., 0]
        size = picture.shape[0], picture.shape[1]
        both = [_resize(mask[:, None], size)[0, 0].clamp(0, 1).numpy() for mask in (hair, person)]
        return Masks(*both)


def _unpack(path: Path, names: tuple[str, ...]) -> list[bytes]:
    """The .tflite members of a .task file.

    Raises:
        CopoError: It is no zip, damaged, or lacks one of them.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(_read(path))) as archive:
            return [archive.read(f"{name}.tflite") for name in names]
    except KeyError as error:
        raise CopoError(f"MediaPipe model {path}: {error.args[0]}; give a face landmarker .task file") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CopoError(f"MediaPipe model {path}: truncated or not a .task file; get the file again") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CopoError(f"model {path}: {(error.strerror or 'cannot be read').lower()}") from None


def _square(picture: Picture, matrix: Array, size: int, black: bool) -> NDArray[np.float32]:
    """A square of the picture by plain bilinear samples; both sides are counted from the centre of the first pixel.

    Only the pixels that are needed are touched, so that the time does not depend on the size of the picture.

    Args:
        picture: (H, W, 3) uint8.
        matrix: (2, 3) from picture pixels to square pixels.
        size: Side of the square.
        black: The picture is surrounded by black; otherwise by its own edge.

    Returns:
        (1, size, size, 3) in [0, 1].
    """
    linear = np.linalg.inv(matrix[:, :2])
    ys, xs = np.mgrid[0:size, 0:size]
    where = (np.stack([xs, ys], axis=-1) - matrix[:, 2]) @ linear.T
    low = np.floor(where)
    share = (where - low)[..., None]
    limit = np.array([picture.shape[1], picture.shape[0]])
    out = np.zeros((size, size, 3))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at = low + np.array([dx, dy])
        weight = np.abs(1 - dx - share[..., 0, :]) * np.abs(1 - dy - share[..., 1, :])
        if black:
            weight = weight * ((at >= 0) & (at < limit)).all(-1, keepdims=True)
        column, row = (at.clip(0, limit - 1)).astype(np.intp).transpose(2, 0, 1)
        out += weight * picture[row, column]
    return (out / 255).astype(np.float32)[None]


def _scaled(picture: Picture, size: int) -> NDArray[np.float32]:
    """(H, W, 3) uint8 -> (1, size, size, 3) float32 in [0, 1]."""
    return resize(picture, size, size)[None].astype(np.float32) / np.float32(255)


def _resize(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(tensor, size=size, mode="bilinear", align_corners=False, antialias=True)


def _anchors() -> Array:
    """(896, 2) centres: two for each cell of 16 x 16, six for each cell of 8 x 8."""
    out = []
    for cells, count in ((16, 2), (8, 6)):
        ys, xs = np.meshgrid(np.arange(cells) + 0.5, np.arange(cells) + 0.5, indexing="ij")
        out.append(np.repeat(np.stack([xs, ys], axis=-1).reshape(-1, 2) / cells, count, axis=0))
    return np.concatenate(out)


_ANCHORS = _anchors()


def _decode(raw: Array) -> Array:
    """(896, 16) regressions -> (896, 16): box corners, then six points, as a share of the square."""
    values = raw / 128
    centres = values[:, :2] + _ANCHORS
    half = values[:, 2:4] / 2
    points = (values[:, 4:].reshape(-1, 6, 2) + _ANCHORS[:, None]).reshape(-1, 12)
    return np.concatenate([centres - half, centres + half, points], axis=1)


def _face(row: Array, score: float) -> Face:
    """The detector's points are the eyes, nose tip, middle of the mouth and ears; there are no mouth corners."""
    return Face(row[:4].astype(np.float32), float(score), eyes=row[4:8].reshape(2, 2).astype(np.float32))


def _region(points: NDArray[np.floating], eyes: NDArray[np.floating] | None) -> Array | None:
    """(2, 3) from picture pixels to the unit square: 1.5 times the points' box, turned so that the eyes are level.

    Args:
        points: (N, 2) whose box is the face.
        eyes: (2, 2) left and right in the picture; None keeps the picture upright.

    Returns:
        None where the box is empty or not finite.
    """
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    side = float((high - low).max()) * _REGION
    if not math.isfinite(side) or side < 1e-3:
        return None
    angle = 0.0 if eyes is None else math.atan2(float(eyes[1, 1] - eyes[0, 1]), float(eyes[1, 0] - eyes[0, 0]))
    cosine, sine = math.cos(angle) / side, math.sin(angle) / side
    linear = np.array([[cosine, sine], [-sine, cosine]])
    return np.concatenate([linear, (0.5 - linear @ (low + high) / 2)[:, None]], axis=1)
