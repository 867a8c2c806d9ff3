"""Values at vertices as a texture picture, for files that other programs shade."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from copo.errors import CopoError
from copo.head.protocol import HeadTopology
from copo.head.raster import interpolate, rasterize


def bake_texture(values: Tensor, topology: HeadTopology, size: int) -> Tensor:
    """Draw the mesh in its texture layout.

    Texels that no triangle covers take the value of the nearest one that is covered, so that filtering across a seam
    finds no foreign colour.

    Args:
        values: (V, 3) colours at the vertices, [0, 1].
        topology: A head's topology with a texture layout.
        size: Side of the texture in texels, 16 to 8192.

    Returns:
        (size, size, 3) uint8 on the CPU; the first row is v = 1.

    Raises:
        CopoError: The head has no layout, or the size is out of range.
    """
    if topology.uv is None or topology.uv_faces is None:
        raise CopoError("this head has no texture layout: export vertex colours instead")
    if not 16 <= size <= 8192:
        raise CopoError(f"texture of {size} texels: choose 16 to 8192")
    uv, uv_faces, faces = topology.uv.cpu(), topology.uv_faces.cpu(), topology.faces.cpu()
    # A flat sheet one metre before a camera with unit focal length: a point's texel is its (u, 1 - v) times the size.
    sheet = torch.stack([uv[:, 0], 1 - uv[:, 1], torch.ones(len(uv))], dim=1)[None]
    fragments = rasterize(sheet, uv_faces, torch.eye(3)[None], size)
    picture = interpolate(values.detach().float().cpu(), faces, fragments)[0].movedim(0, -1)
    texels = (picture.clamp(0, 1) * 255).round().byte().numpy()
    nearest = ndimage.distance_transform_edt(~fragments.mask[0].numpy(), return_distances=False, return_indices=True)
    return torch.from_numpy(np.ascontiguousarray(texels[tuple(nearest)]))
