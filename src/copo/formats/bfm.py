"""The Basel Face Model 2009 as Deep3DFaceRecon uses it: 35,709 vertices of the face's front, with an expression basis.

Two sources give the same model: `BFM_model_front.mat`, which that project's tools write, or the original files, from
which it is built here. The units are those of the published model: 0.1 m for shapes, 0..255 for textures.

The original files: `01_MorphableModel.mat` (53,490 vertices in micrometres, interleaved xyz; 199 components of shape
and texture with their standard deviations), `Exp_Pca.bin` (Guo et al. 2018: 53,215 vertices; an int32 number n of
components, the mean and then n components as float32) with `std_exp.txt`, and index files: `BFM_exp_idx.mat` (the
53,215 within the 53,490), `BFM_front_idx.mat` (the 35,709 within the 53,215) and `facemodel_info.mat` (triangles,
landmarks, masks). Indices in files count from one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from copo.errors import CopoError
from copo.factors import FactorSpec
from copo.formats.mat import MatField, read_mat

Array = NDArray[Any]
FRONT_FILE, RAW_FILE, EXPRESSION_FILE = "BFM_model_front.mat", "01_MorphableModel.mat", "Exp_Pca.bin"
RAW_VERTICES, EXPRESSION_VERTICES = 53_490, 53_215
SHAPE_SIZE, TEXTURE_SIZE, EXPRESSION_SIZE = 80, 80, 64
"""Components that the method keeps (paper, section 3.1)."""

MICROMETRES_TO_UNITS = 1e-5
"""A unit of the front model is 0.1 m."""

HOW_TO_GET = "docs/formats.md tells where each file comes from"


@dataclass(frozen=True)
class BfmFrontModel:
    """The front model, as stored (not recentred). V vertices, F triangles; indices count from zero.

    Attributes:
        mean_shape: (V, 3) float32, units of 0.1 m, x right in the frontal picture, y up, z to the front.
        mean_texture: (V, 3) float32 RGB in 0..255.
        shape_basis: (3 V, n) float32, interleaved xyz, for coefficients of N(0, 1).
        texture_basis: (3 V, n) float32, interleaved RGB, for coefficients of N(0, 1).
        expression_basis: (3 V, n) float32, interleaved xyz, for coefficients of N(0, 1).
        faces: (F, 3) int64, counter-clockwise seen from outside.
        vertex_faces: (V, 8) int64 triangles around each vertex; F stands for none.
        landmarks68: (68,) int64 vertices, iBUG order.
        skin_mask: (V,) float32, 1 on cheeks, nose and forehead.
    """

    mean_shape: Array
    mean_texture: Array
    shape_basis: Array
    texture_basis: Array
    expression_basis: Array
    faces: Array
    vertex_faces: Array
    landmarks68: Array
    skin_mask: Array


def bfm_spec(
    shape: int = SHAPE_SIZE, albedo: int = TEXTURE_SIZE, expression: int = EXPRESSION_SIZE, noise: int = 128
) -> FactorSpec:
    """The factor specification of the front model.

    The divisors in the flat vector are the published ones (paper, section 3.2). Expression coefficients are those of a
    PCA, about N(0, 1), of either sign; the range keeps out only what no training set holds.

    Args:
        shape: Number of shape coefficients.
        albedo: Number of albedo (texture) coefficients.
        expression: Number of expression coefficients.
        noise: Length of the noise code.
    """
    return FactorSpec(
        head="bfm09",
        shape=shape,
        albedo=albedo,
        expression_names=tuple(f"exp_{i:02d}" for i in range(expression)),
        illumination=27,
        noise=noise,
        expression_range=(-10.0, 10.0),
        normalisers={"shape": 4.2, "albedo": 9.0, "expression": 4.0, "illumination": 0.85, "noise": 1.0},
    )


def load_bfm(path: str | os.PathLike[str]) -> BfmFrontModel:
    """Read the front model.

    Args:
        path: `BFM_model_front.mat` itself, or a folder that holds it, or a folder with the original files
            `01_MorphableModel.mat` and `Exp_Pca.bin`. Index files are taken from the folder where it has them, else
            from the package.

    Raises:
        CopoError: A file is missing, truncated, of a wrong size, or inconsistent with the others.
    """
    path = Path(path)
    if path.is_file():
        return read_front_model(path)
    if not path.is_dir():
        raise CopoError(f"Basel Face Model: {path} does not exist; give a folder with {FRONT_FILE} or {RAW_FILE}")
    if (path / FRONT_FILE).is_file():
        return read_front_model(path / FRONT_FILE)
    return build_front_model(path)


def read_front_model(path: str | os.PathLike[str]) -> BfmFrontModel:
    """Read `BFM_model_front.mat`, with any number of vertices and components.

    Raises:
        CopoError: See `copo.formats.mat.read_mat`; also where the fields do not fit together.
    """
    path = Path(path)
    fields = {name: MatField((None,)) for name in ("meanshape", "meantex")}
    fields |= {name: MatField((None, None)) for name in ("idBase", "exBase", "texBase")}
    data = read_mat(path, fields | _CONNECTION_FIELDS)
    size = len(data["meanshape"])
    if not size or size % 3:
        raise CopoError(f"{path}: field 'meanshape' has {size} numbers: expected three for each vertex")
    for name in ("meantex", "idBase", "exBase", "texBase"):
        if len(data[name]) != size:
            raise CopoError(f"{path}: field {name!r} has {len(data[name])} rows, 'meanshape' has {size} numbers")
    return BfmFrontModel(
        mean_shape=data["meanshape"].reshape(-1, 3),
        mean_texture=data["meantex"].reshape(-1, 3),
        shape_basis=data["idBase"],
        texture_basis=data["texBase"],
        expression_basis=data["exBase"],
        **_connection(path, data, size // 3),
    )


def build_front_model(folder: str | os.PathLike[str]) -> BfmFrontModel:
    """Build the front model from the original files (see the module's first lines).

    Args:
        folder: Holds `01_MorphableModel.mat` and `Exp_Pca.bin`; its own index files go before the packaged ones.

    Raises:
        CopoError: A file is missing, truncated, of a wrong size, or inconsistent with the others.
    """
    folder = Path(folder)
    for name in (RAW_FILE, EXPRESSION_FILE):
        if not (folder / name).is_file():
            raise CopoError(f"Basel Face Model: {folder} has neither {FRONT_FILE} nor {name}; {HOW_TO_GET}")
    with _index_file(folder, "BFM_front_idx.mat") as path:
        in_expression = _indices(path, "idx", read_mat(path, {"idx": MatField((None,), True)}), EXPRESSION_VERTICES)
    with _index_file(folder, "BFM_exp_idx.mat") as path:
        field = MatField((EXPRESSION_VERTICES,), True)
        in_raw = _indices(path, "trimIndex", read_mat(path, {"trimIndex": field}), RAW_VERTICES)[in_expression]
    with _index_file(folder, "facemodel_info.mat") as path:
        connection = _connection(path, read_mat(path, _CONNECTION_FIELDS), len(in_raw))
    with _index_file(folder, "std_exp.txt") as path:
        deviations = _read_numbers(path, EXPRESSION_SIZE)
    components = _expression_components(folder / EXPRESSION_FILE, len(deviations))  # before the large file is read

    raw_fields: dict[str, MatField] = {}
    for kind in ("shape", "tex"):
        raw_fields[f"{kind}MU"] = MatField((3 * RAW_VERTICES,))
        raw_fields[f"{kind}PC"] = MatField((3 * RAW_VERTICES, None))
        raw_fields[f"{kind}EV"] = MatField((None,))
    raw_path = folder / RAW_FILE
    raw = read_mat(raw_path, raw_fields)
    rows = _coordinates(in_raw)
    shape_basis = _scaled_basis(raw_path, raw, "shape", SHAPE_SIZE, rows) * np.float32(MICROMETRES_TO_UNITS)
    expression_basis = components[:EXPRESSION_SIZE, _coordinates(in_expression)].T * deviations[:EXPRESSION_SIZE]
    return BfmFrontModel(
        mean_shape=raw["shapeMU"][rows].reshape(-1, 3) * np.float32(MICROMETRES_TO_UNITS),
        mean_texture=raw["texMU"][rows].reshape(-1, 3),
        shape_basis=shape_basis,
        texture_basis=_scaled_basis(raw_path, raw, "tex", TEXTURE_SIZE, rows),
        expression_basis=(expression_basis * np.float32(MICROMETRES_TO_UNITS)).astype(np.float32),
        **connection,
    )


# --- inside -----------------------------------------------------------------------------------------------------

_CONNECTION_FIELDS = {
    "tri": MatField((None, 3), integer=True),
    "point_buf": MatField((None, 8), integer=True),
    "keypoints": MatField((68,), integer=True),
    "skinmask": MatField((None,)),
}


@contextmanager
def _index_file(folder: Path, name: str) -> Iterator[Path]:
    """The folder's own index file, or the packaged one."""
    if (folder / name).is_file():
        yield folder / name
        return
    with resources.as_file(resources.files("copo") / "assets" / "bfm_index" / name) as packaged:
        yield packaged


def _connection(path: Path, data: Mapping[str, Array], count: int) -> dict[str, Array]:
    """Triangles, their neighbourhood, landmarks and skin of a model with `count` vertices."""
    for name in ("point_buf", "skinmask"):
        if len(data[name]) != count:
            raise CopoError(f"{path}: field {name!r} is for {len(data[name])} vertices, the model has {count}")
    return {
        "faces": _indices(path, "tri", data, count),
        "vertex_faces": _indices(path, "point_buf", data, len(data["tri"]) + 1),
        "landmarks68": _indices(path, "keypoints", data, count),
        "skin_mask": data["skinmask"],
    }


def _indices(path: Path, name: str, data: Mapping[str, Array], count: int) -> Array:
    """A field that counts from one, counted from zero and within `count`."""
    index = data[name] - 1
    if not index.size or index.min() < 0 or index.max() >= count:
        span = f"{index.min() + 1} to {index.max() + 1}" if index.size else "nothing"
        raise CopoError(f"{path}: field {name!r} holds {span}: expected indices from 1 to {count}")
    return index


def _coordinates(vertices: Array) -> Array:
    """Vertex indices to those of their interleaved coordinates, three for each."""
    return (3 * vertices[:, None] + np.arange(3)).ravel()


def _scaled_basis(path: Path, raw: Mapping[str, Array], kind: str, size: int, rows: Array) -> Array:
    """The first `size` components at `rows`, each times its standard deviation."""
    components, deviations = raw[f"{kind}PC"], raw[f"{kind}EV"]
    if components.shape[1] != len(deviations) or len(deviations) < size:
        raise CopoError(
            f"{path}: field '{kind}PC' has {components.shape[1]} components and '{kind}EV' {len(deviations)} "
            f"numbers: expected as many, at least {size}"
        )
    return components[:, :size][rows] * deviations[:size]


def _expression_components(path: Path, expected: int) -> Array:
    """(n, 3 x 53,215) components of `Exp_Pca.bin`, read as needed; the mean expression before them is skipped."""
    values = 3 * EXPRESSION_VERTICES
    with path.open("rb") as file:
        head = file.read(4)
    count = int.from_bytes(head, "little", signed=True) if len(head) == 4 else -1
    size, whole = path.stat().st_size, 4 + 4 * values * (1 + max(count, 0))
    if count != expected or size != whole:
        right = 4 + 4 * values * (1 + expected)
        raise CopoError(
            f"{path} has {size} bytes and says {count} components: expected {right} bytes and {expected} components; "
            "it is truncated or another file, fetch it again"
        )
    return np.memmap(path, dtype="<f4", mode="r", offset=4 + 4 * values, shape=(count, values))


def _read_numbers(path: Path, at_least: int) -> Array:
    try:
        numbers = np.array(path.read_text(encoding="ascii").split(), dtype=np.float32)
    except ValueError:  # also text that is not ASCII
        raise CopoError(f"{path} must hold numbers separated by spaces") from None
    if len(numbers) < at_least or not np.isfinite(numbers).all():
        raise CopoError(f"{path} holds {len(numbers)} numbers: expected at least {at_least}, all finite")
    return numbers
