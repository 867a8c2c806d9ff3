"""The open head: identity, the 52 ARKit units and skin on CC0 MakeHuman data, in one small asset (docs/open_head.md).

Geometry is linear: control vertices = mean + shape basis + expression basis, and the 8,923 vertices of the mesh are
fixed weighted sums of the 4,968 control vertices. Both steps are folded into one matrix when the asset is loaded.
Skin is exp(-exp(mean + basis @ coefficients)), which is pigment acting on optical density and stays within (0, 1).
"""

from __future__ import annotations

import itertools
import json
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.head.protocol import HeadTopology

ASSET = "open_head.safetensors"
FORMAT, VERSION = "copo.open_head", 1
NORMALISERS = {"shape": 0.4, "albedo": 0.5, "expression": 0.25, "illumination": 0.1}
"""Divisors in the networks' input: about the root mean square over fitted photographs, so that every factor is as large
as the noise code. (With the published 0.85 light was a ninth of it, and the mapping network hardly saw it.)"""
_REQUIRED = (
    "albedo_basis", "albedo_mean", "albedo_scale", "control_mean", "expression_delta", "expression_start",
    "expression_vertex", "faces", "labels", "landmarks478_face", "landmarks478_weight", "landmarks68", "shape_basis",
    "shape_explained", "subdivision_control", "subdivision_start", "subdivision_weight", "uv", "uv_faces",
)  # fmt: skip

Arrays = dict[str, NDArray[Any]]


