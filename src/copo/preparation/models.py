"""The models that a preparation needs, behind the few questions that it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from copo.camera import METHOD_FOV, Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.head.bfm import BaselFaceModel
from copo.head.open_head import OpenHead
from copo.head.protocol import HeadModel, HeadTopology
from copo.preparation.config import PrepareConfig
from copo.vision.bisenet import BiSeNetParser
from copo.vision.deep3d import Deep3DReconstructor
from copo.vision.dlib_descriptor import DlibDescriptor
from copo.vision.fitting.config import FittingConfig
from copo.vision.fitting.fitter import HeadFitter
from copo.vision.fitting.observation import Observation, crop_camera
from copo.vision.mediapipe import MediaPipeConfig, MediaPipeFaces, MediaPipeMasks
from copo.vision.protocols import Landmarks, Masks, to_tensor
from copo.vision.yunet import YuNet, YuNetConfig

if TYPE_CHECKING:
    from copo.preparation.process import Aligned, Photo

Picture = NDArray[np.uint8]

SEARCH_SIZE = 1280
"""Longer side in pixels of the picture in which faces are looked for."""

ONE_PERSON = 0.5
"""Distance of a face descriptor from the mean of a person's others up to which it is believed to show that person.
Stricter than dlib's 0.6: in a set of 90 people, pictures of one from front and three-quarters lie within 0.45, and of
ten similar invented people eight are told apart."""


@dataclass(frozen=True)
class Fitted:
    """The fit of one photograph.

    Attributes:
        factors: A batch of one.
        photo_camera: The camera of the whole photograph.
        aligned_camera: The camera of the first alignment, where the fit was made there; else None.
        residual: Landmarks or outline, percent of the distance between the eyes; NaN where not measured.
        photometric: Root mean square colour difference, 0 to 1; NaN where not measured.
    """

    factors: Factors
    photo_camera: Camera
    aligned_camera: Camera | None
    residual: float
    photometric: float

    def camera_of(self, shape: tuple[int, ...], matrix: NDArray[np.float64], size: int) -> Camera:
        """The camera of an aligned picture cut out of the photograph.

        Args:
            shape: Height and width of the photograph first.
            matrix: (2, 3) from photograph to aligned pixels, of the first alignment.
            size: Side of the aligned picture.
        """
        if self.aligned_camera is not None:
            return self.aligned_camera
        turn = torch.from_numpy(matrix).float()[None]
        return crop_camera(self.photo_camera, shape[1], shape[0], turn, size)


class Models:
    """Reads what the choices ask for, and answers for one photograph or one person at a time."""

    def __init__(self, config: PrepareConfig) -> None:
        """Args: config: What to do."""
        self.config = config
        self._faces = MediaPipeFaces(config=MediaPipeConfig(threads=1))
        self._small_faces = _optional(lambda: YuNet(config=YuNetConfig(threads=1)))
        self._masks = MediaPipeMasks(threads=1) if config.parser == "masks" else None
        self._parser = BiSeNetParser.load() if config.parser == "bisenet" else None
        self._recogniser = _optional(DlibDescriptor.load) if config.verify_person else None
        self._deep3d: Deep3DReconstructor | None = None
        self._fitter: HeadFitter | None = None
        self._head: HeadModel | None = None
        if config.reconstructor == "deep3d":
            self._deep3d = Deep3DReconstructor.load()
            self._head = BaselFaceModel.load(config.bfm) if config.bfm else None
        else:
            self._head = OpenHead.load()
            self._fitter = HeadFitter(self._head, FittingConfig(quality=config.fit_quality))

    @property
    def fits_profiles(self) -> bool:
        """Whether a photograph without landmarks can be fitted from a known view and other photographs."""
        return self._fitter is not None

    @property
    def topology(self) -> HeadTopology:
        """Of the head.

        Raises:
            CopoError: There is no mesh.
        """
        if self._head is None:
            raise CopoError("the Basel Face Model is needed here: add --bfm DIR")
        return self._head.topology

    def vertices(self, factors: Factors) -> torch.Tensor | None:
        """(1, V, 3) metres; None without a mesh."""
        if self._head is None:
            return None
        with torch.no_grad():
            return self._head.vertices(factors.shape, factors.expression)

    def landmarks(self, picture: Picture, hint: str | None = None) -> tuple[Landmarks | None, NDArray[np.float32]]:
        """The face of a photograph, and the boxes of all others.

        Args:
            picture: (H, W, 3) uint8.
            hint: "left top right bottom" of the face that is meant, from a manifest; by default the largest.

        Returns:
            Landmarks in pixels of the picture, or None; (N, 4) boxes.
        """
        scale = min(1.0, SEARCH_SIZE / max(picture.shape[:2]))
        small = picture
        if scale < 1:
            image = Image.fromarray(picture)
            small = np.asarray(
                image.resize((round(image.width * scale), round(image.height * scale)), reducing_gap=2.0)
            )
        factors = np.array([picture.shape[1] / small.shape[1], picture.shape[0] / small.shape[0]], np.float32)
        found = self._faces.landmarks(small)
        if not found and self._small_faces is not None:
            seen = [self._faces.landmarks_at(small, face) for face in self._small_faces.detect(small)]
            found = sorted((marks for marks in seen if marks is not None), key=lambda marks: -marks.area)
        if not found:
            return None, np.zeros((0, 4), np.float32)
        found = [_scaled(marks, factors) for marks in found]
        chosen = 0 if hint is None else _nearest(found, hint)
        rest = [marks.box for i, marks in enumerate(found) if i != chosen]
        return found[chosen], np.array(rest, np.float32).reshape(-1, 4)

    def people(self, photos: Sequence[tuple[Picture, Landmarks | None]]) -> list[int]:
        """Which of several photographs show one person: a number for each, 0 for the person with the most.

        Photographs without landmarks count to person 0. Without the descriptor, all count as one person.
        """
        if self._recogniser is None:
            return [0] * len(photos)
        found = [i for i, (_, marks) in enumerate(photos) if marks is not None]
        vectors = [self._describe(*photos[i]) for i in found]
        groups = cluster(np.array(vectors, np.float32).reshape(len(found), -1), ONE_PERSON)
        out = [0] * len(photos)
        for i, group in zip(found, groups, strict=True):
            out[i] = group
        return out

    def _describe(self, picture: Picture, marks: Landmarks | None) -> NDArray[np.float32]:
        assert marks is not None and self._recogniser is not None
        points = marks.points68
        low, high = points.min(0), points.max(0)
        margin = 0.6 * (high - low)
        left, top = np.floor((low - margin).clip(0)).astype(int)
        right, bottom = np.ceil(high + margin).astype(int)
        window = picture[top:bottom, left:right]
        with torch.no_grad():
            place = torch.from_numpy(points - np.array([left, top], np.float32))[None]
            return self._recogniser.raw(self._recogniser.align(to_tensor(window), place))[0].numpy()

    def masks(self, picture: Picture) -> Masks | None:
        """Hair and person, or None where they are not needed."""
        return None if self._masks is None else self._masks.masks(picture)

    def parse(self, picture: Picture) -> NDArray[np.uint8]:
        """BiSeNet's labels."""
        assert self._parser is not None
        return self._parser.parse(picture).labels

    def fit(self, photos: Sequence[tuple[Photo, Aligned | None]], unit: str, share: bool) -> list[Fitted]:
        """Factors and cameras of the photographs of one unit.

        Args:
            photos: Each with its first alignment; None where there are no landmarks.
            unit: Name of the unit.
            share: Photographs of one group share shape and albedo.
        """
        if self._deep3d is not None:
            return [self._reconstruct(photo) for photo, _ in photos]
        assert self._fitter is not None
        whole = any(
            aligned is None for _, aligned in photos
        )  # a profile is scaled as the person's other photographs are
        observations = [self._observation(photo, None if whole else aligned) for photo, aligned in photos]
        if share:
            names = [f"{unit}/{photo.group}" for photo, _ in photos]
        else:
            names = [f"{unit}#{number}" for number in range(len(photos))]
        fit = self._fitter.fit([replace(o, identity=name) for o, name in zip(observations, names, strict=True)])
        return [
            Fitted(
                factors=fit.factors[i],
                photo_camera=fit.camera[i] if whole or aligned is None else _uncropped(fit.camera[i], aligned, photo),
                aligned_camera=None if whole else fit.camera[i],
                residual=float(fit.landmark_residual[i]),
                photometric=float(fit.photometric_residual[i]),
            )
            for i, (photo, aligned) in enumerate(photos)
        ]

    def _observation(self, photo: Photo, aligned: Aligned | None) -> Observation:
        """What the fitter is told: the aligned picture, or the whole photograph where it is None."""
        info, marks = photo.source.info, photo.marks
        expression = info.get("expression") or None
        if aligned is not None and marks is not None:
            points = aligned.points68 if aligned.points478 is None else aligned.points478
            return Observation(
                aligned.picture, points, marks.blendshapes, aligned.hair, aligned.person, expression=expression,
                fov=METHOD_FOV,
            )  # fmt: skip
        masks = self.masks(photo.picture)
        hair, person = (None, None) if masks is None else (masks.hair, masks.person)
        if marks is not None:
            return Observation(photo.picture, marks.points, marks.blendshapes, hair, person, expression=expression)
        return Observation(photo.picture, None, None, hair, person, view=_view(info), expression=expression)

    def _reconstruct(self, photo: Photo) -> Fitted:
        assert self._deep3d is not None and photo.marks is not None
        height, width = photo.picture.shape[:2]
        found = self._deep3d.reconstruct(photo.picture, photo.marks.five)
        return Fitted(found.factors, found.picture_camera(width, height), None, float("nan"), float("nan"))


