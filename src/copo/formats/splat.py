"""Gaussian splats and coloured points as .ply files that common viewers open.

Splats use the layout of the 3D Gaussian Splatting release (Kerbl et al. 2023), which web viewers read:
x y z nx ny nz f_dc_0..2 opacity scale_0..2 rot_0..3, with logarithmic scales, opacity before the sigmoid, colour as
the constant spherical-harmonic coefficient and rotation as a quaternion w x y z. Coordinates stay ours: metres, y up;
viewers made for COLMAP scenes (y down) show the head upside down until it is turned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.formats.atomic import atomic_write
from copo.formats.mesh import color_bytes
from copo.formats.ply import write_ply
from copo.formats.provenance import Provenance

Array = NDArray[Any]
SH_CONSTANT = 0.28209479177387814
"""Value of the spherical harmonic of degree 0, 1 / (2 sqrt pi)."""


@dataclass(frozen=True)
class GaussianSplats:
    """A cloud of N Gaussians with one colour each.

    Attributes:
        positions: (N, 3) float32 metres, y up.
        colors: (N, 3) sRGB in [0, 1].
        opacities: (N,) in [0, 1].
        scales: (N, 3) standard deviation along each own axis, metres, above zero.
        rotations: (N, 4) quaternions w, x, y, z (normalised when written); None for no rotation.
        normals: (N, 3), or None for zeros.

    Raises:
        CopoError: Shapes do not fit together, or a number is not finite or a scale not positive.
    """

    positions: Array
    colors: Array
    opacities: Array
    scales: Array
    rotations: Array | None = None
    normals: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.positions)
        widths = {"positions": 3, "colors": 3, "opacities": 0, "scales": 3, "rotations": 4, "normals": 3}
        for name, width in widths.items():
            if (value := getattr(self, name)) is None:
                continue
            value = np.ascontiguousarray(value, dtype=np.float32)
            object.__setattr__(self, name, value)
            expected = (count, width) if width else (count,)
            if value.shape != expected:
                raise CopoError(f"splat {name} have shape {value.shape}: expected {expected}")
            if not np.isfinite(value).all():
                raise CopoError(f"splat {name} hold NaN or infinite numbers: drop those splats first")
        if (self.scales <= 0).any():
            raise CopoError("splat scales must be above zero: a Gaussian needs a width")

    def __len__(self) -> int:
        return len(self.positions)

    def keep(self, index: Array) -> GaussianSplats:
        """The splats at `index`: (M,) integers or a (N,) mask."""
        names = ("positions", "colors", "opacities", "scales", "rotations", "normals")
        return replace(self, **{n: v[index] for n in names if (v := getattr(self, n)) is not None})


def save_splats(path: str | os.PathLike[str], splats: GaussianSplats, provenance: Provenance | None = None) -> None:
    """Write splats as a 3D Gaussian Splatting .ply.

    Args:
        path: The .ply file to make, atomically.
        splats: What to write.
        provenance: The mark; by default that of a generated picture.

    Raises:
        CopoError: The suffix is not .ply, or the file cannot be written.
    """
    opacity = splats.opacities.astype(np.float64).clip(1e-6, 1 - 1e-6)
    rotation = np.zeros((len(splats), 4), np.float32)
    rotation[:, 0] = 1
    if splats.rotations is not None:
        length = np.linalg.norm(splats.rotations, axis=1, keepdims=True)
        rotation = np.where(length > 1e-12, splats.rotations / np.maximum(length, 1e-12), rotation)
    blocks: list[tuple[list[str], Array]] = [
        (["x", "y", "z"], splats.positions),
        (["nx", "ny", "nz"], np.zeros((len(splats), 3)) if splats.normals is None else splats.normals),
        (["f_dc_0", "f_dc_1", "f_dc_2"], (splats.colors - 0.5) / SH_CONSTANT),
        (["opacity"], np.log(opacity / (1 - opacity))[:, None]),
        (["scale_0", "scale_1", "scale_2"], np.log(splats.scales)),
        (["rot_0", "rot_1", "rot_2", "rot_3"], rotation),
    ]
    columns = [(name, values[:, i], "f4") for names, values in blocks for i, name in enumerate(names)]
    with atomic_write(_ply_path(path)) as temporary:
        write_ply(temporary, columns, None, provenance or Provenance())


def save_points(
    path: str | os.PathLike[str],
    positions: Array,
    colors: Array | None = None,
    normals: Array | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write a plain point cloud.

    Args:
        path: The .ply file to make, atomically.
        positions: (N, 3) metres, y up.
        colors: (N, 3) uint8 sRGB or floats in [0, 1], or None.
        normals: (N, 3) or None.
        provenance: The mark; by default that of a generated picture.

    Raises:
        CopoError: A shape does not fit, the suffix is not .ply, or the file cannot be written.
    """
    columns: list[tuple[str, Array, str]] = []
    colors = None if colors is None else color_bytes(np.asarray(colors))
    for names, values, kind in (
        (("x", "y", "z"), np.asarray(positions), "f4"),
        (("nx", "ny", "nz"), normals, "f4"),
        (("red", "green", "blue"), colors, "u1"),
    ):
        if values is None:
            continue
        if np.shape(values) != (len(positions), 3):
            raise CopoError(f"point cloud {names[0]}.. has shape {np.shape(values)}: expected ({len(positions)}, 3)")
        columns += [(name, values[:, i], kind) for i, name in enumerate(names)]
    with atomic_write(_ply_path(path)) as temporary:
        write_ply(temporary, columns, None, provenance or Provenance())


def _ply_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".ply":
        raise CopoError(f"cannot write points as {target.name!r}: end the name in .ply")
    return target
