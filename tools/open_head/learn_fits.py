"""Fits an open head to every portrait of a prepared data set, to learn from the fits."""

from __future__ import annotations

import math
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from copo.camera import Camera
from copo.factors import Factors
from copo.formats.dataset import PortraitDataset
from copo.head.open_head import OpenHead
from copo.head.protocol import PARSER_CLASSES
from copo.head.shading import sh_shading, vertex_normals
from copo.vision.fitting import HeadFitter, Observation
from copo.vision.fitting.appearance import FACE_CLASSES, face_vertices, visible_vertices

_CONTACT = 0.02  # a score below this is no expression
_CLASS = {name: i for i, name in enumerate(PARSER_CLASSES)}
_BRIGHTEST = 0.97  # a channel above this is clipped: no colour can be read from it


@dataclass(frozen=True)
class Photo:
    """A portrait and what the data set knows of it.

    Attributes:
        index: Row in the data set.
        picture: (S, S, 3) uint8.
        labels: (S, S) uint8.
        points: (478, 2) pixels.
        scores: Expression by name.
        person: Number of its person, 0 to P - 1.
        set: Which set it is from.
        neutral: Whether the person was asked to show no expression.
        fov: Vertical field of view, radians.
    """

    index: int
    picture: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    points: NDArray[np.float32]
    scores: dict[str, float]
    person: int
    set: str
    neutral: bool
    fov: float


@dataclass(frozen=True)
class Fits:
    """All photographs fitted with one head. N photographs, P people, K face vertices.

    Attributes:
        factors: (N).
        camera: (N) of the portraits.
        shape_sigma: (N, 80) posterior deviations.
        landmarks: (N,) mean residual, percent of the eyes' outer distance.
        colour: (N,) residual.
        person: (N,) whose each photograph is.
        visible: (N,) share of the face that is seen and no outlier.
        sets: (N,) names.
        neutral: (N,) bool.
        measured: (N, 478, 2) landmarks as shares of the picture's side.
        skin: (N, K, 3) colour of each face vertex divided by the fitted light; 0 where it is not seen.
        weight: (N, K) how well it is seen, 0 to 1.
        vertices: (K,) which vertices those are.
    """

    factors: Factors
    camera: Camera
    shape_sigma: Tensor
    landmarks: Tensor
    colour: Tensor
    visible: Tensor
    person: Tensor
    sets: NDArray[np.str_]
    neutral: NDArray[np.bool_]
    measured: Tensor
    skin: NDArray[np.float16]
    weight: NDArray[np.float16]
    vertices: NDArray[np.int64]


def read_photos(data: PortraitDataset) -> list[Photo]:
    """Portraits with measured landmarks; full profiles are left out."""
    assert data.factors is not None and data.points478 is not None
    people: dict[str, int] = {}
    names = data.factors.spec.expression_names
    photos = []
    for i, row in enumerate(data.manifest):
        if row["landmarks"] != "found" or row["view"].endswith("profile") or not np.isfinite(data.points478[i]).all():
            continue
        values = data.factors.expression[i].tolist()
        photos.append(
            Photo(
                index=i,
                picture=data.image(i),
                labels=data.labels(i),
                points=data.points478[i],
                scores={n: float(v) for n, v in zip(names, values, strict=True) if v > _CONTACT},
                person=people.setdefault(row["identity"], len(people)),
                set=row["set"],
                neutral=row["expression"] == "neutral",
                fov=2 * math.atan(0.5 / float(data.cameras.intrinsics[i, 1, 1])),
            )
        )
    return sorted(photos, key=lambda photo: photo.person)


