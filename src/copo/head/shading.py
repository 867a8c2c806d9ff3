"""Normals of a mesh and the method's spherical-harmonic shading.

The method lights a Lambertian surface by nine spherical-harmonic coefficients for each colour:

    shading(n) = sum_i (gamma_i + 0.8 [i = 0]) a_l(i) Y_i(n),    colour = albedo * shading

with the band factors `BAND_FACTORS` and the basis of `sh_basis` (Deng et al., "Accurate 3D face reconstruction with
weakly-supervised learning", 2019; the published program keeps the constants). `copo.illumination` converts physical
light to these coefficients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from copo.errors import CopoError
from copo.illumination import BAND_FACTORS, BASE_LIGHT, sh_basis


def sh_shading(normals: Tensor, illumination: Tensor) -> Tensor:
    """The light that a white surface sends out, by the method's formula.

    Args:
        normals: (B, N, 3) unit vectors in the frame of the light.
        illumination: (B, 27) or (1, 27) gamma: nine coefficients of red, of green, of blue.

    Returns:
        (B, N, 3) RGB factor on the albedo. About 1 under an average light; negative where the coefficients describe no
        physical light.

    Raises:
        CopoError: The illumination is not (B, 27).
    """
    if illumination.ndim != 2 or illumination.shape[1] != 27:
        raise CopoError(f"illumination has shape {tuple(illumination.shape)}: expected (B, 27), 9 for each colour")
    gamma = illumination.unflatten(1, (3, 9))
    bands = (gamma[..., :1] + BASE_LIGHT, gamma[..., 1:4], gamma[..., 4:])
    light = torch.cat([band * factor for band, factor in zip(bands, BAND_FACTORS, strict=True)], dim=-1)
    return sh_basis(normals) @ light.mT


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(B, V, 3), (F, 3) -> (B, F, 3): outward normals whose length is twice the triangle's area."""
    a, b, c = vertices.index_select(1, faces.flatten()).unflatten(1, (-1, 3)).unbind(2)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals of a mesh's vertices: the mean of their triangles' normals, weighted by area.

    (The Basel face model gives every triangle the same weight instead: see `copo.head.bfm`.)

    Args:
        vertices: (B, V, 3).
        faces: (F, 3) int64, counter-clockwise seen from outside.

    Returns:
        (B, V, 3) unit vectors; 0 at a vertex without a triangle. Differentiable.
    """
    normals = face_normals(vertices, faces)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total = total.index_add(1, corner, normals)
    return F.normalize(total, dim=-1, eps=1e-20)
