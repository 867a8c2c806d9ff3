"""The committed landmark placement (texture coordinates) turned into vertices and barycentric positions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .source import Floats, Ints

PLACEMENT = Path(__file__).with_name("landmarks.json")


def locate(points: Floats, uv: Floats, uv_faces: Ints) -> tuple[Ints, Floats]:
    """Triangle and barycentric weights at (N, 2) texture coordinates; the nearest triangle where none contains it."""
    corner = uv[uv_faces]  # (F, 3, 2)
    a, ab, ac = corner[:, 0], corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    usable = np.abs(area) > 1e-14
    area = np.where(usable, area, 1.0)
    faces, weights = [], []
    for point in points:
        ap = point - a
        v = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / area
        w = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / area
        bary = np.stack([1 - v - w, v, w], 1)
        outside = -bary.clip(max=0).sum(1)
        distance = np.linalg.norm(
            np.einsum("fk,fkd->fd", bary.clip(0) / bary.clip(0).sum(1, keepdims=True), corner) - point, axis=1
        )
        best = int(np.argmin(np.where(usable, distance + 1e-9 * outside, np.inf)))
        clipped = bary[best].clip(0)
        faces.append(best)
        weights.append(clipped / clipped.sum())
    return np.array(faces), np.array(weights)


def read_placement() -> tuple[Floats, Floats]:
    """(68, 2) and (478, 2) texture coordinates."""
    data = json.loads(PLACEMENT.read_text())
    return np.array(data["ibug68_uv"]), np.array(data["mediapipe478_uv"])


def nearest_vertices(points: Floats, uv: Floats, uv_faces: Ints, faces: Ints) -> Ints:
    """The vertex with the largest weight at each texture coordinate."""
    face, weight = locate(points, uv, uv_faces)
    return faces[face, weight.argmax(1)]
