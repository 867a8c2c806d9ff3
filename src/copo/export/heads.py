"""The parametric head of a portrait as a mesh with blendshapes and the portrait's own skin."""

from __future__ import annotations

from dataclasses import replace

import torch

from copo.export.views import (
    bake_views,
    check_layout,
    gather,
    head_depth,
    look_around,
    vertex_normals,
    with_substitute,
)
from copo.factors import Factors
from copo.field.blending import HAIR
from copo.formats.mesh import MeshData
from copo.head.texture import bake_texture
from copo.portrait import Portrait, neutral


def blendshape_head(
    model: Portrait, factors: Factors, texture: int = 2048, from_pictures: bool = True, psi: float = 1.0
) -> MeshData:
    """The head at rest with one blendshape for each expression of its model (ARKit's 52 units for the open head).

    The weights begin with the portrait's expression.

    Args:
        model: Draws the skin.
        factors: (1) portrait.
        texture: Side of the texture in texels; 0 for colours at the vertices.
        from_pictures: Take the skin from pictures of the portrait; otherwise the head model's own albedo.
        psi: Truncation of the pictures.

    Raises:
        CopoError: The model's head is not at hand or has no texture layout, or the size is out of range.
    """
    rest = neutral(factors)
    mesh = model.head_mesh(rest)
    head, person = model.head, rest.to(model.device)
    names = model.spec.expression_names
    morphs = {}
    with torch.no_grad():
        base = head.vertices(person.shape, person.expression)[0]
        for i, name in enumerate(names):
            unit = torch.zeros_like(person.expression)
            unit[0, i] = 1.0
            morphs[name] = (head.vertices(person.shape, unit)[0] - base).float().cpu().numpy()
        albedo = head.albedo(person.albedo)[0].clamp(0, 1).float().cpu()
    weights = {name: float(value) for name, value in zip(names, factors.expression[0].tolist(), strict=True)}
    mesh = replace(mesh, morphs=morphs, weights=weights)
    topology = head.topology
    if texture:
        check_layout(head, texture)
        assert topology.uv is not None and topology.uv_faces is not None
        if from_pictures:
            baked = bake_views(head, rest, look_around(model, rest, psi=psi), texture)
        else:
            baked = bake_texture(albedo, topology, texture)
        uv, uv_faces = topology.uv.cpu().numpy(), topology.uv_faces.cpu().numpy()
        return replace(mesh, colors=None, uv=uv, uv_faces=uv_faces, texture=baked.numpy())
    if not from_pictures:
        return mesh
    vertices, faces, skin = base.float().cpu(), topology.faces.cpu(), topology.labels.cpu() != HAIR
    views = look_around(model, rest, psi=psi)
    hidden = [head_depth(view, vertices, faces) for view in views]
    colors, weight = gather(views, vertices, vertex_normals(vertices, faces), hidden, skin)
    return replace(mesh, colors=with_substitute(colors, weight, albedo, skin).numpy())
