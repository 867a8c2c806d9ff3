"""Where is what on the head: soft region masks and the 19 parser classes, drawn on the base mesh (dm, y up, z forward).

"Left" classes (2, 4, 7) are the person's left, +x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mesh import EYE_CONVERGENCE
from .refine import sample_mask
from .repair import hidden_pocket
from .source import Floats, Ints, Source

# Curves y(z) in profile: scalp above HAIRLINE, neck below JAWLINE.
HAIRLINE = (
    (-1.3, 6.70), (-0.4, 6.72), (0.1, 6.85), (0.35, 6.98), (0.50, 7.05), (0.66, 7.12), (0.76, 7.20), (0.80, 7.45),
    (0.88, 7.66), (0.98, 7.78), (1.06, 7.88), (1.12, 7.97), (1.20, 8.03), (1.6, 8.05),
)  # fmt: skip
JAWLINE = (
    (0.15, 6.95),
    (0.30, 6.84),
    (0.45, 6.62),
    (0.60, 6.42),
    (0.75, 6.27),
    (0.95, 6.16),
    (1.15, 6.12),
    (1.6, 6.10),
)
# The brow of the left side: x, y of its middle line, half its height (dm).
BROW = ((0.110, 7.482, 0.026), (0.18, 7.494, 0.030), (0.28, 7.508, 0.029), (0.38, 7.518, 0.024), (0.46, 7.512, 0.018),
        (0.545, 7.484, 0.010))  # fmt: skip


def soft_step(value: Floats, edge: float, width: float) -> Floats:
    """0 below, 1 above `edge`, smooth over `width`."""
    t = ((value - edge) / width + 0.5).clip(0, 1)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True)
class Brow:
    """On a brow: `along` is 0 at the nose, 1 at the temple; `across` -1 at its lower, 1 at its upper edge."""

    along: Floats
    across: Floats


def brow_coordinates(p: Floats) -> Brow:
    x, y, half = np.array(BROW).T
    side = np.abs(p[:, 0])
    across = (p[:, 1] - np.interp(side, x, y)) / np.interp(side, x, half)
    hidden = p[:, 2] < 0.9
    return Brow((side - x[0]) / (x[-1] - x[0]), np.where(hidden, 99.0, across))


@dataclass(frozen=True)
class Regions:
    """Masks in [0, 1] over the V vertices, and labels.

    Attributes:
        position: (V, 3) on the base mesh, dm.
        part: (V,) name of the mesh part.
        labels: (V,) parser class.
        lips, ears, inside, scalp, neck, cloth, brow, nose: soft masks.
        upper: 1 where a lip vertex belongs to the upper lip.
        eye_angle: (V,) angle from the line of sight on the eyeballs (radians), pi elsewhere.
    """

    position: Floats
    part: NDArray[np.str_]
    labels: Ints
    lips: Floats
    upper: Floats
    ears: Floats
    inside: Floats
    scalp: Floats
    neck: Floats
    cloth: Floats
    brow: Floats
    nose: Floats
    eye_angle: Floats


def _nose(p: Floats) -> Floats:
    """The bridge from between the eyes down to the wings and the base."""
    x, y = np.abs(p[:, 0]), p[:, 1]
    half = np.interp(y, (6.79, 6.83, 6.90, 7.0, 7.08, 7.2, 7.34), (0.10, 0.165, 0.185, 0.165, 0.12, 0.09, 0.075))
    return ((y > 6.79) & (y < 7.34) & (x < half) & (p[:, 2] > 1.2)).astype(float)


def vertex_mask(mask: Floats, uv: Floats, uv_faces: Ints, faces: Ints, count: int) -> Floats:
    """UV mask averaged over the corners that meet in each vertex."""
    value = sample_mask(mask, uv[uv_faces.reshape(-1)])
    total = np.bincount(faces.reshape(-1), value, count)
    return total / np.maximum(np.bincount(faces.reshape(-1), minlength=count), 1)


def find_regions(
    source: Source, position: Floats, jaw_open: Floats, faces: Ints, uv: Floats, uv_faces: Ints, face_part: list[str]
) -> Regions:
    """Labels and masks of the refined mesh.

    Args:
        source: Gives the UV masks.
        position: (V, 3) on the base mesh.
        jaw_open: (V, 3) displacement of the unit jawOpen: tells the lower lip from the upper one.
        faces, uv, uv_faces, face_part: The triangulated mesh.
    """
    p, count = position, len(position)
    part = np.full(count, "body", dtype="<U16")
    for name in sorted(set(face_part)):
        part[np.unique(faces[np.array(face_part) == name])] = name
    body = (part == "body").astype(float)
    masks = {
        n: body * vertex_mask(source.mask(n), uv, uv_faces, faces, count) for n in ("lips", "ears", "inside-mouth")
    }
    lips, ears, inside = masks["lips"], masks["ears"], masks["inside-mouth"]
    upper = (jaw_open[:, 1] > -0.09).astype(float)
    inside[hidden_pocket(p, faces[np.array(face_part) == "body"])] = 1.0
    lips = lips * (1 - inside)
    z, y, x = p[:, 2], p[:, 1], np.abs(p[:, 0])
    scalp = body * soft_step(y - np.interp(z, *np.array(HAIRLINE).T), 0.0, 0.12) * (1 - ears) * (1 - inside)
    jaw_y = np.interp(z, *np.array(JAWLINE).T)
    neck = body * soft_step(jaw_y - y, 0.0, 0.08) * (1 - scalp) * (1 - inside)
    collar = 5.62 + 0.22 * soft_step(x, 0.62, 0.35) + 0.16 * soft_step(-z, 0.0, 0.5)
    cloth = body * soft_step(collar - y, 0.0, 0.02)
    brow_at = brow_coordinates(p)
    brow = body * soft_step(1.25 - np.abs(brow_at.across), 0.0, 0.7)
    brow *= soft_step(brow_at.along, 0.04, 0.20) * soft_step(1 - brow_at.along, 0.0, 0.16)
    nose = body * _nose(p) * (1 - inside)

    left = p[:, 0] > 0
    labels = np.ones(count, dtype=np.int64)
    labels[nose > 0.5] = 10
    labels[brow > 0.5] = np.where(left, 2, 3)[brow > 0.5]
    labels[neck > 0.5] = 14
    labels[cloth > 0.5] = 16
    labels[scalp > 0.5] = 17
    labels[ears > 0.5] = np.where(left, 7, 8)[ears > 0.5]
    labels[lips > 0.5] = np.where(upper > 0.5, 12, 13)[lips > 0.5]
    labels[inside > 0.5] = 11
    labels[np.isin(part, ("upper_teeth", "lower_teeth", "tongue"))] = 11
    labels[part == "eye_left"] = 4
    labels[part == "eye_right"] = 5

    angle = np.full(count, np.pi)
    for name, turn in (("eye_left", -1.0), ("eye_right", 1.0)):
        on = part == name
        centre = (p[on].max(0) + p[on].min(0)) / 2
        sight = np.array([turn * np.sin(EYE_CONVERGENCE), 0, np.cos(EYE_CONVERGENCE)])
        unit = (p[on] - centre) / np.linalg.norm(p[on] - centre, axis=1, keepdims=True)
        angle[on] = np.arccos((unit @ sight).clip(-1, 1))
    return Regions(p, part, labels, lips, upper, ears, inside, scalp, neck, cloth, brow, nose, angle)
