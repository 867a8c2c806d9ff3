"""The Basel Face Model as a head, and the method's exact functions on it.

The model itself must be requested from its owners and is never part of a checkpoint: its data are buffers that no state
dict holds.

As a `HeadModel` it lives in the scene: metres, at the place where the method's generator has its face. The functions
whose names say "camera" or "picture" are those of the published program, in its own units (0.1 m, pixels, y up).
"""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from copo.camera import DEEP3D_CENTRE, DEEP3D_DISTANCE, DEEP3D_FOCAL, DEEP3D_OFFSET, DEEP3D_UNIT, euler_zyx
from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.formats.bfm import BfmFrontModel, bfm_spec, load_bfm
from copo.head.protocol import PARSER_CLASSES, HeadTopology
from copo.head.shading import sh_shading

# Outlines by iBUG landmark; "left" is the person's left, at +x.
_EYE_RIGHT = (36, 37, 38, 39, 40, 41)
_EYE_LEFT = (42, 43, 44, 45, 46, 47)
_LIP_UPPER = (48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60)
_LIP_LOWER = (54, 55, 56, 57, 58, 59, 48, 60, 67, 66, 65, 64)


class BaselFaceModel(nn.Module):
    """The Basel Face Model 2009, front, with expressions; a `copo.head.protocol.HeadModel`.

    Attributes:
        name: "bfm09".
        spec: Sizes and names; expressions are exp_00, exp_01, ... of a PCA.
        topology: Triangles, labels, landmarks. There are no texture coordinates and no MediaPipe landmarks. Labels are
            eyes and lips inside their landmarks' outlines in the mean face seen from the front, never where the model's
            own mask says skin; everything else is skin. (The model has neither hair nor neck, teeth nor tongue.)
    """

    name = "bfm09"

    def __init__(self, model: BfmFrontModel, noise: int = 128) -> None:
        """Take over a model's data.

        Args:
            model: What `copo.formats.bfm.load_bfm` returns.
            noise: Length of the noise code in `spec`.
        """
        super().__init__()
        shape, albedo = model.shape_basis.shape[1], model.texture_basis.shape[1]
        self.spec: FactorSpec = bfm_spec(shape, albedo, model.expression_basis.shape[1], noise)
        mean_shape = torch.from_numpy(np.ascontiguousarray(model.mean_shape))
        for name, value in (
            ("mean_shape", mean_shape - mean_shape.double().mean(0).float()),
            ("mean_albedo", torch.from_numpy(np.ascontiguousarray(model.mean_texture)) / 255),
            ("shape_basis", _basis(model.shape_basis)),
            ("expression_basis", _basis(model.expression_basis)),
            ("albedo_basis", _basis(model.texture_basis) / 255),
            ("vertex_faces", torch.from_numpy(model.vertex_faces)),
        ):
            self.register_buffer(name, value, persistent=False)
        self.mean_shape: Tensor
        self.mean_albedo: Tensor
        self.shape_basis: Tensor
        self.expression_basis: Tensor
        self.albedo_basis: Tensor
        self.vertex_faces: Tensor
        self.topology = HeadTopology(
            faces=torch.from_numpy(model.faces),
            uv=None,
            uv_faces=None,
            labels=torch.from_numpy(_labels(model)),
            landmarks68=torch.from_numpy(model.landmarks68),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], noise: int = 128) -> Self:
        """Read the user's copy: `BFM_model_front.mat`, its folder, or a folder with the original files.

        Raises:
            CopoError: A file is missing, truncated or wrong.
        """
        return cls(load_bfm(path), noise)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Let the topology follow the buffers to their device."""
        super()._apply(fn, recurse)
        self.topology = self.topology.to(str(self.mean_shape.device))
        return self

    # --- as a head in the scene ---------------------------------------------------------------------------------

    def vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        """(B, n_shape), (B, n_expression) -> (B, V, 3) metres in the scene: (v + (0, -0.1, 0)) / 10."""
        points = self.model_vertices(shape, expression)
        return (points + points.new_tensor(DEEP3D_OFFSET)) * DEEP3D_UNIT

    def albedo(self, albedo: Tensor) -> Tensor:
        """(B, n_albedo) -> (B, V, 3) RGB, nominally in [0, 1]; not clamped."""
        _check(albedo, "albedo", self.spec.albedo)
        return self.mean_albedo + (albedo @ self.albedo_basis).unflatten(1, (-1, 3))

    def landmarks68(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 68, 3), iBUG order."""
        return vertices.index_select(1, self.topology.landmarks68)

    # --- as the published program has it ------------------------------------------------------------------------

    def model_vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        """(B, n_shape), (B, n_expression) -> (B, V, 3) in the model's own frame, units of 0.1 m, mean at the origin.

        Raises:
            CopoError: A coefficient vector has the wrong length.
        """
        _check(shape, "shape", self.spec.shape)
        _check(expression, "expression", self.spec.expression)
        offsets = shape @ self.shape_basis + expression @ self.expression_basis
        return self.mean_shape + offsets.unflatten(1, (-1, 3))

    def camera_vertices(self, shape: Tensor, expression: Tensor, angles: Tensor, translation: Tensor) -> Tensor:
        """Vertices before Deep3DFaceRecon's camera: v (Rz Ry Rx)^T + t, then z becomes 10 - z, the depth.

        Args:
            shape: (B, n_shape).
            expression: (B, n_expression).
            angles: (B, 3) about x, y, z in radians.
            translation: (B, 3) in units of 0.1 m.

        Returns:
            (B, V, 3): x right, y up, z depth; units of 0.1 m.
        """
        posed = self.model_vertices(shape, expression) @ euler_zyx(angles).mT + translation[:, None]
        return torch.cat([posed[..., :2], DEEP3D_DISTANCE - posed[..., 2:]], dim=-1)

    def picture_landmarks(self, camera_vertices: Tensor) -> Tensor:
        """(B, V, 3) of `camera_vertices` -> (B, 68, 2) pixels of a 224 px picture, y up from its lower border."""
        points = self.landmarks68(camera_vertices)
        return DEEP3D_FOCAL * points[..., :2] / points[..., 2:] + DEEP3D_CENTRE

    def normals(self, model_vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, V, 3) unit normals: the mean of the unit normals of the triangles listed for each vertex.

        (`copo.head.shading.vertex_normals` weights triangles by area instead; the published colours need this one.)
        """
        a, b, c = model_vertices[:, self.topology.faces].unbind(2)
        of_faces = F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        of_faces = torch.cat([of_faces, torch.zeros_like(of_faces[:, :1])], dim=1)
        return F.normalize(of_faces[:, self.vertex_faces].sum(2), dim=-1)

    def colors(self, shape: Tensor, expression: Tensor, albedo: Tensor, angles: Tensor, illumination: Tensor) -> Tensor:
        """Vertex colours under spherical-harmonic light that stands with the camera.

        Args:
            shape: (B, n_shape).
            expression: (B, n_expression).
            albedo: (B, n_albedo).
            angles: (B, 3) about x, y, z in radians.
            illumination: (B, 27).

        Returns:
            (B, V, 3) RGB, nominally in [0, 1]; not clamped.
        """
        normals = self.normals(self.model_vertices(shape, expression)) @ euler_zyx(angles).mT
        return sh_shading(normals, illumination) * self.albedo(albedo)


def _basis(basis: NDArray[np.float32]) -> Tensor:
    """(3 V, n) of the file -> (n, 3 V), contiguous: one row for each coefficient."""
    return torch.from_numpy(np.ascontiguousarray(basis.T))


def _check(values: Tensor, name: str, size: int) -> None:
    if values.ndim != 2 or values.shape[1] != size:
        raise CopoError(f"{name} coefficients have shape {tuple(values.shape)}: head 'bfm09' needs (B, {size})")


def _labels(model: BfmFrontModel) -> NDArray[np.int64]:
    """(V,) parser classes: see `BaselFaceModel.topology`."""
    points = model.mean_shape[:, :2].astype(np.float64)
    corners = points[model.landmarks68]
    labels = np.full(len(points), PARSER_CLASSES.index("skin"), np.int64)
    free = model.skin_mask < 0.5
    for name, outline in (
        ("eye_right", _EYE_RIGHT),
        ("eye_left", _EYE_LEFT),
        ("lip_upper", _LIP_UPPER),
        ("lip_lower", _LIP_LOWER),
    ):
        labels[_inside(points, corners[list(outline)]) & free] = PARSER_CLASSES.index(name)
    return labels


def _inside(points: NDArray[np.float64], outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N, 2), (M, 2) -> (N,): which points lie in a polygon, by the number of edges that a ray to +x crosses."""
    inside = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crossing = x0 + (points[:, 1] - y0) * (x1 - x0) / (y1 - y0)
        inside ^= ((y0 > points[:, 1]) != (y1 > points[:, 1])) & (points[:, 0] < crossing)
    return inside
