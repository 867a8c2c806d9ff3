"""Everything of the open head that follows from the wheel alone: mesh, identity, expressions, regions, albedo."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from copo.factors import ARKIT_NAMES

from .albedo import AlbedoSpace, build_albedo
from .expression import build_expressions
from .identity import IdentitySpace, build_identity
from .mesh import cut_bust, triangulate
from .refine import refine
from .regions import Regions, find_regions
from .repair import LIP_SEAL, repair_weights
from .source import Floats, Ints, Source

SAMPLES, COMPONENTS = 20_000, 80
IDENTITY_SEED, ALBEDO_SEED = 0, 5


@dataclass(frozen=True)
class Bust:
    """Lengths in dm, on the axes of the base mesh.

    Attributes:
        weights: (V, C) sparse, vertices = weights @ control.
        faces, uv, uv_faces: Triangles and texture layout.
        regions: Masks and labels; `regions.position` is the base mesh.
        identity: Mean and components on the control vertices.
        expressions: (52, C, 3) on the control vertices.
        albedo: Mean and components over the vertices.
    """

    weights: sp.csr_matrix
    faces: Ints
    uv: Floats
    uv_faces: Ints
    regions: Regions
    identity: IdentitySpace
    expressions: Floats
    albedo: AlbedoSpace

    def vertices(self, shape: Floats | None = None, expression: dict[str, float] | None = None) -> Floats:
        """(V, 3) of one person, dm."""
        control = self.identity.mean.copy()
        if shape is not None:
            control += np.einsum("k,kcd->cd", shape, self.identity.components)
        for name, value in (expression or {}).items():
            control += value * self.expressions[ARKIT_NAMES.index(name)]
        return self.weights @ control


def build_bust(source: Source) -> Bust:
    control, polygons = cut_bust(source.base)
    rest = control.positions(source.base.vertices)
    repair = repair_weights(polygons, control, rest)
    polygons = refine(polygons, rest, source.mask("lips"), source.mask("inside-mouth"))
    polygons.weights = sp.csr_matrix(polygons.weights @ repair)
    position = polygons.weights @ rest
    faces, uv_faces, face_part = triangulate(polygons, position)
    expressions = build_expressions(source, control, ARKIT_NAMES)
    jaw_open = polygons.weights @ expressions[ARKIT_NAMES.index("jawOpen")]
    regions = find_regions(source, position, jaw_open, faces, polygons.uv, uv_faces, face_part)
    x, y, z = np.abs(rest[:, 0]), rest[:, 1], rest[:, 2]
    align = ((y > 6.9) & (x < 0.75) & (z > -0.2)).astype(float)
    metric = np.where(y > 6.2, 1.0, np.where(y > 5.8, 0.3, 0.06))
    identity = build_identity(source, control, align, metric, SAMPLES, COMPONENTS, IDENTITY_SEED)
    seal = LIP_SEAL * expressions[ARKIT_NAMES.index("mouthClose")]
    identity = replace(identity, mean=identity.mean + seal)
    albedo = build_albedo(regions, faces, ALBEDO_SEED)
    return Bust(polygons.weights, faces, polygons.uv, uv_faces, regions, identity, expressions, albedo)