def fit_photos(head: OpenHead, photos: list[Photo], workers: int = 2, batch: int = 16) -> Fits:
    """Fit all photographs, those of one person together, and read the skin of each.

    Args:
        head: The head.
        photos: Sorted by person.
        workers: Processes, of one thread each.
        batch: About how many photographs at once.
    """
    groups: dict[int, list[Photo]] = defaultdict(list)
    for photo in photos:
        groups[photo.person].append(photo)
    parts: list[list[Photo]] = [[]]
    for group in groups.values():
        if len(parts[-1]) + len(group) > batch and parts[-1]:
            parts.append([])
        parts[-1] += group
    with ProcessPoolExecutor(workers, get_context("fork"), _begin, (head,)) as pool:
        done = list(pool.map(_fit_part, parts))
    factors, cameras, rows, skins, weights = zip(*done, strict=True)
    sigma, marks, colour, visible = (torch.cat(column) for column in zip(*rows, strict=True))
    ordered = [photo for part in parts for photo in part]
    sides = torch.tensor([photo.picture.shape[0] for photo in ordered])
    return Fits(
        factors=Factors.cat(factors),
        camera=Camera(torch.cat([c.cam2world for c in cameras]), torch.cat([c.intrinsics for c in cameras])),
        shape_sigma=sigma,
        landmarks=marks,
        colour=colour,
        visible=visible,
        person=torch.tensor([photo.person for photo in ordered]),
        sets=np.array([photo.set for photo in ordered]),
        neutral=np.array([photo.neutral for photo in ordered]),
        measured=torch.from_numpy(np.stack([photo.points for photo in ordered])) / sides[:, None, None],
        skin=np.concatenate(skins),
        weight=np.concatenate(weights),
        vertices=face_vertices(head).numpy(),
    )


@dataclass(frozen=True)
class _Worker:
    head: OpenHead
    fitter: HeadFitter
    subset: Tensor


_worker: list[_Worker] = []


def _begin(head: OpenHead) -> None:
    torch.set_num_threads(1)
    _worker[:] = [_Worker(head, HeadFitter(head), face_vertices(head))]


def _fit_part(
    part: list[Photo],
) -> tuple[Factors, Camera, tuple[Tensor, Tensor, Tensor, Tensor], NDArray[np.float16], NDArray[np.float16]]:
    (own,) = _worker
    fit = own.fitter.fit([_observation(photo) for photo in part])
    skin, weight = _read_skin(own.head, part, fit.factors, fit.camera, own.subset)
    rows = (fit.shape_sigma, fit.landmark_residual, fit.photometric_residual, fit.visible)
    return fit.factors, fit.camera, rows, skin, weight


def _observation(photo: Photo) -> Observation:
    """The fitted expression stands for the blendshape scores that led to it."""
    return Observation(
        picture=photo.picture,
        landmarks=photo.points,
        blendshapes=photo.scores,
        hair=(photo.labels == _CLASS["hair"]).astype(np.float32),
        identity=str(photo.person),
        fov=photo.fov,
    )


def _read_skin(
    head: OpenHead, photos: list[Photo], factors: Factors, camera: Camera, subset: Tensor
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Colour over light at the face vertices, and how well each is seen."""
    with torch.no_grad():
        vertices = head.vertices(factors.shape, factors.expression)
        normals = vertex_normals(vertices, head.topology.faces)
        light = sh_shading(normals[:, subset], factors.illumination)
        seen = visible_vertices(vertices, normals, camera, subset, 0.3)
        place, _ = camera.project(vertices[:, subset])
        towards = F.normalize(camera.position[:, None] - vertices[:, subset], dim=-1)
        cosine = (normals[:, subset] * towards).sum(-1)
    own = head.topology.labels[subset]
    skins, weights = [], []
    for i, photo in enumerate(photos):
        at = place[i][None, None] * 2 - 1
        picture = torch.from_numpy(photo.picture).permute(2, 0, 1)[None].float() / 255
        colour = F.grid_sample(picture, at, mode="bilinear", align_corners=False)[0, :, 0].mT
        labels = torch.from_numpy(photo.labels)[None, None].float()
        label = F.grid_sample(labels, at, mode="nearest", align_corners=False)[0, 0, 0].long()
        good = seen[i] & _agrees(label, own) & (colour.amax(1) < _BRIGHTEST) & (light[i].amin(1) > 0.2)
        skin = (colour / light[i].clamp_min(0.2)).clamp(0.01, 0.97)
        skins.append((skin * good[:, None]).numpy().astype(np.float16))
        weights.append((good * cosine[i].clamp(0, 1)).numpy().astype(np.float16))
    return np.stack(skins), np.stack(weights)


def _agrees(label: Tensor, own: Tensor) -> Tensor:
    """Whether the picture's label at a vertex fits the vertex's own: lips on lips, skin on skin."""
    lips = torch.tensor([_CLASS["lip_upper"], _CLASS["lip_lower"]])
    face = torch.tensor([_CLASS[name] for name in FACE_CLASSES])
    return torch.isin(label, face) & (torch.isin(label, lips) == torch.isin(own, lips))