def cluster(vectors: NDArray[np.float32], limit: float) -> list[int]:
    """Group descriptors so that each is nearer than `limit` to the mean of its group, the largest group first.

    Args:
        vectors: (N, D).
        limit: Distance.

    Returns:
        (N) numbers of groups.
    """
    groups: list[list[int]] = []
    for i, vector in enumerate(vectors):
        distances = [float(np.linalg.norm(vectors[group].mean(0) - vector)) for group in groups]
        if distances and min(distances) < limit:
            groups[int(np.argmin(distances))].append(i)
        else:
            groups.append([i])
    groups.sort(key=lambda group: (-len(group), group[0]))
    out = [0] * len(vectors)
    for number, group in enumerate(groups):
        for i in group:
            out[i] = number
    return out


def _optional(load: Any) -> Any:
    """A model that improves the result but is not needed; None where it is not on this machine."""
    try:
        return load()
    except CopoError:
        return None


def _scaled(marks: Landmarks, factors: NDArray[np.float32]) -> Landmarks:
    depth = None if marks.depth is None else marks.depth * float(factors.mean())
    return Landmarks(marks.points * factors, marks.score, depth, marks.blendshapes)


def _nearest(found: Sequence[Landmarks], hint: str) -> int:
    try:
        left, top, right, bottom = (float(v) for v in hint.replace(",", " ").split())
    except ValueError:
        raise CopoError(f"manifest: face_box {hint!r}: write left, top, right and bottom in pixels") from None
    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    return int(np.argmin([np.hypot(*((m.box[:2] + m.box[2:]) / 2 - middle)) for m in found]))


def _view(info: dict[str, str]) -> Any:
    return info.get("view") or None


def _uncropped(camera: Camera, aligned: Aligned, photo: Photo) -> Camera:
    """The camera of the photograph, from that of the aligned picture."""
    height, width = photo.picture.shape[:2]
    size = aligned.picture.shape[0]
    full = np.eye(3)
    full[:2] = aligned.matrix
    back = torch.from_numpy(np.linalg.inv(full)[:2]).float()[None]
    # crop_camera speaks of square crops: take a square as large as the photograph is wide, then correct the height
    square = crop_camera(camera, size, size, back, width)
    intrinsics = square.intrinsics.clone()
    intrinsics[:, 1] *= width / height
    return Camera(square.cam2world, intrinsics)
