"""Photographs to what inversion needs of them: aligned picture, factors, camera, landmarks, labels.

By the analyser where its weights are there, else as in preparation: MediaPipe's landmarks and the head fitter.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.formats.pictures import from_uint8, load_image
from copo.preparation import alignment
from copo.preparation.config import PrepareConfig, QualityConfig
from copo.preparation.models import Models
from copo.preparation.process import Preparer
from copo.preparation.quality import face_mask
from copo.preparation.sources import PICTURE_SUFFIXES, Source
from copo.preparation.units import Unit
from copo.vision.analyser import Analyser, Analysis

Picture = NDArray[np.uint8]
Looker = Literal["auto", "analyser", "fitter"]

BYSTANDER = 0.4
"""Faces smaller than this share of the largest one are people in the background, and never asked about."""
LARGEST_FILE = 64 << 20
"""Bytes of the largest photograph that is read."""
_ANYTHING = QualityConfig(**{f.name: 0.0 for f in fields(QualityConfig)})


@dataclass(frozen=True)
class Photographs:
    """N photographs of one person, aligned as the generator was trained.

    Attributes:
        pictures: (N, 3, S, S) in [-1, 1].
        camera: (N).
        factors: (N) as analysed; shape and albedo are the same in all; the noise code is zero.
        points68: (N, 68, 2) landmarks in pixels.
        labels: (N, S, S) int64 parser classes, or None.
        face: (N, 1, S, S) 1 inside the face, 0 elsewhere.
        looker: What analysed them.
    """

    pictures: Tensor
    camera: Camera
    factors: Factors
    points68: Tensor
    labels: Tensor | None
    face: Tensor
    looker: str

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device | str) -> Photographs:
        """On another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Photographs(
            self.pictures.to(device), self.camera.to(device), self.factors.to(device), self.points68.to(device), labels,
            self.face.to(device), self.looker,
        )  # fmt: skip


def read_photographs(
    paths: Sequence[str | Path], size: int, face: int | None = None, looker: Looker = "auto"
) -> Photographs:
    """Look at the photographs of one person.

    Args:
        paths: Files; all show the same person.
        size: Side of the aligned pictures: the generator's output resolution.
        face: Which face, counted from the left, from 1; needed where there are several of about one size.
        looker: auto takes the analyser where its weights are there.

    Raises:
        CopoError: No photograph, one that cannot be read, has no face or several, or another person; or a model is
            missing.
    """
    if not paths:
        raise CopoError("no photograph given: name at least one picture of the person")
    if face is not None and face < 1:
        raise CopoError(f"--face {face}: faces are counted from the left, from 1")
    names = [str(path) for path in paths]
    pictures = [_read(Path(path)) for path in paths]
    analyser = None
    if looker != "fitter":
        try:
            analyser = Analyser.load()
        except CopoError:
            if looker == "analyser":
                raise
    if analyser is not None:
        return _analysed(analyser, pictures, names, size, face)
    return _fitted(paths, pictures, names, size, face)


def _read(path: Path) -> Picture:
    if path.is_file():
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            raise CopoError(f"{path}: {path.suffix or 'a name without ending'} is no picture: give a .jpg or .png")
        if path.stat().st_size > LARGEST_FILE:
            raise CopoError(f"{path}: more than {LARGEST_FILE >> 20} MiB: give a smaller photograph")
    picture = load_image(path)
    if min(picture.shape[:2]) < 16:
        raise CopoError(f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels are too few")
    return picture


def choose(boxes: NDArray[np.floating], face: int | None, name: str) -> int:
    """Which of the faces is meant.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        face: Counted from the left, from 1, or None.
        name: Of the photograph, for messages.

    Returns:
        Row of the face.

    Raises:
        CopoError: There is none, there are several and `face` is None, or fewer than `face`.
    """
    if not len(boxes):
        raise CopoError(f"{name}: no face was found; give a photograph that shows one from the front, larger")
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1).clip(0))
    large = np.flatnonzero(side >= BYSTANDER * side.max())
    order = large[np.argsort((boxes[large, 0] + boxes[large, 2]) / 2)]
    if face is None:
        if len(order) > 1:
            raise CopoError(f"{name}: {len(order)} faces; choose one with --face 1 to {len(order)}, from the left")
        return int(order[0])
    if face > len(order):
        raise CopoError(f"{name}: --face {face}, but there are {len(order)} faces; they are counted from the left")
    return int(order[face - 1])


# --- by the analyser --------------------------------------------------------------------------------------------


