"""How hidden a vertex is: baked into the skin where shading by normals alone would leave nostrils and ears flat."""

from __future__ import annotations

import numpy as np

from .source import Floats, Ints

DIRECTIONS = 40
REACH = 0.45  # dm: only what lies this near can hide a vertex


def _sphere(count: int) -> Floats:
    """(count, 3) evenly spread directions (golden spiral)."""
    i = np.arange(count) + 0.5
    z, around = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z * z)
    return np.c_[r * np.cos(around), r * np.sin(around), z]


def vertex_normals(position: Floats, faces: Ints) -> Floats:
    """(V, 3) area-weighted unit normals."""
    corner = position[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    total = np.zeros_like(position)
    for k in range(3):
        np.add.at(total, faces[:, k], normal)
    return total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-12)


def occlusion(position: Floats, normals: Floats, faces: Ints, chosen: Ints) -> Floats:
    """Cosine-weighted share of blocked directions above the surface.

    Args:
        position: (V, 3) dm.
        normals: (V, 3) unit normals.
        faces: (F, 3).
        chosen: (N,) vertices to look from.

    Returns:
        (N,) in [0, 1].
    """
    middle = position[faces].mean(1)
    rays = _sphere(DIRECTIONS)
    out = np.zeros(len(chosen))
    for n, vertex in enumerate(chosen):
        near = faces[(np.linalg.norm(middle - position[vertex], axis=1) < REACH) & (faces != vertex).all(1)]
        start = position[vertex] + 0.004 * normals[vertex]
        facing = rays @ normals[vertex]
        up = rays[facing > 0.05]
        a = position[near[:, 0]]
        ab, ac = position[near[:, 1]] - a, position[near[:, 2]] - a
        cross = np.cross(up[:, None], ac[None])  # (D, F, 3)
        volume = (cross * ab).sum(2)
        volume = np.where(np.abs(volume) < 1e-12, 1e-12, volume)
        from_a = start - a
        u = (cross * from_a).sum(2) / volume
        side = np.cross(from_a, ab)
        v = up @ side.T / volume
        far = (side * ac).sum(1) / volume
        hit = ((u >= 0) & (v >= 0) & (u + v <= 1) & (far > 0)).any(1)
        weight = facing[facing > 0.05]
        out[n] = (weight * hit).sum() / weight.sum() if len(weight) else 0.0
    return out
