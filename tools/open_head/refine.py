"""Which quads of the bust are too large, region by region, and how fine they become."""

from __future__ import annotations

import numpy as np

from .mesh import Polygons, subdivide
from .source import Floats

# Regions on the base mesh (dm) and the longest edge that they may keep (dm).
FACE_EDGE = 0.1
BROW_EDGE = 0.045
LIP_EDGE = 0.05
SKULL_EDGE = 0.22
NECK_EDGE = 0.35
TEETH_EDGE = 0.035
LEVELS = 3


def sample_mask(mask: Floats, uv: Floats) -> Floats:
    """Nearest mask value at (..., 2) texture coordinates."""
    height, width = mask.shape
    row = ((1 - uv[..., 1]) * height).astype(int).clip(0, height - 1)
    column = (uv[..., 0] * width).astype(int).clip(0, width - 1)
    return mask[row, column]


def _longest_allowed(centre: Floats, part: str, lips: float, inside: float, normal: Floats) -> float:
    x, y, z = abs(centre[0]), centre[1], centre[2]
    if part.endswith("teeth"):
        outside = normal[2] > 0.15 and z > 1.15
        return TEETH_EDGE if outside else 1.0
    if part != "body" or inside > 0.5:
        return 1.0
    if lips > 0.5:
        return LIP_EDGE
    if 7.42 < y < 7.70 and x < 0.64 and z > 0.85:
        return BROW_EDGE
    if z > 0.75 and 6.25 < y < 8.1:
        return FACE_EDGE
    if y > 6.6:
        return SKULL_EDGE
    return NECK_EDGE


def refine(mesh: Polygons, control: Floats, lips: Floats, inside: Floats) -> Polygons:
    """Catmull-Clark, up to `LEVELS` times, on the quads longer than their region allows.

    Args:
        mesh: The bust as cut.
        control: (C, 3) control positions of the base mesh.
        lips, inside: Region masks over the UV layout.
    """
    for _ in range(LEVELS):
        position = mesh.weights @ control
        chosen = set()
        for f, (corners, uvs) in enumerate(zip(mesh.faces, mesh.uv_faces, strict=True)):
            if len(corners) != 4 or mesh.part[f].startswith("eye"):
                continue
            p = position[corners]
            uv = mesh.uv[uvs].mean(0)
            normal = np.cross(p[2] - p[0], p[3] - p[1])
            normal /= np.linalg.norm(normal) + 1e-12
            allowed = _longest_allowed(
                p.mean(0), mesh.part[f], float(sample_mask(lips, uv)), float(sample_mask(inside, uv)), normal
            )
            if np.linalg.norm(p - np.roll(p, -1, 0), axis=1).max() > allowed:
                chosen.add(f)
        if not chosen:
            break
        mesh = subdivide(mesh, chosen)
    return mesh