def _analysed(
    analyser: Analyser, pictures: Sequence[Picture], names: Sequence[str], size: int, face: int | None
) -> Photographs:
    found: list[Analysis] = []
    for picture, name in zip(pictures, names, strict=True):
        faces = analyser.analyse(picture)
        boxes = np.array([item.landmarks.box for item in faces], np.float32).reshape(-1, 4)
        found.append(faces[choose(boxes, face, name)])
    scale = size / analyser.size
    factors = Factors.cat([item.factors for item in found])
    one = factors.identity.mean(0)  # the analyser looks at each photograph alone
    points, aligned, labels = [], [], []
    for picture, item in zip(pictures, found, strict=True):
        matrix = item.matrix * scale
        aligned.append(alignment.warp(picture, matrix, size))
        points.append(alignment.apply(matrix, item.points68))
        classes = torch.from_numpy(item.labels)[None]
        classes = torch.nn.functional.interpolate(classes, (size, size), mode="bilinear", align_corners=False)
        labels.append(classes[0].argmax(0))
    return _together(
        aligned,
        Camera(
            torch.cat([item.portrait_camera.cam2world for item in found]),
            torch.cat([item.portrait_camera.intrinsics for item in found]),
        ),
        factors.replace(identity=one),
        points,
        torch.stack(labels),
        "analyser",
    )


# --- by landmarks and the head fitter -----------------------------------------------------------------------------


def _fitted(
    paths: Sequence[str | Path], pictures: Sequence[Picture], names: Sequence[str], size: int, face: int | None
) -> Photographs:
    preparer = Preparer(PrepareConfig(size=max(size, 64), quality=_ANYTHING))
    sources = []
    for path, picture, name in zip(paths, pictures, names, strict=True):
        box = " ".join(f"{v:.2f}" for v in _face_box(preparer.models, picture, face, name))
        sources.append(Source(name, str(path), None, Path(path).stat().st_size, {"face_box": box}))
    result = preparer.run(Unit.of(sources))
    for rejected in result.rejected:
        raise CopoError(f"{rejected.name}: {rejected.reasons[0][1]}; leave this photograph out")
    rows = [item.portrait for item in result.accepted]
    people = {row.manifest["identity"] for row in rows}
    if len(people) > 1:
        first = rows[0].manifest["identity"]
        other = next(n for n, row in zip(names, rows, strict=True) if row.manifest["identity"] != first)
        raise CopoError(f"{other} shows somebody else than {names[0]}: give photographs of one person")
    shrink = size / max(size, 64)
    aligned = [_opened(row.picture, size) for row in rows]
    labels = [
        torch.from_numpy(_opened(row.labels, size, Image.Resampling.NEAREST)).long() for row in rows if row.labels
    ]
    factors = [row.factors for row in rows if row.factors is not None]
    points = [row.points68 * np.float32(shrink) for row in rows if row.points68 is not None]
    camera = Camera.from_eg3d(torch.from_numpy(np.stack([row.camera for row in rows])))
    return _together(aligned, camera, Factors.cat(factors), points, torch.stack(labels), "fitter")


def _face_box(models: Models, picture: Picture, face: int | None, name: str) -> NDArray[np.floating]:
    """(4,) box of the face that is meant."""
    found, others = models.landmarks(picture)
    boxes = np.concatenate([np.zeros((0, 4), np.float32) if found is None else found.box[None], others])
    return boxes[choose(boxes, face, name)]


def _opened(data: bytes, size: int, resampling: Image.Resampling = Image.Resampling.LANCZOS) -> Picture:
    image = Image.open(io.BytesIO(data))
    return np.array(image if image.size == (size, size) else image.resize((size, size), resampling))


def _together(
    aligned: Sequence[Picture], camera: Camera, factors: Factors, points: Sequence[NDArray[np.float32]],
    labels: Tensor | None, looker: str,
) -> Photographs:  # fmt: skip
    size = aligned[0].shape[0]
    face = np.stack([face_mask(p, size) for p in points])
    return Photographs(
        from_uint8(np.stack(aligned)),
        camera,
        factors,
        torch.from_numpy(np.stack(points)).float(),
        labels,
        torch.from_numpy(face)[:, None].float(),
        looker,
    )


def needs_open_head(model_head: str) -> None:
    """Refuse models whose factors no looker finds.

    Raises:
        CopoError: The head is not the open one.
    """
    if model_head != "open_head":
        raise CopoError(
            f"this model has the factors of head {model_head!r}: only models of the open head can be inverted"
        )