class OpenHead(nn.Module):
    """A bust with eyes, teeth and tongue in the scene of the method: metres, y up, looking along +z.

    Attributes:
        name: "open_head".
        spec: 80 shape and 50 albedo coefficients, both N(0, 1) for people; 52 ARKit units in [0, 1].
        topology: Triangles, UV layout, parser labels, 68 and 478 landmarks.
        albedo_names: What each albedo coefficient changes, e.g. "tone", "freckles".
        shape_explained: (80,) share of the sampled heads' variance that each shape coefficient carries.
    """

    name: str = "open_head"
    _geometry_mean: Tensor
    _geometry_basis: Tensor
    _albedo_mean: Tensor
    _albedo_basis: Tensor

    def __init__(self, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Use `OpenHead.load`. `arrays` and `facts` are the tensors and the metadata of the asset."""
        super().__init__()
        control = arrays["control_mean"].astype(np.float32)
        shapes = arrays["shape_basis"].astype(np.float32)
        units = _dense_units(arrays, len(control))
        bases = _subdivide(arrays, np.concatenate([control[None], shapes, units]))
        self.register_buffer("_geometry_mean", torch.from_numpy(bases[0]), persistent=False)
        self.register_buffer("_geometry_basis", torch.from_numpy(bases[1:]).flatten(1).contiguous(), persistent=False)
        self.register_buffer("_albedo_mean", _float(arrays["albedo_mean"]), persistent=False)
        skin = _float(arrays["albedo_basis"]) * _float(arrays["albedo_scale"])[:, None, None]
        self.register_buffer("_albedo_basis", skin.flatten(1).contiguous(), persistent=False)
        self.albedo_names: tuple[str, ...] = tuple(facts["albedo_names"])
        self.shape_explained: Tensor = _float(arrays["shape_explained"])
        self.spec = FactorSpec(
            head=self.name,
            shape=len(shapes),
            albedo=len(self.albedo_names),
            expression_names=tuple(facts["expression_names"]),
            normalisers=NORMALISERS,
        )
        self.topology = HeadTopology(
            faces=_index(arrays["faces"]),
            uv=_float(arrays["uv"]) / 65535,
            uv_faces=_index(arrays["uv_faces"]),
            labels=_index(arrays["labels"]),
            landmarks68=_index(arrays["landmarks68"]),
            landmarks478_faces=_index(arrays["landmarks478_face"]),
            landmarks478_barycentric=_float(arrays["landmarks478_weight"]),
        )

    @classmethod
    def load(cls, path: str | Path | None = None) -> Self:
        """Read the asset.

        Args:
            path: Another asset file than the packaged one.

        Raises:
            CopoError: The file is missing, truncated or not an open head.
        """
        if path is None:
            with resources.as_file(resources.files("copo") / "assets" / ASSET) as packaged:
                return cls(*read_asset(packaged))
        return cls(*read_asset(Path(path)))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.topology = self.topology.to(str(self._geometry_mean.device))
        return self

    def vertices(self, shape: Tensor, expression: Tensor) -> Tensor:
        """(B, 80) and (B, 52) -> (B, V, 3) metres. A batch of one is expanded to the other's. Differentiable.

        Raises:
            CopoError: A tensor has another number of columns, or the batches differ.
        """
        shape = self._checked("shape", shape, self.spec.shape)
        expression = self._checked("expression", expression, self.spec.expression)
        if len(shape) != len(expression) and 1 not in (len(shape), len(expression)):
            raise CopoError(
                f"batches differ: {len(shape)} shapes and {len(expression)} expressions; give as many of both"
            )
        batch = max(len(shape), len(expression))
        coefficients = torch.cat([shape.expand(batch, -1), expression.expand(batch, -1)], dim=1)
        return self._geometry_mean + (coefficients @ self._geometry_basis).unflatten(1, (-1, 3))

    def albedo(self, albedo: Tensor) -> Tensor:
        """(B, 50) -> (B, V, 3) display-referred sRGB in (0, 1). Differentiable.

        Raises:
            CopoError: The tensor has another number of columns.
        """
        albedo = self._checked("albedo", albedo, self.spec.albedo)
        return torch.exp(-torch.exp(self._albedo_mean + (albedo @ self._albedo_basis).unflatten(1, (-1, 3))))

    def landmarks68(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 68, 3), iBUG order, beginning at the person's right."""
        return vertices[:, self.topology.landmarks68]

    def landmarks478(self, vertices: Tensor) -> Tensor:
        """(B, V, 3) -> (B, 478, 3), MediaPipe order, the last ten on the irises."""
        faces, weights = self.topology.landmarks478_faces, self.topology.landmarks478_barycentric
        assert faces is not None and weights is not None
        return (vertices[:, self.topology.faces[faces]] * weights[..., None]).sum(2)

    def _checked(self, name: str, value: Tensor, size: int) -> Tensor:
        if value.ndim != 2 or value.shape[1] != size:
            raise CopoError(f"{name} has shape {tuple(value.shape)}: the open head expects (B, {size})")
        return value.to(self._geometry_mean.dtype)


def read_asset(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the facts of an open-head file.

    Raises:
        CopoError: The file is missing, truncated, or something else.
    """
    rebuild = "restore it or build it with tools/build_open_head.py"
    if not path.is_file():
        raise CopoError(f"open head {path} is missing: {rebuild}")
    try:
        with safe_open(str(path), framework="np") as file:
            facts = json.loads((file.metadata() or {}).get("copo", "{}"))
            if not isinstance(facts, dict) or facts.get("format") != FORMAT:
                raise CopoError(f"{path} is not an open head: {rebuild}")
            if facts.get("version") != VERSION:
                raise CopoError(
                    f"open head {path} has version {facts.get('version')}, this program reads {VERSION}: {rebuild}"
                )
            missing = sorted(set(_REQUIRED) - set(file.keys()))
            if missing:
                raise CopoError(f"open head {path} lacks {missing[0]}: {rebuild}")
            return {name: file.get_tensor(name) for name in _REQUIRED}, facts
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, CopoError):
            raise
        reason = str(error).splitlines()[0]
        raise CopoError(f"open head {path} is truncated or not a safetensors file ({reason}): {rebuild}") from error


def _dense_units(arrays: Arrays, count: int) -> NDArray[np.float32]:
    """(52, C, 3) from the sparse storage."""
    start = arrays["expression_start"]
    dense = np.zeros((len(start) - 1, count, 3), dtype=np.float32)
    for unit, (begin, end) in enumerate(itertools.pairwise(start)):
        dense[unit, arrays["expression_vertex"][begin:end]] = arrays["expression_delta"][begin:end]
    return dense


def _subdivide(arrays: Arrays, control: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, C, 3) on the control vertices -> (K, V, 3) on the mesh."""
    start = arrays["subdivision_start"]
    shape = (len(start) - 1, control.shape[1])
    weights = scipy.sparse.csr_matrix((arrays["subdivision_weight"], arrays["subdivision_control"], start), shape=shape)
    columns = control.transpose(1, 0, 2).reshape(shape[1], -1)
    fine = (weights @ columns).reshape(shape[0], len(control), 3)
    return np.ascontiguousarray(fine.transpose(1, 0, 2))


def _float(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _index(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))
