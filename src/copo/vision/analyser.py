"""The analyser as an adapter: photographs to factors, camera, landmarks and labels, all told with their uncertainty.

It needs no other model: its finder looks at the whole picture, a first look at the found square tells the landmarks,
and the portrait is then cut out by FFHQ's alignment and analysed. It offers every protocol but the recogniser's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from copo.camera import DEEP3D_FOCAL, DEEP3D_SIZE, Camera
from copo.errors import CopoError
from copo.factors import Factors, FactorSpec
from copo.head.protocol import PARSER_CLASSES
from copo.vision.align import crop, inverse, transform
from copo.vision.analyser_file import load_analyser
from copo.vision.networks.analyser import (
    DEPTH_UNIT,
    TANGENT_UNIT,
    AnalyserNetwork,
    AnalyserOutput,
    decode_finder,
    decode_translation,
)
from copo.vision.points import MEDIAPIPE_68
from copo.vision.portrait_pose import camera_of, ffhq_square
from copo.vision.protocols import Face, Landmarks, Parsing, Picture, Points, Reconstruction, as_picture, to_tensor


@dataclass(frozen=True)
class AnalyserSettings:
    """Thresholds."""

    find_size: int = 192
    """Longer side of the picture in which faces are looked for first, pixels."""
    second_find_size: int = 448
    """Where no face was found, look again at this size; 0 does not."""
    score: float = 0.5
    """Faces below are dropped."""
    overlap: float = 0.3
    """Squares that overlap by more (intersection over union) are one face."""
    looks: int = 1
    """Looks at the landmarks before the portrait is cut out."""
    background: float = 0.0
    """Value in [-1, 1] of what lies outside of the picture."""


@dataclass(frozen=True)
class Analysis:
    """One face.

    Attributes:
        factors: A batch of one; the noise code is zero.
        camera: The camera of the whole picture, in the world that rests with the head.
        portrait_camera: That of the aligned portrait (12.6 degrees, centred).
        matrix: (2, 3) float64 from picture pixels to portrait pixels (256).
        points68: (68, 2) in picture pixels, iBUG's order.
        points478: (478, 2) in picture pixels, MediaPipe's order.
        sigma68: (68,) standard deviation in picture pixels.
        sigma478: (478,) likewise.
        labels: (19, S/2, S/2) float32 probabilities over the portrait.
        sigma: Standard deviations of shape, albedo, expression, illumination, and of rotation (3, radians about the
            viewer's axes) and translation (3, metres).
        score: Confidence that there is a face, 0 to 1.
    """

    factors: Factors
    camera: Camera
    portrait_camera: Camera
    matrix: NDArray[np.float64]
    points68: Points
    points478: Points
    sigma68: Points
    sigma478: Points
    labels: NDArray[np.float32]
    sigma: dict[str, NDArray[np.float32]]
    score: float

    @property
    def landmarks(self) -> Landmarks:
        """The 478 points with the expression units as blendshapes."""
        names = self.factors.spec.expression_names
        values = self.factors.expression[0].tolist()
        return Landmarks(self.points478, self.score, None, dict(zip(names, values, strict=True)))


class Analyser:
    """A `Detector`, `Landmarker`, `Reconstructor` and `Parser` of the open head's factors."""

    def __init__(
        self,
        network: AnalyserNetwork,
        spec: FactorSpec,
        settings: AnalyserSettings | None = None,
        device: torch.device | str = "cpu",
        gains: Mapping[str, float] | None = None,
    ) -> None:
        """Args:
        network: In evaluation mode.
        spec: The factors that it tells.
        settings: Thresholds.
        device: Where it runs.
        gains: Of expression units, for `driving_expression` alone; 1 where left out.
        """
        self.network = channels_last(fused(network).to(device))
        self.spec, self.settings = spec, settings or AnalyserSettings()
        self.device = torch.device(device)
        self.size = network.config.size
        self.gains = dict(gains or {})

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        settings: AnalyserSettings | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read the weights.

        Args:
            path: A file that training made; by default the one in the package.
            settings: Thresholds.
            device: Where it runs.

        Raises:
            CopoError: The file is missing, damaged, or something else.
        """
        file = load_analyser(path)
        return cls(file.network, file.spec, settings, device, file.gains)

    # --- whole pictures -----------------------------------------------------------------------------------------

    def analyse(self, picture: Picture, at: Sequence[Face] | None = None) -> list[Analysis]:
        """Everything about the faces of a picture, the largest first.

        Args:
            picture: (H, W, 3) uint8.
            at: Faces to look at; by default all that are found.
        """
        picture = as_picture(picture)
        faces = self.detect(picture) if at is None else list(at)
        if not faces:
            return []
        with torch.inference_mode():
            tensor = self._tensor(picture)
            matrix = _face_matrices(faces, self.size)
            for _ in range(max(self.settings.looks, 1)):
                matrix = self._aligned_by(self._crops(tensor, matrix), matrix)
            output = self.network(self._crops(tensor, matrix))
        return [self._analysis(picture, output, matrix, i, face.score) for i, face in enumerate(faces)]

    def follow(self, picture: Picture, before: Analysis) -> Analysis | None:
        """The same face in the next frame of a video, looked for where it was; None where it is there no more."""
        x, y, side, angle = square_of(before.matrix, self.size)
        found = self.analyse(picture, [_face(np.array([x, y, side, angle]), before.score)])[0]
        spread = float(np.median(found.sigma478)) / side
        moved = float(np.linalg.norm(found.points478.mean(0) - before.points478.mean(0))) / side
        return found if spread < _LOST_SPREAD and moved < _LOST_MOVE else None

    def detect(self, picture: Picture) -> list[Face]:
        """All faces, the largest first. A face's `box` is FFHQ's upright square around it."""
        picture = as_picture(picture)
        found = self._find(picture, self.settings.find_size)
        if not found and self.settings.second_find_size:
            found = self._find(picture, self.settings.second_find_size)
        return found

    def landmarks(self, picture: Picture) -> list[Landmarks]:
        """478 landmarks of all faces with their expression units, the largest first."""
        return sorted((found.landmarks for found in self.analyse(picture)), key=lambda marks: -marks.area)

    def landmarks_at(self, picture: Picture, face: Face) -> Landmarks | None:
        """Landmarks of a face that any detector found."""
        return self.analyse(picture, [_squared(face)])[0].landmarks

    def reconstruct(self, picture: Picture, five: Points) -> Reconstruction:
        """Factors and camera of the face with these five points."""
        five = np.asarray(five, np.float32)
        if five.shape != (5, 2) or not np.isfinite(five).all():
            raise CopoError(f"alignment: five points of shape {five.shape}: give (5, 2) finite pixel positions")
        found = self.analyse(picture, [Face(np.zeros(4, np.float32), 1.0, five)])[0]
        focal = DEEP3D_FOCAL / DEEP3D_SIZE
        intrinsics = found.portrait_camera.intrinsics.clone()
        intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
        camera = Camera(found.portrait_camera.cam2world, intrinsics)
        pose = camera.to_deep3d()
        matrix = torch.from_numpy(found.matrix).float()[None] * DEEP3D_SIZE / self.size
        height, width = picture.shape[:2]
        scale = float(matrix[0, :, :2].det().abs().sqrt())
        middle = inverse(matrix)[0] @ torch.tensor([DEEP3D_SIZE / 2, DEEP3D_SIZE / 2, 1.0])
        record = torch.tensor([[width, height, scale, float(middle[0]), height - float(middle[1])]])
        return Reconstruction(found.factors, camera, pose.angles, pose.translation, matrix, record)

    def parse(self, picture: Picture) -> Parsing:
        """Labels of the largest face's portrait at the picture's own size; background outside of the portrait.

        Raises:
            CopoError: There is no face.
        """
        picture = as_picture(picture)
        found = self.analyse(picture)
        if not found:
            raise CopoError("no face was found in the picture: give one that shows a face, larger or less turned")
        probabilities = whole_labels(found[0], picture.shape[1], picture.shape[0])
        return Parsing(probabilities.argmax(0).astype(np.uint8), probabilities)

    # --- aligned portraits, differentiable ------------------------------------------------------------------------

    def probabilities(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) aligned portraits in [-1, 1] -> (B, 19, S, S) class probabilities. Differentiable."""
        labels = self.network(self._scaled(pictures)).labels
        size = pictures.shape[2:]
        return F.interpolate(labels, size=size, mode="bilinear", align_corners=False).softmax(1)

    def coefficients(self, crops: Tensor) -> Tensor:
        """(B, 3, S, S) aligned portraits in [-1, 1] -> (B, 209) shape, albedo, expression, light. Differentiable."""
        output = self.network(self._scaled(crops))
        return torch.cat([output.shape, output.albedo, output.expression, output.illumination], dim=1)

    def factors(self, output: AnalyserOutput) -> Factors:
        """The factors that the network told; the noise code is zero. Differentiable."""
        noise = output.shape.new_zeros(len(output.shape), self.spec.noise)
        return Factors(self.spec, output.shape, output.albedo, output.expression, output.illumination, noise)

    def driving_expression(self, expression: Tensor) -> Tensor:
        """(B, E) units as read -> those that make a portrait do the same: times their gains, within their range."""
        gains = [self.gains.get(name, 1.0) for name in self.spec.expression_names]
        return (expression * expression.new_tensor(gains)).clamp(*self.spec.expression_range)

    # --- inside -------------------------------------------------------------------------------------------------

    def _tensor(self, picture: Picture) -> Tensor:
        return to_tensor(picture).to(self.device)

    def _scaled(self, pictures: Tensor) -> Tensor:
        if pictures.shape[2:] == (self.size, self.size):
            return pictures
        size = (self.size, self.size)
        return F.interpolate(pictures, size=size, mode="bilinear", align_corners=False, antialias=True)

    def _crops(self, picture: Tensor, matrix: Tensor) -> Tensor:
        """(1, 3, H, W), (B, 2, 3) -> (B, 3, S, S)."""
        level = self.settings.background
        whole = picture - level
        cut = [crop(whole, one[None].float(), self.size) for one in matrix]
        return (torch.cat(cut) + level).contiguous(memory_format=torch.channels_last)

    def _aligned_by(self, crops: Tensor, matrix: Tensor) -> Tensor:
        """Matrices of FFHQ's alignment by the landmarks in a first cut, or that cut's own where they make no sense."""
        points = self.network.landmarks(crops)[:, 68:].double().cpu() * self.size
        better = ffhq_matrices(transform(inverse(matrix), points)[:, list(MEDIAPIPE_68)], self.size)
        larger = (better[:, :, :2].det() / matrix[:, :, :2].det()).abs().sqrt()
        sane = (larger > 1 / _LARGEST_CHANGE) & (larger < _LARGEST_CHANGE)
        return torch.where(sane[:, None, None], better, matrix)

    def _find(self, picture: Picture, longer: int) -> list[Face]:
        height, width = picture.shape[:2]
        scale = longer / max(height, width)
        small = (max(round(height * scale), 1), max(round(width * scale), 1))
        with torch.inference_mode():
            tensor = _reduced(self._tensor(picture), small)
            right, below = -small[1] % 32, -small[0] % 32
            padded = F.pad(tensor, (0, right, 0, below)).contiguous(memory_format=torch.channels_last)
            scores, squares = decode_finder(self.network.find(padded))
        score, square = scores[0].cpu().numpy(), squares[0].cpu().numpy().astype(np.float64)
        keep = score >= self.settings.score
        score, square = score[keep], square[keep]
        square[:, 0] *= width / small[1]
        square[:, 1] *= height / small[0]
        square[:, 2] /= scale
        chosen: list[int] = []
        for i in np.argsort(-score, kind="stable"):
            if all(_overlap(square[i], square[j]) <= self.settings.overlap for j in chosen):
                chosen.append(int(i))
        faces = [_face(square[i], float(score[i])) for i in chosen]
        return sorted(faces, key=lambda face: -face.area)

    def _analysis(self, picture: Picture, output: AnalyserOutput, matrix: Tensor, i: int, score: float) -> Analysis:
        one = AnalyserOutput(*(value[i : i + 1].float().cpu() for value in output))
        back = inverse(matrix[i : i + 1])
        points = transform(back, one.points.double() * self.size)[0].numpy().astype(np.float32)
        pixels = self.size / float(matrix[i, :, :2].det().abs().sqrt())
        spread = (one.log_sigma_points.exp()[0] * pixels).numpy().astype(np.float32)
        metres = decode_translation(one.translation)
        portrait = camera_of(one.rotation, metres)
        parts = one.log_sigma[0].exp().split(list(self.network.config.sizes.values()))
        sigma = {name: part.numpy() for name, part in zip(self.network.config.sizes, parts, strict=True)}
        depth = float(metres[0, 2])
        sigma["translation"] = sigma["translation"] * np.float32(depth) * np.array(
            [TANGENT_UNIT, TANGENT_UNIT, DEPTH_UNIT], np.float32
        )  # fmt: skip
        return Analysis(
            factors=self.factors(one),
            camera=uncropped(portrait, matrix[i], self.size, picture.shape[1], picture.shape[0]),
            portrait_camera=portrait,
            matrix=matrix[i].numpy(),
            points68=points[:68],
            points478=points[68:],
            sigma68=spread[:68],
            sigma478=spread[68:],
            labels=one.labels[0].softmax(0).numpy(),
            sigma=sigma,
            score=score,
        )


_LOST_SPREAD, _LOST_MOVE = 0.06, 0.35
"""Beyond this uncertainty of landmarks, or this way from one frame to the next, a face is lost; shares of the side."""
_LARGEST_CHANGE = 2.5
"""Factor between the first cut and the alignment beyond which the landmarks are not believed."""
_MARGIN = 2.2
"""Side of FFHQ's square in units of a detector's box."""


def ffhq_matrices(points68: Tensor, size: int) -> Tensor:
    """(B, 68, 2) landmarks in picture pixels -> (B, 2, 3) from picture to portrait pixels."""
    centre, side, angle = ffhq_square(points68)
    return square_matrices(torch.cat([centre, side[:, None], angle[:, None]], dim=1), size)


def square_matrices(square: Tensor, size: int) -> Tensor:
    """(B, 4) centre x, centre y, side, angle of turned squares -> (B, 2, 3) that bring them to size x size pixels."""
    x, y, side, angle = square.unbind(1)
    scale = size / side.clamp_min(1e-3)
    c, s = angle.cos() * scale, angle.sin() * scale
    across = torch.stack([c, s, size / 2 - c * x - s * y], dim=1)
    down = torch.stack([-s, c, size / 2 + s * x - c * y], dim=1)
    return torch.stack([across, down], dim=1)


def uncropped(camera: Camera, matrix: Tensor, size: int, width: int, height: int) -> Camera:
    """The camera of a picture, from that of a portrait cut out of it.

    A pixel p of the picture lies at s R p + d in the portrait: scaling and shifting change focal length and centre, and
    turning is a roll of the camera.

    Args:
        camera: Of the portrait, a batch of one.
        matrix: (2, 3) from picture to portrait pixels.
        size: Side of the portrait.
        width: Of the picture.
        height: Of the picture.
    """
    linear, shift = matrix[:, :2].float().cpu(), matrix[:, 2].float().cpu()
    scale = linear.det().abs().sqrt()
    turn = torch.eye(4)
    turn[:2, :2] = linear / scale
    k = camera.intrinsics[0]
    middle = torch.linalg.solve(linear, size * torch.stack([k[0, 2], k[1, 2]]) - shift)
    focal = size * k[0, 0] / scale
    intrinsics = torch.zeros(1, 3, 3)
    intrinsics[0, 0, 0], intrinsics[0, 1, 1] = focal / width, focal / height
    intrinsics[0, 0, 2], intrinsics[0, 1, 2] = middle[0] / width, middle[1] / height
    intrinsics[0, 2, 2] = 1
    return Camera(camera.cam2world @ turn, intrinsics)


def whole_labels(found: Analysis, width: int, height: int) -> NDArray[np.float32]:
    """(19, height, width) class probabilities of the whole picture; certain background outside of the portrait."""
    labels = torch.from_numpy(found.labels)[None]
    matrix = torch.from_numpy(found.matrix).float()[None] / 2  # the labels have half of the portrait's size
    away = labels.clone()
    away[:, 0] -= 1  # zeros outside then mean background
    out = crop(away, inverse(matrix), (height, width), antialias=False)
    out[:, PARSER_CLASSES.index("background")] += 1
    return out[0].clamp(0, 1).numpy()


def channels_last(network: AnalyserNetwork) -> AnalyserNetwork:
    """Weights in the order in which convolutions are fastest; changed in place."""
    moved: AnalyserNetwork = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def fused(network: AnalyserNetwork) -> AnalyserNetwork:
    """A copy in evaluation mode whose batch normalisations are folded into the convolutions before them."""
    network = deepcopy(network).eval()
    pairs: list[tuple[nn.Module, str, str]] = []
    for module in network.modules():
        names = list(module._modules)
        for first, second in pairwise(names):
            if isinstance(module._modules[first], nn.Conv2d) and isinstance(module._modules[second], nn.BatchNorm2d):
                pairs.append((module, first, second))
    for module, first, second in pairs:
        convolution, norm = module._modules[first], module._modules[second]
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        module._modules[first] = fuse_conv_bn_eval(convolution, norm)
        module._modules[second] = nn.Identity()
    return network.requires_grad_(False)


def _reduced(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Smaller in two steps: blocks first, which is fast, then smoothly."""
    block = min(picture.shape[2] // (2 * size[0]), picture.shape[3] // (2 * size[1]))
    if block > 1:
        picture = F.avg_pool2d(picture, block)
    return F.interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)


def _face(square: NDArray[np.floating], score: float) -> Face:
    """A turned square as a face: its box is upright, its eyes tell the turn."""
    x, y, side, angle = (float(v) for v in square)
    half = side / 2
    along = np.array([np.cos(angle), np.sin(angle)]) * side / 8  # FFHQ: the eyes are a quarter of the side apart
    up = np.array([np.sin(angle), -np.cos(angle)]) * side * 0.1 / 3.6
    middle = np.array([x, y]) + up
    eyes = np.stack([middle - along, middle + along]).astype(np.float32)
    return Face(np.array([x - half, y - half, x + half, y + half], np.float32), score, eyes=eyes)


def _squared(face: Face) -> Face:
    """A face of another detector, whose box is the face itself, with the box that `_face` gives."""
    if face.five is not None:
        return face
    x, y = (face.box[:2] + face.box[2:]) / 2
    side = float((face.box[2:] - face.box[:2]).max()) * _MARGIN
    angle = 0.0
    if face.eyes is not None:
        across = face.eyes[1] - face.eyes[0]
        angle = float(np.arctan2(across[1], across[0]))
    return _face(np.array([x, y, side, angle]), face.score)


def _face_matrices(faces: Sequence[Face], size: int) -> Tensor:
    """(B, 2, 3) from picture pixels to the first cut of each face."""
    squares = []
    for face in faces:
        if face.five is not None:
            eyes, mouth = face.five[:2].astype(np.float64), face.five[3:].astype(np.float64)
            across, up = eyes[1] - eyes[0], eyes.mean(0) - mouth.mean(0)
            centre = eyes.mean(0) - 0.1 * up
            side = max(4.0 * np.hypot(*across), 3.6 * np.hypot(*up))
            x, y = across - np.array([up[1], -up[0]])
            squares.append([*centre, side, np.arctan2(y, x)])
            continue
        x, y = (face.box[:2] + face.box[2:]) / 2
        angle = 0.0
        if face.eyes is not None:
            across = face.eyes[1] - face.eyes[0]
            angle = float(np.arctan2(across[1], across[0]))
        squares.append([x, y, float(face.box[2] - face.box[0]), angle])
    square = torch.tensor(np.array(squares), dtype=torch.float64)
    if not bool((square[:, 2] > 1e-3).all()):
        raise CopoError("alignment: a face has no size")
    return square_matrices(square, size)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection over union of two squares, taken upright."""
    low = np.maximum(a[:2] - a[2] / 2, b[:2] - b[2] / 2)
    high = np.minimum(a[:2] + a[2] / 2, b[:2] + b[2] / 2)
    shared = float((high - low).clip(0).prod())
    return shared / max(a[2] ** 2 + b[2] ** 2 - shared, 1e-9)


def square_of(matrix: NDArray[np.float64], size: int) -> tuple[float, float, float, float]:
    """Centre x, centre y, side and angle of the square that a (2, 3) matrix brings to size x size pixels."""
    linear = matrix[:, :2]
    x, y = np.linalg.solve(linear, size / 2 - matrix[:, 2])
    side = size / np.sqrt(abs(np.linalg.det(linear)))
    return float(x), float(y), float(side), float(np.arctan2(linear[0, 1], linear[0, 0]))
