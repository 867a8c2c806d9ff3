"""The head's landmarks as a linear model of their own, with weights, and candidates for the sliding outline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from copo.errors import CopoError
from copo.head.protocol import PARSER_CLASSES, HeadModel
from copo.vision.fitting.config import GeometryConfig

OVAL: tuple[int, ...] = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150,
    136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""MediaPipe's face oval, from the top of the forehead over the person's left side and the chin."""

FOREHEAD: tuple[int, ...] = (10, 338, 297, 332, 284, 251, 162, 21, 54, 103, 67, 109)
LIPS: tuple[int, ...] = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
)  # fmt: skip
EYES: tuple[int, ...] = (
    263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398,
    33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173,
)  # fmt: skip
BROWS: tuple[int, ...] = (
    276, 283, 282, 295, 285, 300, 293, 334, 296, 336, 46, 53, 52, 65, 55, 70, 63, 105, 66, 107,
)  # fmt: skip
IRISES: tuple[int, ...] = tuple(range(468, 478))

_MARCH = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58, 0.51, 0.44)
"""Azimuths of the outline's candidates, as shares of the oval point's own azimuth."""


@dataclass(frozen=True)
class LandmarkModel:
    """Points of the head that a landmarker finds, linear in the coefficients.

    Attributes:
        mean: (N, 3) metres.
        basis: (N, 3, S + E) metres for each unit of shape, then expression.
        shape: Number of shape coefficients S.
        weight: (N,) relative weights.
        along: (N,) weight along the outline relative to across; 1 away from the outline.
        ring: (R,) landmarks that form the outline, in order around it; empty where there is none.
        candidate_mean: (R, K, 3) points of the surface that may take an outline point's place.
        candidate_basis: (R, K, 3, S + E).
        interocular: Distance of the outer corners of the eyes of the mean head, metres.
    """

    mean: Tensor
    basis: Tensor
    shape: int
    weight: Tensor
    along: Tensor
    ring: Tensor
    candidate_mean: Tensor
    candidate_basis: Tensor
    interocular: float

    def to(self, device: torch.device | str) -> LandmarkModel:
        """The same model on another device."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def linear_geometry(head: HeadModel) -> tuple[Tensor, Tensor]:
    """(V, 3) mean and (S + E, V, 3) basis of a head whose vertices are linear in shape and expression.

    Raises:
        CopoError: The head is not linear.
    """
    s, e = head.spec.shape, head.spec.expression
    with torch.no_grad():
        mean = head.vertices(torch.zeros(1, s), torch.zeros(1, e))[0]
        one = torch.eye(s + e)
        basis = head.vertices(one[:, :s].contiguous(), one[:, s:].contiguous()) - mean
        probe = torch.linspace(-1, 1, s + e)[None]
        error = head.vertices(probe[:, :s], probe[:, s:])[0] - mean - (probe @ basis.flatten(1)).view_as(mean)
    if float(error.abs().max()) > 1e-4:
        raise CopoError(f"head {head.name!r} is not linear in shape and expression: HeadFitter needs a linear head")
    return mean, basis


def landmark_model(
    head: HeadModel, geometry: tuple[Tensor, Tensor], count: int, config: GeometryConfig
) -> LandmarkModel:
    """The landmark model of a head on the CPU.

    Args:
        head: Gives the landmarks.
        geometry: `linear_geometry` of the head.
        count: 478 or 68.
        config: Weights.

    Raises:
        CopoError: The head has no MediaPipe landmarks.
    """
    mean, basis = geometry
    topology = head.topology
    if count == 68:
        rows, shares = topology.landmarks68[:, None], torch.ones(68, 1)
    else:
        if topology.landmarks478_faces is None or topology.landmarks478_barycentric is None:
            raise CopoError(f"head {head.name!r} has no MediaPipe landmarks: give 68 points or use the open head")
        rows, shares = topology.faces[topology.landmarks478_faces], topology.landmarks478_barycentric
    points = (mean[rows] * shares[..., None]).sum(1)
    units = (basis[:, rows] * shares[..., None]).sum(2).permute(1, 2, 0).contiguous()
    weight, along = _weights(count, config)
    corners = topology.landmarks68[[36, 45]]
    ring = torch.tensor(OVAL if count == 478 else tuple(range(17)))
    # iBUG's jaw follows the outline as the head turns; MediaPipe's oval stays where it is on the face
    march = _candidates(head, mean, points[ring]) if count == 68 else torch.zeros(len(ring), 0, dtype=torch.int64)
    return LandmarkModel(
        mean=points,
        basis=units,
        shape=head.spec.shape,
        weight=weight,
        along=along,
        ring=ring,
        candidate_mean=torch.cat([points[ring][:, None], mean[march]], dim=1),
        candidate_basis=torch.cat([units[ring][:, None], basis[:, march].permute(1, 2, 3, 0)], dim=1).contiguous(),
        interocular=float((mean[corners[0]] - mean[corners[1]]).norm()),
    )


def _weights(count: int, config: GeometryConfig) -> tuple[Tensor, Tensor]:
    weight, along = torch.ones(count), torch.ones(count)
    if count == 68:
        weight[:17] = config.weight_contour
        along[:17] = config.weight_along
        weight[17:27] = config.weight_brows
        weight[36:48] = config.weight_eyes
        weight[48:] = config.weight_lips
        return weight * 3, along  # 68 well-spread points tell more than 68 of 478 do
    for part, value in (
        (LIPS, config.weight_lips), (EYES, config.weight_eyes), (BROWS, config.weight_brows),
        (IRISES, config.weight_irises), (OVAL, config.weight_contour), (FOREHEAD, config.weight_forehead),
    ):  # fmt: skip
        weight[list(part)] = value
    along[list(OVAL)] = config.weight_along
    return weight, along


def _candidates(head: HeadModel, mean: Tensor, ring: Tensor) -> Tensor:
    """(R, K) vertices of the skin at the height of each outline point, marching from it towards the front."""
    skin = torch.nonzero(head.topology.labels == PARSER_CLASSES.index("skin"))[:, 0]
    axis = ring[:, 2].amin() - 0.01  # the vertical axis around which azimuths are counted lies behind the outline
    place = _cylinder(mean[skin], axis)
    targets = _cylinder(ring, axis)[:, None].repeat(1, len(_MARCH), 1)
    targets[:, :, 0] *= torch.tensor(_MARCH)
    wide = 0.07  # metres an azimuth of one radian is long
    scale = torch.tensor([wide, 1.0])
    distance = torch.cdist((targets * scale).flatten(0, 1), place * scale)
    depth = mean[skin, :2].new_zeros(len(skin))
    outward = torch.stack([mean[skin, 0], mean[skin, 2] - axis], dim=1).norm(dim=1)
    depth = (0.05 - outward).clamp_min(0)  # prefer the outer surface to nostrils and the inside of the mouth
    return skin[(distance + depth).argmin(1)].view(len(ring), len(_MARCH))


def _cylinder(points: Tensor, axis: Tensor) -> Tensor:
    """(N, 3) -> (N, 2): azimuth around the vertical axis at depth `axis` (radians, 0 in front), height (metres)."""
    return torch.stack([torch.atan2(points[:, 0], points[:, 2] - axis), points[:, 1]], dim=1)
